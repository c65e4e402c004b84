"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from fewshot.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, all of it or nothing: text as UTF-8, bytes as they are. A lone surrogate in text is escaped.

    Raises:
        OutputError: the file cannot be written; with the size and the room left where the disk is full.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    replace_file(path, lambda temporary: _write(temporary, data))


def replace_file(path: str | os.PathLike[str], make: Callable[[Path], None]) -> None:
    """Let ``make`` write a file beside ``path``, force it to the disk, and move it there in one step.

    Raises:
        OutputError: the file cannot be written; what was there before still is.
    """
    target = Path(os.path.realpath(path))
    # The name's end stays: what writes pictures goes by it.
    temporary = target.with_name(f".{uuid.uuid4().hex}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(temporary)
            sync(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync(target.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """Say why something cannot be written, and what to do."""
    if error.errno in _FULL:
        return OutputError(
            f"{os.fspath(path)} cannot be written: the disk is full ({room(path)}). Make room, or choose another place."
        )
    return OutputError(f"{os.fspath(path)} cannot be written: {error.strerror or error}. Choose another place.")


def room(path: str | os.PathLike[str]) -> str:
    """Say how much room is left where ``path`` lies or would lie."""
    place = Path(os.path.abspath(path))
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return f"{shutil.disk_usage(place).free / 1e6:.1f} MB are free in {place}"
    except OSError:
        return "how much is free is not known"


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk, where the system lets folders be opened."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        # A full disk may be noticed only now; folders cannot be synchronised everywhere.
        if error.errno in _FULL:
            raise
    finally:
        os.close(handle)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as handle:
        handle.write(data)
