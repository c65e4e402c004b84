"""Tags of TIFF files and of EXIF, which is a TIFF file without pixels: read without trusting any count or offset."""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory.

    Attributes:
        number: what it says, such as 274, the orientation.
        kind: the type of its values, a number too.
        count: how many values it has.
        value: the first, where it is a whole number and stands in the entry itself.
    """

    number: int
    kind: int
    count: int
    value: int | None


class BrokenTagsError(ValueError):
    """A directory that cannot be read to its end."""


_MAX_ENTRIES = 0xFFFF
"""As many as a TIFF file can have; BigTIFF can count further."""

_FORMATS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}


# Bytes of one value: of numbers, of pairs of them, of text.
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def bytes_of_tags(data: bytes) -> int:
    """Count the bytes that the first directory's values take, each read for itself.

    Raises:
        BrokenTagsError: as :func:`first_directory`.
    """
    return sum(tag.count * _WIDTHS.get(tag.kind, 0) for tag in first_directory(data))


def first_directory(data: bytes, wanted: Container[int] | None = None) -> Iterator[Tag]:
    """Give the tags of the first directory of a TIFF or BigTIFF file, in its order; or the wanted ones only.

    Raises:
        BrokenTagsError: no TIFF header, or a directory that ends early.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise BrokenTagsError("no TIFF header")
    # The version, 42 or 43, is written in either order in the wild.
    big = 43 in data[2:4]
    try:
        (start,) = struct.unpack_from(order + "Q", data, 8) if big else struct.unpack_from(order + "L", data, 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        if entries > _MAX_ENTRIES:
            raise BrokenTagsError("too many entries")
        position, width, slot = start + (8 if big else 2), 20 if big else 12, 8 if big else 4
        for _ in range(entries):
            number, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHL"), data, position)
            if wanted is None or number in wanted:
                yield Tag(number, kind, count, _value(data, position + width - slot, order, kind, count, slot))
            position += width
    except (struct.error, OverflowError) as error:
        raise BrokenTagsError("the directory ends early") from error


def _value(data: bytes, position: int, order: str, kind: int, count: int, slot: int) -> int | None:
    code = _FORMATS.get(kind)
    if code is None or count < 1 or struct.calcsize(order + code) * count > slot:
        return None
    (value,) = struct.unpack_from(order + code, data, position)
    return int(value)
