"""Which way up a picture is, and whether what a camera or an editor wrote about it can be read at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from fewshot.images.tags import BrokenTagsError, first_directory

_ORIENTATION = 274
_PREFIX = b"Exif\0\0"
_XMP_ORIENTATION = re.compile(r'tiff:Orientation(?:="|>)([0-9])')

# What undoes each value: 6 means that the camera was turned by 90 degrees, so the picture is turned back by 270.
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, *, from_file: bool) -> tuple[Image.Image, bool]:
    """Turn a loaded picture as its EXIF or XMP data says.

    Args:
        image: what to turn.
        from_file: whether its metadata is that of a file; else a program may have changed it.

    Returns:
        The picture, and whether that data could be read; a picture without any has nothing broken in it.
    """
    orientation, readable = _orientation(image.info, image) if from_file else _from_pillow(image)
    undo = _UNDO.get(orientation) if isinstance(orientation, int) else None
    return (image if undo is None else image.transpose(undo)), readable


def profile_is_readable(profile: object) -> bool:
    """Whether a colour profile, if there is one, begins as profiles do; it is not used (see the reader)."""
    if profile == b"":
        return True
    return isinstance(profile, bytes) and len(profile) >= 128 and profile[36:40] == b"acsp"


def _orientation(info: Mapping[Any, Any], image: Image.Image) -> tuple[int, bool]:
    exif = info.get("exif")
    if isinstance(exif, bytes) and exif:
        orientation, readable = _from_exif(exif)
    elif image.format == "TIFF" or "Raw profile type exif" in info:
        return _from_pillow(image)
    else:
        orientation, readable = None, True
    return (_from_xmp(info) if orientation is None else orientation), readable


def _from_exif(exif: bytes) -> tuple[int | None, bool]:
    """Find the orientation in EXIF data, and whether it can be read. Pillow would unpack everything else in it too."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    orientation = None
    try:
        for tag in first_directory(exif, (_ORIENTATION,)):
            orientation = tag.value if orientation is None else orientation
    except BrokenTagsError:
        return orientation, False
    # 0 is not allowed, but is what many cameras write for not knowing.
    return orientation, orientation is None or 0 <= orientation <= 8


def _from_pillow(image: Image.Image) -> tuple[int, bool]:
    """Ask Pillow, which knows what a program has set, and a text that some old programs wrote into PNG files."""
    try:
        return image.getexif().get(_ORIENTATION, 0), True
    # Pillow raises almost anything on broken data.
    except Exception:
        return 0, False


def _from_xmp(info: Mapping[Any, Any]) -> int:
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp")
    text = xmp.decode("latin-1") if isinstance(xmp, bytes) else xmp
    found = _XMP_ORIENTATION.search(text) if isinstance(text, str) else None
    return int(found[1]) if found else 0
