"""The gate before a store: many may use the file at once, and whoever replaces or removes it does so alone.

SQLite keeps two files besides the database and finds them by its name. Renaming a database that another process has
open would let that process write into the files of the next one. So everyone who opens the database holds a shared
lock on a file beside it, and whoever moves it away holds that lock alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can be neither renamed nor removed: no gate is needed.
    fcntl = None  # type: ignore[assignment]

_PATIENCE = 30.0
"""Seconds to wait for others."""


class BusyError(OSError):
    """Others kept the store for longer than anyone should."""


@contextmanager
def gate(path: Path, *, alone: bool = False, make: bool = True) -> Iterator[bool]:
    """Hold the lock of the store at ``path``.

    Args:
        path: the database file; the lock is a file beside it that is never removed.
        alone: wait until nobody else is inside, and let nobody in.
        make: make the lock's file where it is missing.

    Yields:
        Whether a lock is held. Where files cannot be locked, or none can be made, it is not, and nothing may be
        moved away.

    Raises:
        BusyError: others did not leave within half a minute.
    """
    # A folder is no store, and is left without files beside it.
    make = make and not path.is_dir()
    # Two locks: who wants to be alone closes the outer door first. Otherwise newcomers would keep it waiting for ever.
    with _file(f"{path}.lock", make) as door, _file(f"{path}.inner.lock", make) as room:
        if door is None or room is None:
            yield fcntl is None
            return
        try:
            _acquire(door, exclusive=True)
            _acquire(room, exclusive=alone)
            fcntl.flock(door, fcntl.LOCK_UN)
        except BusyError:
            raise
        # A network drive without locks.
        except OSError:
            yield False
            return
        yield True


@contextmanager
def _file(name: str, make: bool) -> Iterator[int | None]:
    handle = None
    if fcntl is not None:
        # A read-only or full disk.
        with suppress(OSError):
            handle = _open(name, make)
    try:
        yield handle
    finally:
        if handle is not None:
            # Closing alone would not do: a process forked meanwhile shares the lock.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _open(name: str, make: bool) -> int:
    try:
        # A lock needs no right to write: the file may be another user's.
        return os.open(name, os.O_RDONLY)
    except FileNotFoundError:
        if not make:
            raise
        return os.open(name, os.O_RDONLY | os.O_CREAT, 0o666)


def _acquire(handle: int, *, exclusive: bool) -> None:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    deadline, pause = time.monotonic() + _PATIENCE, 0.0005
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BusyError(f"other processes have kept it for {_PATIENCE:.0f} s") from None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
