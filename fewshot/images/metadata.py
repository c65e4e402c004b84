"""A file without what is beside the pixels: for pictures whose metadata is so broken that they do not even open."""

from __future__ import annotations

import struct

from fewshot.images.headers import jpeg_segments

# What Pillow reads besides pixels, and what makes an animation: the default picture does not need it.
_PNG_METADATA = frozenset((b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"pHYs", b"acTL", b"fcTL", b"fdAT"))
_APP0, _ADOBE, _COMMENT = 0xE0, 0xEE, 0xFE


def without_metadata(content: bytes) -> bytes | None:
    """Copy a JPEG or PNG file without its profiles, texts, EXIF data and further frames; ``None`` for other formats."""
    try:
        if content.startswith(b"\x89PNG"):
            return _png(content)
        if content.startswith(b"\xff\xd8"):
            return _jpeg(content)
    except struct.error:
        pass
    return None


def _png(content: bytes) -> bytes:
    parts, at = [content[:8]], 8
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">L", content, at)
        if content[at + 4 : at + 8] not in _PNG_METADATA:
            parts.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts)


def _jpeg(content: bytes) -> bytes:
    parts, kept = [], 0
    for marker, at in jpeg_segments(content):
        # The first and Adobe's tell how colours are stored.
        if marker == _COMMENT or (_APP0 < marker <= _APP0 + 15 and marker != _ADOBE):
            parts.append(content[kept : at - 2])
            kept = at + struct.unpack_from(">H", content, at)[0]
    return b"".join([*parts, content[kept:]])
