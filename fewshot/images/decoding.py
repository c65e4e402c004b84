"""Encoded bytes to pixels: what is refused, what is forgiven, and what is said about it."""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fewshot.errors import ImageError
from fewshot.images.bombs import check_size, refuse_bombs
from fewshot.images.exif import profile_is_readable, upright
from fewshot.images.failures import decoding_error, is_bomb, is_truncation
from fewshot.images.findings import Finding
from fewshot.images.formats import FORMATS, is_heif, not_an_image
from fewshot.images.heif import read_heif
from fewshot.images.limits import allowed_in_pillow, pixel_limit
from fewshot.images.metadata import without_metadata
from fewshot.images.payload import Payload
from fewshot.images.pixels import is_dark, is_deep, to_rgb
from fewshot.images.remarks import has_more_frames, remarks_on

_QUIET = threading.Lock()


def decode(payload: Payload, *, max_pixels: int | None = None, partial: bool = False) -> NDArray[np.uint8]:
    """Decode a payload to (H, W, 3) uint8 RGB; see :func:`read_image` for the rules and errors."""
    return examine(payload, max_pixels=max_pixels, partial=partial)[0]


def examine(
    payload: Payload, *, max_pixels: int | None = None, partial: bool = False
) -> tuple[NDArray[np.uint8], tuple[Finding, ...]]:
    """Decode a payload, and say what is unusual about it.

    Returns:
        (H, W, 3) uint8 RGB pixels, and findings about ``payload.name``, none for an ordinary picture:

        ``MULTI_FRAME`` an animation, several pages or views, of which the first was taken (info) ·
        ``OTHER_FORMAT`` another format than the name says (info) · ``TINY`` fewer than 8 pixels wide and high ·
        ``THIN`` more than 20 times as long as wide · ``BAD_METADATA`` EXIF data or a colour profile that cannot be
        read, and was ignored · ``PARTIAL`` a file that ends early, of which the missing part is black ·
        ``DARK`` 16-bit, 32-bit or float pixels that use less than a sixteenth of their range, as 12-bit values in
        16-bit files do: almost black.

    Raises:
        ImageError: as :func:`read_image`.
    """
    name, content, limit = payload.name, payload.content, pixel_limit(max_pixels)
    if not isinstance(content, bytes):
        return content, remarks_on(content.shape, name)
    try:
        refuse_bombs(content, limit, name)
        try:
            return _decode(content, name, limit, partial)
        # Python was told to make an error of every warning; what Pillow warns of does not cost the picture.
        except Warning:
            with _QUIET, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _decode(content, name, limit, partial)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise not_an_image(content, name) from None
    # Broken files make Pillow raise ValueError, SyntaxError, TypeError, struct.error and more, so all are caught.
    except Exception as error:
        raise decoding_error(error, name, content) from error


def _decode(content: bytes, name: str, limit: int, partial: bool) -> tuple[NDArray[np.uint8], tuple[Finding, ...]]:
    if is_heif(content):
        image, frames = read_heif(content, name, limit)
        pixels = to_rgb(image, name)
        return pixels, remarks_on(pixels.shape, name, format_="HEIF", frames=frames)
    with allowed_in_pillow(limit):
        image, readable = _open(content)
        with image:
            check_size(image.size, limit, name)
            # Before the pixels are: later there may be nothing left to look at.
            frames, format_ = has_more_frames(image), image.format or "unknown"
            deep = is_deep(image)
            whole = _load_pixels(image, content, partial)
            # What a file holds is not always what its header promised.
            check_size(image.size, limit, name)
            oriented, exif_readable = upright(image, from_file=True)
            readable = readable and exif_readable and profile_is_readable(image.info.get("icc_profile", b""))
            pixels = to_rgb(oriented, name)
    dark = deep and is_dark(pixels)
    findings = remarks_on(pixels.shape, name, format_=format_, frames=frames, readable=readable, whole=whole, dark=dark)
    return pixels, findings


def _open(content: bytes) -> tuple[Image.Image, bool]:
    """Open a picture, and tell whether its metadata let that happen at the first try."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS), True
    except Exception as error:
        bare = None if is_bomb(error) else without_metadata(content)
        if bare is None:
            raise
        try:
            return Image.open(io.BytesIO(bare), formats=FORMATS), False
        except Exception:
            raise error from None


def _load_pixels(image: Image.Image, content: bytes, partial: bool) -> bool:
    """Let Pillow decode; tell whether all of the picture was there."""
    try:
        image.load()
    except Exception as error:
        if not (partial and is_truncation(error, content)):
            raise
        # Without anything left to decode, Pillow gives what it has. Its own switch for this is for all threads at once.
        image.tile = []  # type: ignore[attr-defined]
        try:
            image.load()
            nothing = image.getbbox() is None
        except Exception:
            nothing = True
        if nothing:
            raise error from None
        return False
    return True
