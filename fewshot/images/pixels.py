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


def to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert a loaded picture to (H, W, 3) uint8 RGB.

    Raises:
        ImageError: ``NONFINITE``.
    """
    if image.mode.startswith(("I", "F")):
        grey = _scale_to_uint8(np.asarray(image), name)
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


def _scale_to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale integer or float grey values to 0..255 by the smallest natural range that holds them all.

    The ranges are 0..1 (floats), 0..255 and 0..65535; anything else is stretched from its minimum to its maximum.
    """
    is_float = np.issubdtype(values.dtype, np.floating)
    low, high = float(values.min()), float(values.max())
    # Not a number spreads to both, an infinity to one.
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("NONFINITE", name, "has NaN or infinite pixels; replace them and save again")
    start, factor = 0.0, 1.0
    if low >= 0 and is_float and high <= 1:
        factor = 255.0
    elif low >= 0 and high <= 255 and values.dtype.itemsize != 2:
        factor = 1.0
    elif low >= 0 and high <= 65535:
        factor = 1 / 257  # 65535 / 255: the full 16-bit range maps onto the full 8-bit range
    else:
        start, factor = low, 255 / ((high - low) or 1)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _AT_ONCE // values.shape[1])
    for top in range(0, len(values), rows):
        part = (values[top : top + rows].astype(np.float64) - start) * factor
        grey[top : top + rows] = np.rint(part)
    return grey
