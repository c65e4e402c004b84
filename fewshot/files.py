"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from fewshot.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, all of it or nothing: text as UTF-8, bytes as they are. A lone surrogate in text is escaped.

    Raises:
        OutputError: the file cannot be written; with its size, and the room left where the disk is full.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    replace_file(path, lambda temporary: _write(temporary, data), size=len(data))


def replace_file(path: str | os.PathLike[str], make: Callable[[Path], None], *, size: int | None = None) -> None:
    """Let ``make`` write a file beside ``path``, force it to the disk, and move it there in one step.

    A link stays a link, and what it leads to is replaced. An existing file keeps its permissions. What is no file, such
    as ``/dev/stdout`` or a named pipe, is written to.

    Args:
        path: where the file is to be.
        make: writes the file that it is given the path of; the path ends as ``path`` does.
        size: in bytes, where it is known, for the message.

    Raises:
        OutputError: the file cannot be written; what was there before still is.
    """
    try:
        kept = _mode(path)
        if kept is not None and not stat.S_ISREG(kept):
            _write_through(path, make)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(_temporary_name(target))
        try:
            make(temporary)
            if kept is not None:
                # Not every file system has permissions.
                with contextlib.suppress(OSError):
                    temporary.chmod(stat.S_IMODE(kept))
            sync(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync(target.parent)
    except OSError as error:
        raise cannot_write(path, error, size=size) from error


def cannot_write(path: str | os.PathLike[str], error: OSError, *, size: int | None = None) -> OutputError:
    """Say why something cannot be written, and what to do."""
    what = os.fspath(path) if size is None else f"{os.fspath(path)} ({show_size(size)})"
    if error.errno in _FULL:
        return OutputError(
            f"{what} cannot be written: the disk is full ({room(path)}). Make room, or choose another place."
        )
    return OutputError(f"{what} cannot be written: {error.strerror or error}. Choose another place.")


def room(path: str | os.PathLike[str]) -> str:
    """Say how much room is left where ``path`` lies or would lie."""
    place = Path(os.path.abspath(path))
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        return f"{show_size(shutil.disk_usage(place).free)} are free in {place}"
    except OSError:
        return "how much is free is not known"


def show_size(size: float) -> str:
    """Write a number of bytes for people: ``"1.5 GB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


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


def _temporary_name(target: Path) -> str:
    # The name's end stays: what writes pictures goes by it. Long ones would outgrow the 255 bytes of a name.
    end = target.suffix if len(os.fsencode(target.suffix)) <= 16 else ""
    return f".{uuid.uuid4().hex}{end}"


def _mode(path: str | os.PathLike[str]) -> int | None:
    """Type and permissions of what a path leads to; ``None`` where nothing is there."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _write_through(path: str | os.PathLike[str], make: Callable[[Path], None]) -> None:
    """Write into what is no file and cannot be replaced by one."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / f"file{Path(path).suffix}"
        make(temporary)
        with open(path, "wb") as handle:
            handle.write(temporary.read_bytes())


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as handle:
        handle.write(data)
