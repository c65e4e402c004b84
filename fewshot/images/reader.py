"""The one image reader: every rule about files, formats and pixel types lives here, once.

Training, prediction, the command line and the data audit all read through :func:`read_image`, so
orientation, transparency and 16-bit pixels mean the same everywhere.

Reason codes of :class:`~fewshot.errors.ImageError`:

``EMPTY`` no bytes · ``NOT_AN_IMAGE`` no image format recognised · ``UNSUPPORTED_FORMAT`` a format that is
off or needs an extra · ``TRUNCATED`` the file ends early · ``CORRUPT`` the pixels do not decode ·
``TOO_LARGE`` more pixels than the limit, refused from the header · ``NONFINITE`` NaN or infinite pixels ·
``PERMISSION`` unreadable · ``VANISHED`` no such file · ``NOT_A_FILE`` a folder, pipe or device ·
``BAD_ARRAY`` an array or object that is no image.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from fewshot.errors import ImageError
from fewshot.images.findings import Finding


class LazyImage(Protocol):
    """An image that is made when it is asked for; ``name``, where there is one, is shown in messages."""

    def load(self) -> ImageLike:
        """Give the image: a PIL image, an array, bytes or a path."""
        ...


ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | LazyImage"

MAX_PIXELS = 89_478_485
"""Images with more pixels than this are refused before decoding (Pillow's own limit: 256 MiB of RGB)."""

BACKGROUND = (255, 255, 255)
"""Transparent pixels are composited on white, the paper most cut-out pictures were made for."""

# An allow-list: EPS would start Ghostscript, FITS and PSD have a history of decompression bombs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")

# What people actually save under an image's name, recognised from the first bytes.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<?xml", "XML"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
# Pictures, but of formats that are off.
_OFF_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"<svg", "an SVG drawing"),
)
_TRUNCATION_WORDS = ("truncated", "unexpected end", "eof", "incomplete")
_ENDS_EARLY = "the file ends before the picture does; get it again"
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


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


def read_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read one image into RGB pixels.

    EXIF orientation is applied; the first frame of an animation is taken; transparency is composited on
    :data:`BACKGROUND`; 16-bit, 32-bit and float pixels are scaled to 0..255, never clipped.

    Args:
        source: a path, encoded bytes, a PIL image, a uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), or an
            object with a method ``load`` that returns one of these.
        max_pixels: larger images are refused from their header, before any pixel is decoded. Above Pillow's own
            limit, ``PIL.Image.MAX_IMAGE_PIXELS`` has to be raised too.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: with a reason code, for anything that cannot be read as an image.
    """
    return decode(read_payload(source), max_pixels=max_pixels)


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


def read_payload(source: ImageLike) -> Payload:
    """Read the bytes (or copy the pixels) of ``source`` without decoding.

    Raises:
        ImageError: the source cannot be opened, or is no image object.
    """
    name = source_name(source)
    content: bytes | NDArray[np.uint8]
    if isinstance(source, (str, os.PathLike)):
        content = _read_file(Path(source), name)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    elif isinstance(source, Image.Image):
        content = _pixels_of(source, name)
    elif isinstance(source, np.ndarray):
        content = _array_to_rgb(source, name)
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


def decode(payload: Payload, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a payload to (H, W, 3) uint8 RGB; see :func:`read_image` for the rules and errors."""
    return examine(payload, max_pixels=max_pixels)[0]


def examine(payload: Payload, *, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.uint8], tuple[Finding, ...]]:
    """Decode a payload, and say what is unusual about it.

    Returns:
        (H, W, 3) uint8 RGB pixels, and findings, whose ``images`` is ``(payload.name,)`` each; ordinary pictures have
        none. Their codes: ``MULTI_FRAME`` (info), ``TINY``, ``THIN``, ``OTHER_FORMAT``, ``BAD_METADATA`` (warnings).

    Raises:
        ImageError: as :func:`read_image`.
    """
    name, content = payload.name, payload.content
    if not isinstance(content, bytes):
        return content, ()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, max_pixels, name)
            return _to_rgb(image, name), ()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise _not_an_image(content, name) from None
    # Broken files make Pillow raise ValueError, SyntaxError, TypeError, struct.error and more, so all are caught.
    except Exception as error:
        raise _decoding_error(error, name, _ends_early(content)) from error


