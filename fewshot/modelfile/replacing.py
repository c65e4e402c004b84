"""Putting a folder in the place of another in one step, so that whoever looks finds the old one or the new one.

A fresh folder is built beside its place, forced to the disk, and exchanged with the old one by the system. Where the
system cannot exchange two names, the old folder is moved away first; whoever finds its place empty after a crash in
between moves it back. What a killed process left behind is removed by the next one. A lock on the folder around them
keeps two from working at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fewshot.files import sync

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FRESH, _OLD = ".saving", ".old"
_PATIENCE = 60.0
# Without locks, what is younger than a day may be another process's work.
_ABANDONED = 86_400.0


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make ``path`` a folder of exactly these files, all of them or none.

    Raises:
        OSError: it cannot be written; what was there before still is.
        TimeoutError: another process is busy there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent) as alone:
        _tidy(path, alone)
        fresh = _beside(path, _FRESH)
        try:
            fresh.mkdir()
            for name, data in files.items():
                with (fresh / name).open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            sync(fresh)
            _move(fresh, path)
            sync(path.parent)
        finally:
            # After an exchange this is the old folder.
            shutil.rmtree(fresh, ignore_errors=True)


def recover(path: Path) -> None:
    """Move an old folder back whose successor never came, where ``path`` is missing."""
    if os.path.lexists(path) or not list(_leftovers(path, _OLD)):
        return
    with _locked(path.parent) as alone:
        _tidy(path, alone)


def _move(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
    elif not exchange(fresh, path):
        old = _beside(path, _OLD)
        path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two folders' names in one step; ``False`` where the system or the file system cannot.

    Raises:
        OSError: it can, and failed.
    """
    call = _exchange_call()
    if call is None:
        return False
    ctypes.set_errno(0)
    if call(os.fsencode(first), os.fsencode(second)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), os.fspath(second))


@functools.cache
def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    """The system's function that exchanges two names, if it has one."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):
        return None
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        at, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
        return lambda a, b: int(library.renameat2(at, ctypes.c_char_p(a), at, ctypes.c_char_p(b), swap))
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda a, b: int(library.renamex_np(ctypes.c_char_p(a), ctypes.c_char_p(b), 2))  # RENAME_SWAP
    return None


def _beside(path: Path, ending: str) -> Path:
    # Of the name only a digest: with more, a name of 255 bytes would be too long.
    return path.with_name(f"{_prefix(path)}{uuid.uuid4().hex[:16]}{ending}")


def _prefix(path: Path) -> str:
    return f".fewshot-{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}-"


def _leftovers(path: Path, *endings: str) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for place in path.parent.iterdir():
            if place.name.startswith(_prefix(path)) and place.name.endswith(endings):
                yield place


def _tidy(path: Path, alone: bool) -> None:
    """Move back what a killed process had moved away, and remove the rest of what it left."""
    if not os.path.lexists(path):
        complete = [old for old in _leftovers(path, _OLD) if (old / "config.json").is_file()]
        if complete:
            complete[0].rename(path)
    for place in _leftovers(path, _FRESH, _OLD):
        with contextlib.suppress(OSError):
            if alone or time.time() - place.stat().st_mtime > _ABANDONED:
                shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Keep other processes from changing what lies in a folder; say whether that is possible here.

    The folder itself is locked, so nothing is left lying about; the system lets go when the process dies.
    """
    handle = -1
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY) if fcntl else -1
    try:
        yield handle >= 0 and _lock(handle, folder)
    finally:
        if handle >= 0:
            os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"another process has been saving there for {_PATIENCE:.0f} s", os.fspath(folder)
                ) from None
            time.sleep(0.02)
        # Not every file system can lock folders.
        except OSError:
            return False
        else:
            return True
