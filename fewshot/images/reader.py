"""The one image reader: every rule about files, formats and pixel types lives here and in the modules beside it, once.

Training, prediction, the command line and the data audit all read through :func:`read_image`, so
orientation, transparency and 16-bit pixels mean the same everywhere.

::

    path -> opening -> bytes -> headers -> Pillow -> exif -> pixels -> (H, W, 3) uint8
            (files)            (bombs)               (which way up)

Reason codes of :class:`~fewshot.errors.ImageError`:

``EMPTY`` no bytes · ``NOT_AN_IMAGE`` no image format recognised · ``UNSUPPORTED_FORMAT`` a format that is
off or needs an extra · ``TRUNCATED`` the file ends early · ``CORRUPT`` the pixels do not decode ·
``TOO_LARGE`` more pixels, or bytes, than the limit, refused from the header · ``NONFINITE`` NaN or infinite pixels ·
``PERMISSION`` unreadable · ``VANISHED`` no such file · ``NOT_A_FILE`` a folder, pipe or device ·
``BAD_ARRAY`` an array or object that is no image.

Colour profiles are not applied. Pretrained networks have seen pixels as they are stored, and so do torchvision and
timm read them; besides, parsing profiles is one more thing that a hostile file could attack.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewshot.images.decoding import decode, examine
from fewshot.images.formats import FORMATS
from fewshot.images.limits import MAX_PIXELS
from fewshot.images.payload import ImageLike, LazyImage, Payload, read_payload, source_name
from fewshot.images.pixels import BACKGROUND

READER_VERSION = 3
"""Raised whenever some file comes out with other pixels than before: stored features are kept under it."""

__all__ = [
    "BACKGROUND",
    "FORMATS",
    "MAX_PIXELS",
    "READER_VERSION",
    "ImageLike",
    "LazyImage",
    "Payload",
    "decode",
    "examine",
    "read_image",
    "read_payload",
    "source_name",
]


def read_image(source: ImageLike, *, max_pixels: int | None = None, partial: bool = False) -> NDArray[np.uint8]:
    """Read one image into RGB pixels.

    EXIF orientation is applied; the first frame of an animation is taken; transparency is composited on
    :data:`BACKGROUND`; 16-bit, 32-bit and float pixels are scaled to 0..255:

    * 16 bits (PNG, TIFF, PGM, JPEG 2000): divided by 257, whatever the values are.
    * 32-bit integers: 0..255 stay as they are; of values beyond, the minimum (or 0) to the maximum (or 255) become
      0..255.
    * Floats of which 95 % or more lie within 0..1: times 255. The others are clipped if they are within -0.5..2, as
      resampling makes them; if not, the minimum (or 0) to the maximum become 0..255.
    * Other floats: 0..255 as 32-bit integers are; but if none is above 2, or more than 5 % are negative, the minimum
      (or 0) to the maximum become 0..255.

    :func:`examine` tells what is almost black after that (``DARK``).

    Args:
        source: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), or an
            object with a method ``load`` that returns one of these.
        max_pixels: larger images are refused from their header, before any pixel is decoded. By default the value of
            the environment variable ``FEWSHOT_MAX_PIXELS``, or :data:`MAX_PIXELS`.
        partial: of a file that ends early, give what is there; the rest is black. Formats that need the whole file,
            such as WebP and AVIF, are refused all the same.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: with a reason code, for anything that cannot be read as an image.
        InvalidInputError: a limit that is no positive whole number.
    """
    payload = read_payload(source, max_pixels=max_pixels)
    return decode(payload, max_pixels=max_pixels, partial=partial)
