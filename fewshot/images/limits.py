"""How large a picture may be: one number, set by an argument, by the environment, or left as it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from fewshot.errors import InvalidInputError

MAX_PIXELS = 89_478_485
"""Images with more pixels than this are refused before decoding (Pillow's own limit: 256 MiB of RGB)."""

VARIABLE = "FEWSHOT_MAX_PIXELS"
"""The environment variable that takes the place of :data:`MAX_PIXELS`."""

_SMALLEST_FILE_LIMIT = 64 << 20
_BYTES_PER_PIXEL = 16


def pixel_limit(max_pixels: int | None = None) -> int:
    """Give the number of pixels allowed: the argument, else the environment's, else :data:`MAX_PIXELS`.

    Raises:
        InvalidInputError: a limit that is no positive whole number.
    """
    if max_pixels is None:
        text = os.environ.get(VARIABLE, "").strip()
        if not text:
            return MAX_PIXELS
        # 90_000_000 is read too.
        try:
            limit = int(text)
        except ValueError:
            limit = 0
        said = f"{VARIABLE}={text!r}"
    else:
        is_number = isinstance(max_pixels, int) and not isinstance(max_pixels, bool)
        limit, said = max_pixels if is_number else 0, f"max_pixels={max_pixels!r}"
    if limit < 1:
        raise InvalidInputError(f"{said}: needs a whole number of pixels, at least 1, such as {MAX_PIXELS}.")
    return limit


def byte_limit(max_pixels: int) -> int:
    """Give the size up to which a file is read: four channels of 32 bits for each pixel, stored as they are."""
    return max(_SMALLEST_FILE_LIMIT, _BYTES_PER_PIXEL * max_pixels)


_LOCK = threading.Lock()
_waiting: list[int] = []
_pillows_own: int | None = None


@contextmanager
def allowed_in_pillow(max_pixels: int) -> Iterator[None]:
    """Raise Pillow's limit while pictures are read that may be larger; threads may overlap.

    Pillow's limit belongs to the process. It is touched only where a larger one was asked for, never lowered, and put
    back when the last reader has left. What else reads pictures meanwhile goes by the larger one.
    """
    global _pillows_own
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _LOCK:
        if not _waiting:
            _pillows_own = Image.MAX_IMAGE_PIXELS
        _waiting.append(max_pixels)
        _raise_to(max(_waiting))
    try:
        yield
    finally:
        with _LOCK:
            _waiting.remove(max_pixels)
            if not _waiting:
                Image.MAX_IMAGE_PIXELS = _pillows_own


def _raise_to(max_pixels: int) -> None:
    current = Image.MAX_IMAGE_PIXELS
    if current is not None and current < max_pixels:
        Image.MAX_IMAGE_PIXELS = max_pixels
