"""How large the picture in a file is, as its header promises: read before anything is allocated.

Pillow reads all of this too, but compares it with a limit of its own, some of it after memory was taken, and with a
Python warning. A header that is too broken to be understood here is left to Pillow, which says what is wrong with it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from fewshot.images.formats import DIB_HEADERS, is_webp
from fewshot.images.tags import first_directory

Size = tuple[int, int]

_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_CODESTREAM = b"\xff\x4f\xff\x51"


def promised_sizes(content: bytes) -> Iterator[Size]:
    """Give the widths and heights that a file says its picture, or a part of it, has.

    Raises:
        struct.error: the header ends early.
        BrokenTagsError: so does a TIFF file's.
    """
    if content.startswith(b"\x89PNG"):
        yield _png(content, 0)
    elif content.startswith(b"\xff\xd8"):
        yield from _jpeg(content)
    elif content.startswith(b"GIF8"):
        yield struct.unpack_from("<HH", content, 6)
    elif content.startswith(b"BM"):
        yield bitmap_size(content, 14)
    elif content.startswith(DIB_HEADERS):
        yield bitmap_size(content, 0)
    elif is_webp(content):
        yield from _webp(content)
    elif content.startswith((b"II", b"MM")):
        yield from _tiff(content)
    elif content.startswith(b"\0\0\1\0"):
        yield from _icons(content)
    elif content.startswith((b"\0\0\0\x0cjP  ", _CODESTREAM)):
        yield from _jpeg2000(content)
    elif content[4:8] == b"ftyp":
        for at in _places(content, b"ispe"):
            yield struct.unpack_from(">LL", content, at + 8)
    elif found := re.match(rb"P[1-6f]\s+(\d{1,18})\s+(\d{1,18})\s", content[:256]):
        yield int(found[1]), int(found[2])


def _places(content: bytes, word: bytes) -> Iterator[int]:
    at = content.find(word)
    # More than a few belong to data, not to headers.
    for _ in range(64):
        if at < 0:
            return
        yield at
        at = content.find(word, at + 1)


def _png(content: bytes, start: int) -> Size:
    width, height = struct.unpack_from(">LL", content, start + 16)
    return width, height


def bitmap_size(content: bytes, start: int) -> Size:
    """Give the size of a bitmap whose header begins at ``start``, after the file's own header if it has one."""
    (length,) = struct.unpack_from("<L", content, start)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ll", content, start + 4)
    return abs(width), abs(height)


def _jpeg(content: bytes) -> Iterator[Size]:
    for marker, at in jpeg_segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 3)
            yield width, height


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Give the marker of each of a JPEG's segments, and where its length stands, up to the first scan."""
    at = 2
    while at + 4 <= len(content):
        # Bytes between segments are skipped, as decoders do.
        at = content.find(b"\xff", at)
        if at < 0:
            return
        marker = content[at + 1] if at + 1 < len(content) else 0xD9
        at += 1
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            continue
        yield marker, at + 1
        if marker in (0xD9, 0xDA):
            return
        at += 1 + struct.unpack_from(">H", content, at + 1)[0]


def _webp(content: bytes) -> Iterator[Size]:
    kind = content[12:16]
    if kind == b"VP8X":
        yield (
            1 + int.from_bytes(content[24:27], "little"),
            1 + int.from_bytes(content[27:30], "little"),
        )
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<L", content, 21)
        yield 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        yield width & 0x3FFF, height & 0x3FFF


def _tiff(content: bytes) -> Iterator[Size]:
    largest: dict[int, int] = {}
    for tag in first_directory(content, (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT)):
        largest[tag.number] = max(largest.get(tag.number, 0), tag.value or 0)
    yield largest.get(_WIDTH, 0), largest.get(_HEIGHT, 0)
    yield largest.get(_TILE_WIDTH, 0), largest.get(_TILE_HEIGHT, 0)


def _icons(content: bytes) -> Iterator[Size]:
    (count,) = struct.unpack_from("<H", content, 4)
    for entry in range(count):
        (start,) = struct.unpack_from("<L", content, 6 + 16 * entry + 12)
        if content[start : start + 4] == b"\x89PNG":
            yield _png(content, start)
        else:
            width, height = bitmap_size(content, start)
            # The picture and its mask stand one above the other.
            yield width, height // 2


def _jpeg2000(content: bytes) -> Iterator[Size]:
    for at in _places(content, _CODESTREAM):
        right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6L", content, at + 8)
        yield right - left, bottom - top
        # A tile that is larger than the picture is cut to it.
        yield min(tile_width, right), min(tile_height, bottom)