def _read_file(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file (a pipe, device or socket)"
            raise ImageError("NOT_A_FILE", name, f"this is {kind}; give the path of an image file")
        return path.read_bytes()
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("VANISHED", name, "no such file; check the path, or whether it was moved meanwhile") from None
    except PermissionError:
        raise ImageError("PERMISSION", name, "the file may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        raise ImageError("NOT_A_FILE", name, f"cannot be opened: {error}") from None


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
        raise _decoding_error(error, name, False) from error


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "TOO_LARGE",
            name,
            f"{width}x{height} pixels, more than the limit of {max_pixels}; raise max_pixels to allow",
        )


def _pixels_of(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if 0 in image.size:
        raise ImageError("BAD_ARRAY", name, "has no pixels")
    try:
        # A picture that PIL has opened is read from its file only here, and can be as broken as any file.
        return _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:
        raise _decoding_error(error, name, False) from error


def _decoding_error(error: Exception, name: str, ends_early: bool) -> ImageError:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(
            "TOO_LARGE", name, f"refused before decoding: {error} Set PIL.Image.MAX_IMAGE_PIXELS to allow it."
        )
    if isinstance(error, MemoryError):
        return ImageError("TOO_LARGE", name, "decoding ran out of memory")
    text = str(error).lower()
    if ends_early or (not isinstance(error, Warning) and any(word in text for word in _TRUNCATION_WORDS)):
        return ImageError("TRUNCATED", name, _ENDS_EARLY)
    return ImageError("CORRUPT", name, f"the pixels do not decode ({type(error).__name__}: {error})")


def _ends_early(content: bytes) -> bool:
    """Whether a JPEG, JPEG 2000, PNG, GIF or WebP file lacks its end."""
    if content.startswith((b"\xff\xd8\xff", b"\0\0\0\x0cjP  ")):
        return b"\xff\xd9" not in content
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in content
    if content.startswith(b"GIF8"):
        return not content.endswith(b";")
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    return False


def _not_an_image(content: bytes, name: str) -> ImageError:
    head = content[:512].lstrip().lower()
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return ImageError(
            "UNSUPPORTED_FORMAT",
            name,
            "a HEIC photo; run `pip install pillow-heif`, convert it with pillow_heif and save it as JPEG or PNG",
        )
    for signature, kind in _SIGNATURES:
        if head.startswith(signature.lower()):
            return ImageError("NOT_AN_IMAGE", name, f"this is {kind}, not an image, whatever its name says")
    for signature, kind in _OFF_SIGNATURES:
        if head.startswith(signature.lower()):
            return ImageError("UNSUPPORTED_FORMAT", name, f"this is {kind}; save it as JPEG or PNG")
    if _ends_early(content):
        return ImageError("TRUNCATED", name, _ENDS_EARLY)
    if content.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8")):
        return ImageError("CORRUPT", name, "the header does not decode; get the file again")
    is_text = not any(byte < 9 for byte in content[:512])
    return ImageError("NOT_AN_IMAGE", name, "this is a text file, not an image" if is_text else "no known image format")


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    # First, and outside what forgives broken EXIF: a second try of Pillow returns half of a truncated picture.
    image.load()
    mode = image.mode
    oriented = _apply_orientation(image)
    if mode == "La":
        oriented = oriented.convert("LA")
    if mode.startswith(("I", "F")):
        grey = _scale_to_uint8(np.asarray(oriented), name)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if mode in ("RGBA", "LA", "PA", "P", "La", "RGBa") or "transparency" in image.info:
        rgba = oriented.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        oriented = Image.alpha_composite(canvas, rgba)
    elif mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(oriented, lab, srgb, outputMode="RGB")
        oriented = oriented if converted is None else converted
    return np.array(oriented.convert("RGB"), dtype=np.uint8)


def _apply_orientation(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # Broken EXIF must not cost the picture; Pillow raises almost anything on it.
    except Exception:
        return image


def _scale_to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale integer or float grey values to 0..255 by the smallest natural range that holds them all.

    The ranges are 0..1 (floats), 0..255 and 0..65535; anything else is stretched from its minimum to its maximum.
    """
    is_16_bit = values.dtype.itemsize == 2
    is_float = np.issubdtype(values.dtype, np.floating)
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ImageError("NONFINITE", name, "has NaN or infinite pixels; replace them and save again")
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0 and is_float and high <= 1:
        scaled = numbers * 255
    elif low >= 0 and high <= 255 and not is_16_bit:
        scaled = numbers
    elif low >= 0 and high <= 65535:
        scaled = numbers / 257  # 65535 / 255: the full 16-bit range maps onto the full 8-bit range
    else:
        scaled = (numbers - low) * (255 / ((high - low) or 1))
    return np.rint(scaled).astype(np.uint8)


def _array_to_rgb(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise ImageError(
            "BAD_ARRAY", name, "needs uint8 values 0..255; for floats in 0..1 use (array * 255).round().astype('uint8')"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError("BAD_ARRAY", name, "needs the shape (height, width, 3), channels last, RGB")
    if array.shape[2] == 4:
        return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.array(array, order="C")  # a copy: the caller may go on writing into theirs
