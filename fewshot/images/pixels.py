"""Pixels of every kind to 8-bit RGB: grey, palettes, transparency, 16 bits, floats, CMYK and LAB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from fewshot.errors import ImageError

BACKGROUND = (255, 255, 255)
"""Transparent pixels are composited on white, the paper most cut-out pictures were made for."""

_TRANSPARENT = ("RGBA", "LA", "PA", "P", "La", "RGBa")

_AT_ONCE = 1 << 22
"""Pixels converted at a time: a larger picture goes in strips, so that it does not take several times its memory."""

_MOST, _OVERSHOOT = 0.95, (-0.5, 2.0)
"""The share of a float picture's pixels that tells its range, and how far resampling may take the others."""

_DARK = 17
"""The brightest that 12-bit values become in a 16-bit file is 4095 / 257 = 16."""


def to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert a loaded picture to (H, W, 3) uint8 RGB.

    Raises:
        ImageError: ``NONFINITE``.
    """
    if image.mode.startswith(("I", "F")):
        # Pillow gives 16-bit PGM as 32-bit integers.
        sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
        grey = _scale_to_uint8(np.asarray(image), name, sixteen=sixteen)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    width, height = image.size
    rows = _AT_ONCE // width + 1
    if rows >= height:
        return np.array(_to_rgb(image))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(part))
    return pixels


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture, whose pixels are not loaded yet, has values of more than 8 bits."""
    # Colours of 16 bits are cut to 8 as they are loaded; how they are stored tells.
    cut = image.format in ("PNG", "TIFF") and ";16" in str(getattr(image, "tile", [])[:1])
    return cut or image.mode.startswith(("I", "F"))


def is_dark(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture of more than 8 bits, now (H, W, 3) RGB, used a sixteenth of its range or less, but some."""
    return 0 < int(pixels.max()) < _DARK


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba)
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        image = image if converted is None else converted
    return image if image.mode == "RGB" else image.convert("RGB")


def array_to_rgb(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Copy an array of pixels as (H, W, 3) uint8 RGB.

    Args:
        array: uint8 of shape (H, W, 3), (H, W, 4) with alpha, (H, W, 1) or (H, W).
        name: for messages.

    Raises:
        ImageError: ``BAD_ARRAY``.
    """
    if array.dtype != np.uint8:
        raise ImageError(
            "BAD_ARRAY", name, "needs uint8 values 0..255; for floats in 0..1 use (array * 255).round().astype('uint8')"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError("BAD_ARRAY", name, "needs the shape (height, width, 3), channels last, RGB")
    if array.shape[2] == 4:
        return to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.array(array, order="C")  # a copy: the caller may go on writing into theirs


def _scale_to_uint8(values: NDArray[Any], name: str, *, sixteen: bool) -> NDArray[np.uint8]:
    """Scale integer or float grey values (H, W) to 0..255, along a straight line from :func:`_range_of`'s two ends.

    Raises:
        ImageError: ``NONFINITE``.
    """
    low, high = float(values.min()), float(values.max())
    # Not a number spreads to both, an infinity to one.
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("NONFINITE", name, "has NaN or infinite pixels; replace them and save again")
    # 65535 / 255 = 257: the full 16-bit range maps onto the full 8-bit range.
    black, white = (0.0, 65535.0) if sixteen else _range_of(values, low, high)
    factor = 255 / ((white - black) or 1)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _AT_ONCE // values.shape[1])
    for top in range(0, len(values), rows):
        part = (values[top : top + rows].astype(np.float64) - black) * factor
        grey[top : top + rows] = np.rint(part).clip(0, 255)
    return grey


def _range_of(values: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Find what is black and what is white in 32-bit or float values between ``low`` and ``high``.

    Such files do not say what their values mean, so it is told from the values, in a way that one pixel that is a
    little beyond a range moves the ends a little, and does not turn the rest of the picture black:

    * 32-bit integers, and floats that none of the next rules is for: 0..255 as they are; what goes beyond moves that
      end to the minimum or the maximum.
    * Floats of which 95 % or more lie within 0..1: 0..1. What resampling makes overshoot, within -0.5..2, is clipped,
      the only case in which values are; what goes further moves that end, and nothing is clipped.
    * Other floats that are at most 2, or of which more than 5 % are negative: from the minimum, or 0 if that is less,
      to the maximum.
    """
    lowest = min(0.0, low)
    if np.issubdtype(values.dtype, np.floating):
        needed = _MOST * values.size
        if np.count_nonzero((values >= 0) & (values <= 1)) >= needed:
            overshoots = low >= _OVERSHOOT[0] and high <= _OVERSHOOT[1]
            return (0.0, 1.0) if overshoots else (lowest, max(1.0, high))
        if high <= _OVERSHOOT[1] or np.count_nonzero(values >= 0) < needed:
            return lowest, high
    return lowest, max(255.0, high)
