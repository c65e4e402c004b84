"""What a decoder's failure means: a bomb, a file that ends early, or a broken one."""

from __future__ import annotations

from PIL import Image

from fewshot.errors import ImageError
from fewshot.images.formats import ENDS_EARLY, ends_early

_TRUNCATION_WORDS = ("truncated", "unexpected end", "eof", "incomplete")


def decoding_error(error: Exception, name: str, content: bytes) -> ImageError:
    """Say what a decoder's error means for the user.

    Args:
        error: anything a decoder raised.
        name: of the picture.
        content: its bytes, or none where it was not a file.
    """
    if is_bomb(error):
        return ImageError("TOO_LARGE", name, f"refused before it was unpacked: {error}")
    if isinstance(error, MemoryError):
        return ImageError("TOO_LARGE", name, "decoding ran out of memory")
    if is_truncation(error, content):
        return ImageError("TRUNCATED", name, ENDS_EARLY)
    return ImageError("CORRUPT", name, f"the pixels do not decode ({type(error).__name__}: {error})")


def is_bomb(error: Exception) -> bool:
    """Whether a decoder refused to unpack something for its size."""
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    return isinstance(error, bombs) or "Decompressed data too large" in str(error)


def is_truncation(error: Exception, content: bytes) -> bool:
    """Whether the file ends before the picture does."""
    if ends_early(content):
        return True
    return not isinstance(error, Warning) and any(word in str(error).lower() for word in _TRUNCATION_WORDS)
