"""HEIC photos, which Pillow does not read: with the extra ``heif``, and else a message that names it."""

from __future__ import annotations

import importlib
import io

from PIL import Image

from fewshot.errors import ImageError

# The second is the first with an encoder; who has it needs nothing more.
_READERS = ("pi_heif", "pillow_heif")


def open_heif(content: bytes, name: str) -> Image.Image:
    """Open a HEIC photo, without decoding it yet; the decoder turns it upright by itself.

    Raises:
        ImageError: ``UNSUPPORTED_FORMAT`` where the extra is not installed.
    """
    for reader in _READERS:
        try:
            image: Image.Image = importlib.import_module(reader).HeifImageFile(io.BytesIO(content))
        except ImportError:
            continue
        return image
    raise ImageError(
        "UNSUPPORTED_FORMAT",
        name,
        "a HEIC photo; run `pip install 'fewshot[heif]'` to read it, or save it as JPEG or PNG",
    )
