"""Opening paths of any length: a path may be longer than the system takes at once (4,096 bytes on Linux)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK = 1000
"""Bytes of a path that are opened at once; macOS takes 1,024."""


def open_path(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a file or folder and return its descriptor, walking down a path that is too long in several steps.

    Raises:
        OSError: as :func:`os.open`; so where a single name is too long, or the system cannot walk.
    """
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or os.open not in os.supports_dir_fd:
            raise
    *folders, last = _chunks(os.path.abspath(path))
    handle: int | None = None
    try:
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
            if handle is not None:
                os.close(handle)
            handle = below
        return os.open(last, flags, dir_fd=handle)
    finally:
        if handle is not None:
            os.close(handle)


def stat_path(path: str | os.PathLike[str]) -> os.stat_result:
    """Look at a file or folder behind its links, whatever the length of its path, without opening pipes or devices.

    Raises:
        OSError: as :func:`os.stat`.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or os.open not in os.supports_dir_fd:
            raise
    folder, name = os.path.split(os.path.abspath(path))
    handle = open_path(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.stat(name, dir_fd=handle)
    finally:
        os.close(handle)


@contextmanager
def scan_path(path: str | os.PathLike[str]) -> Iterator[Iterator[os.DirEntry[str]]]:
    """List a folder as :func:`os.scandir` does, whatever the length of its path; an entry's ``path`` is not its path.

    Raises:
        OSError: as :func:`os.scandir`.
    """
    try:
        entries = os.scandir(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or os.scandir not in os.supports_fd:
            raise
    else:
        with entries:
            yield entries
        return
    handle = open_path(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(handle) as entries:
            yield entries
    finally:
        os.close(handle)


def _chunks(path: str) -> list[str]:
    """Cut an absolute path into pieces that can be opened one below the other."""
    pieces: list[str] = []
    size = 0
    for name in path.split(os.sep):
        added = len(os.fsencode(name)) + 1
        if pieces and size + added <= _CHUNK:
            pieces[-1] += os.sep + name
            size += added
        else:
            pieces.append(name)
            size = added
    return pieces
