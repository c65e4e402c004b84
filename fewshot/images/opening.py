"""Opening what a path leads to, without waiting for it and without being flooded by it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fewshot.errors import ImageError
from fewshot.images.formats import is_image, not_an_image
from fewshot.images.paths import open_path, stat_path

# Without O_NONBLOCK, opening a pipe waits for a writer; without O_NOCTTY, a terminal may become this process's own.
_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _flag, 0)

_BLOCK = 1 << 20
_HEAD = 4096


def read_file(path: Path, name: str, max_bytes: int) -> bytes:
    """Read an ordinary file of at most ``max_bytes`` bytes.

    Raises:
        ImageError: ``NOT_A_FILE``, ``VANISHED``, ``PERMISSION`` or ``TOO_LARGE``; ``NOT_AN_IMAGE`` for a large file
            that does not even begin as an image does.
    """
    try:
        # Devices are not even opened: opening some does something.
        _check_kind(stat_path(path).st_mode, name)
        descriptor = open_path(path, _FLAGS)
        try:
            # Another file may have taken its place meanwhile.
            found = os.fstat(descriptor)
            _check_kind(found.st_mode, name)
            return _read(descriptor, found.st_size, name, max_bytes)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ImageError("VANISHED", name, "no such file; check the path, or whether it was moved meanwhile") from None
    except PermissionError:
        raise ImageError("PERMISSION", name, "the file may not be read; check its permissions") from None
    except MemoryError:
        raise ImageError("TOO_LARGE", name, "there is not enough memory for the file") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError("NOT_A_FILE", name, f"cannot be opened: {error}") from None


def _check_kind(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file (a pipe, device or socket)"
        raise ImageError("NOT_A_FILE", name, f"this is {kind}; give the path of an image file")


def _read(descriptor: int, size: int, name: str, max_bytes: int) -> bytes:
    if size > max_bytes:
        raise _too_large(size, name, max_bytes)
    blocks: list[bytes] = []
    length = 0
    if size > _BLOCK:
        blocks.append(os.read(descriptor, _HEAD))
        length = len(blocks[0])
        if not is_image(blocks[0]):
            raise not_an_image(blocks[0], name)
    # A file may grow while it is read, and one of /proc has no size: then it is read on until it ends, or is too long.
    while block := os.read(descriptor, size + 1 - length if length <= size else _BLOCK):
        blocks.append(block)
        length += len(block)
        if length > max_bytes:
            raise _too_large(length, name, max_bytes)
        if length == size:
            break
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _too_large(size: int, name: str, max_bytes: int) -> ImageError:
    return ImageError(
        "TOO_LARGE",
        name,
        f"the file has {size} bytes or more, and {max_bytes} are the limit (16 for each allowed pixel); "
        "raise FEWSHOT_MAX_PIXELS to allow it",
    )
