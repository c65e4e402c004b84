"""Putting a folder in the place of another in one step, so that whoever looks finds the old one or the new one.

A fresh folder is built beside its place, forced to the disk, and exchanged with the old one by the system. Where the
system cannot exchange two names, the old folder is moved away first; whoever finds its place empty after a crash in
between moves it back. What a killed process left behind is removed by the next one. A lock on the folder around them
keeps two from working at once.

A mount point, and a folder in one that cannot be written to, stay where they are: their files are replaced one by one,
``config.json`` last. A crash in between leaves files that do not fit together, which loading refuses.
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

STAGED = ".fewshot-"
"""How the names of all begin that is here for a moment only."""

_FRESH, _OLD = ".saving", ".old"
# What a system answers where a folder itself cannot be replaced: it is a mount point, or what it lies in is closed.
_FIXED = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
_PATIENCE = 60.0
# Without locks, what is younger than a day may be another process's work.
_ABANDONED = 86_400.0


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make ``path`` a folder of exactly these files, all of them or none.

    Raises:
        OSError: it cannot be written; what was there before still is.
        TimeoutError: another process is busy there.
    """
    if os.path.ismount(path):
        _replace_files(path, files)
        return
    try:
        _replace_whole(path, files)
    except OSError as error:
        # Neither does everything that is mounted look so from inside, nor are permissions all there is.
        if error.errno not in _FIXED or not path.is_dir():
            raise
        _replace_files(path, files)


def _replace_whole(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent) as alone:
        _tidy(path, alone)
        fresh = _beside(path, _FRESH)
        try:
            _write(fresh, files)
            _move(fresh, path)
            sync(path.parent)
        finally:
            # After an exchange this is the old folder.
            shutil.rmtree(fresh, ignore_errors=True)


def _replace_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Replace the files of a folder that stays; on failure the former ones are put back."""
    with _locked(path) as alone:
        inside = path / "files"
        _remove_leftovers(inside, alone)
        fresh, old = _beside(inside, _FRESH), _beside(inside, _OLD)
        try:
            _write(fresh, files)
            _exchange_files(path, fresh, old, sorted(files, key="config.json".__eq__))
            sync(path)
        finally:
            for place in (fresh, old):
                shutil.rmtree(place, ignore_errors=True)


def _exchange_files(path: Path, fresh: Path, old: Path, names: list[str]) -> None:
    old.mkdir()
    moved: list[str] = []
    try:
        for name in names:
            if os.path.lexists(path / name):
                # The old file keeps its name until the new one takes it.
                _keep(path / name, old / name)
            os.replace(fresh / name, path / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            if os.path.lexists(old / name):
                os.replace(old / name, path / name)
            else:
                (path / name).unlink(missing_ok=True)
        raise


def _keep(file: Path, kept: Path) -> None:
    try:
        os.link(file, kept)
    except OSError:
        # Not every file system has hard links.
        shutil.copyfile(file, kept)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        with (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync(folder)


def present(path: Path) -> Path:
    """Find where a folder is: at ``path``, or under the name that a killed process had moved it to."""
    real = Path(os.path.realpath(path))
    return path if os.path.lexists(real) else next(_complete(real), path)


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
    return f"{STAGED}{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}-"


def _leftovers(path: Path, *endings: str) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for place in path.parent.iterdir():
            if place.name.startswith(_prefix(path)) and place.name.endswith(endings):
                yield place


def _complete(path: Path) -> Iterator[Path]:
    return (old for old in _leftovers(path, _OLD) if (old / "config.json").is_file())


def _tidy(path: Path, alone: bool) -> None:
    """Move back what a killed process had moved away, and remove the rest of what it left."""
    if not os.path.lexists(path):
        complete = next(_complete(path), None)
        if complete:
            complete.rename(path)
    _remove_leftovers(path, alone)


def _remove_leftovers(path: Path, alone: bool) -> None:
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
