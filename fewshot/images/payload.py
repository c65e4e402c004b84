"""An image as it is given: a path, bytes, pixels or an object that loads one, read once and named by its content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.errors import ImageError
from fewshot.images.bombs import check_size
from fewshot.images.exif import upright
from fewshot.images.failures import decoding_error
from fewshot.images.limits import byte_limit, pixel_limit
from fewshot.images.opening import read_file
from fewshot.images.pixels import array_to_rgb, to_rgb


class LazyImage(Protocol):
    """An image that is made when it is asked for; ``name``, where there is one, is shown in messages."""

    def load(self) -> ImageLike:
        """Give the image: a PIL image, an array, bytes or a path."""
        ...


ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | LazyImage"


@dataclass(frozen=True)
class Payload:
    """An image as received: its bytes or its pixels, read exactly once, and the digest of these.

    Attributes:
        name: the path, or a description of the object, for messages.
        content: encoded bytes, or (H, W, 3) uint8 RGB pixels.
        digest: hexadecimal BLAKE2 digest of ``content``; equal digests mean equal images.
    """

    name: str
    content: bytes | NDArray[np.uint8]
    digest: str


def source_name(source: ImageLike) -> str:
    """Name a source for messages and tables: its path, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<PIL image {source.mode} {source.size[0]}x{source.size[1]}>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, np.ndarray):
        return f"<array {'x'.join(map(str, source.shape))} {source.dtype}>"
    return str(getattr(source, "name", "")) or f"<{type(source).__name__}>"


def read_payload(source: ImageLike, *, max_pixels: int | None = None) -> Payload:
    """Read the bytes (or copy the pixels) of ``source`` without decoding.

    Args:
        source: as in :func:`read_image`.
        max_pixels: files of more than 16 bytes for each of these (and 64 MiB) are not read.

    Raises:
        ImageError: the source cannot be opened, or is no image object.
        InvalidInputError: a limit that is no positive whole number.
    """
    name = source_name(source)
    content: bytes | NDArray[np.uint8]
    if isinstance(source, (str, os.PathLike)):
        content = read_file(Path(source), name, byte_limit(pixel_limit(max_pixels)))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    elif isinstance(source, Image.Image):
        content = _pixels_of(source, name, pixel_limit(max_pixels))
    elif isinstance(source, np.ndarray):
        content = array_to_rgb(source, name)
    elif callable(getattr(source, "load", None)):
        content = _load(source, name)
    else:
        raise ImageError(
            "BAD_ARRAY", name, "not an image; give a path, bytes, a PIL image or a uint8 array (height, width, 3)"
        )
    if isinstance(content, bytes):
        if not content:
            raise ImageError("EMPTY", name, "the file has no bytes")
        digest = hashlib.blake2b(content, digest_size=16)
    else:
        digest = hashlib.blake2b(repr(content.shape).encode() + content.tobytes(), digest_size=16)
    return Payload(name, content, digest.hexdigest())


def _load(source: LazyImage, name: str) -> bytes | NDArray[np.uint8]:
    try:
        loaded = source.load()
        # What is loaded must be an image at last: a source that gives itself would never end.
        if not isinstance(loaded, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)):
            kind = type(loaded).__name__
            raise ImageError("BAD_ARRAY", name, f"loads as {kind}, not as a PIL image, uint8 array, bytes or path")
        return read_payload(loaded).content
    except ImageError as error:
        raise ImageError(error.code, name, error.message) from None
    except FileNotFoundError as error:
        raise ImageError("VANISHED", name, f"its file is gone ({error})") from None
    # Whoever wrote the source may raise anything.
    except Exception as error:
        raise decoding_error(error, name, b"") from error


def _pixels_of(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    if 0 in image.size:
        raise ImageError("BAD_ARRAY", name, "has no pixels")
    try:
        # A picture that PIL has opened is read from its file only here, and can be as broken as any file.
        if getattr(image, "tile", None):
            check_size(image.size, max_pixels, name)
        image.load()
        return to_rgb(upright(image, from_file=False)[0], name)
    except ImageError:
        raise
    except Exception as error:
        raise decoding_error(error, name, b"") from error
