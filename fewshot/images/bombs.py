"""Bombs: files that need far more memory or time than their size lets expect, refused before a decoder is let in."""

from __future__ import annotations

import contextlib
import itertools
import struct

from fewshot.errors import ImageError
from fewshot.images.formats import DIB_HEADERS
from fewshot.images.headers import Size, bitmap_size, jpeg_segments, promised_sizes
from fewshot.images.tags import BrokenTagsError, bytes_of_tags, first_directory

_MAX_STRIPS = 1 << 18
"""Strips or tiles in a TIFF file: each becomes several Python objects when the file is opened."""

_MAX_UNPACKED = 4
"""Bytes of a TIFF file's tags for each of its bytes; 1 where no two of them share any."""

_MAX_SCANS = 200
"""Scans in a progressive JPEG; encoders write about ten. Each one costs as much time as the whole picture."""

_MAX_SEGMENTS, _MAX_EXIF = 10_000, 100
"""Segments before the first scan, and those of EXIF data among them: Pillow keeps the first, and joins the others."""

_MAX_RUNS = 1 << 24
"""Pixels of a run-length encoded bitmap, which Pillow decodes in Python."""

_STRIPS, _TILES = 273, 324
_APP1 = 0xE1
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


def check_size(size: Size, max_pixels: int, name: str) -> None:
    """Refuse a picture of more pixels than the limit.

    Raises:
        ImageError: ``TOO_LARGE``.
    """
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "TOO_LARGE",
            name,
            f"{width}x{height} pixels, more than the limit of {max_pixels}; raise max_pixels or FEWSHOT_MAX_PIXELS "
            "to allow it",
        )


def refuse_bombs(content: bytes, max_pixels: int, name: str) -> None:
    """Refuse what would need more memory or time than ``max_pixels`` pixels can.

    Raises:
        ImageError: ``TOO_LARGE``.
    """
    # What cannot be read here is for the decoder to complain about.
    for check in (_check_segments, _check_strips, _check_runs):
        with contextlib.suppress(struct.error, BrokenTagsError):
            check(content, name)
    with contextlib.suppress(struct.error, BrokenTagsError):
        for size in promised_sizes(content):
            check_size(size, max_pixels, name)


def _check_strips(content: bytes, name: str) -> None:
    if content.startswith((b"II", b"MM")):
        strips = max((tag.count for tag in first_directory(content, (_STRIPS, _TILES))), default=0)
        if strips > _MAX_STRIPS:
            raise ImageError("TOO_LARGE", name, f"a TIFF file of {strips} strips; save it as PNG, or with fewer")
        # Values may overlap, and then unpack to far more than the file.
        if bytes_of_tags(content) > _MAX_UNPACKED * len(content):
            raise ImageError("TOO_LARGE", name, "a TIFF file whose tags unpack to many times its size; save it again")


def _check_segments(content: bytes, name: str) -> None:
    if not content.startswith(b"\xff\xd8"):
        return
    segments = list(itertools.islice(jpeg_segments(content), _MAX_SEGMENTS + 1))
    exif = sum(marker == _APP1 and content.startswith(b"Exif", at + 2) for marker, at in segments)
    if len(segments) > _MAX_SEGMENTS or exif > _MAX_EXIF:
        raise ImageError("TOO_LARGE", name, "a JPEG of too many segments before the picture; save it again")
    if not any(marker in _PROGRESSIVE for marker, _ in segments):
        return
    # Within a scan 0xFF is followed by 0 or a restart marker, so that these are the picture's end and its scans.
    first = segments[-1][1] - 2
    end = content.find(b"\xff\xd9", first)
    scans = content.count(b"\xff\xda", first, end if end > 0 else len(content))
    if scans > _MAX_SCANS:
        raise ImageError("TOO_LARGE", name, f"a JPEG of {scans} scans would take too long; save it again")


def _check_runs(content: bytes, name: str) -> None:
    start = 14 if content.startswith(b"BM") else 0
    if not content.startswith(DIB_HEADERS, start) or content[start] == 12:
        return
    (compression,) = struct.unpack_from("<L", content, start + 16)
    width, height = bitmap_size(content, start)
    if compression in (1, 2) and width * height > _MAX_RUNS:
        raise ImageError("TOO_LARGE", name, f"a run-length encoded bitmap of {width}x{height} pixels; save it as PNG")
