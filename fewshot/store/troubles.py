"""What an error of the database means for the store."""

from __future__ import annotations

import enum
import errno
import os
import sqlite3
from pathlib import Path

from fewshot.store.gate import BusyError


class Trouble(enum.Enum):
    """What went wrong, by what can be done about it."""

    DAMAGED = "damaged"
    FULL = "full"
    BUSY = "busy"
    UNUSABLE = "unusable"


_BY_CODE = {
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
    sqlite3.SQLITE_FORMAT: Trouble.DAMAGED,
    sqlite3.SQLITE_INTERNAL: Trouble.DAMAGED,
    # What follows cannot happen with a sound table: its statements are fixed, and their values fit.
    sqlite3.SQLITE_ERROR: Trouble.DAMAGED,
    sqlite3.SQLITE_TOOBIG: Trouble.DAMAGED,
    sqlite3.SQLITE_CONSTRAINT: Trouble.DAMAGED,
    sqlite3.SQLITE_MISMATCH: Trouble.DAMAGED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
}
# A file that ends early, and a limit on the size of files, which SQLite reports as a failed write.
_BY_EXTENDED_CODE = {
    sqlite3.SQLITE_IOERR_SHORT_READ: Trouble.DAMAGED,
    sqlite3.SQLITE_IOERR_WRITE: Trouble.FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: Trouble.FULL,
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT_WRITE_BESIDE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL)
_CANNOT_SHARE_MEMORY = (
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMLOCK,
)


def trouble_of(error: Exception, path: Path) -> Trouble:
    """Classify an error that came from using the database at ``path``."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        if code in _BY_EXTENDED_CODE:
            return _BY_EXTENDED_CODE[code]
        if code & 0xFF == sqlite3.SQLITE_READONLY and _may_be_written(path):
            # A header that says that only newer versions may write.
            return Trouble.DAMAGED
        return _BY_CODE.get(code & 0xFF, Trouble.UNUSABLE)
    if isinstance(error, BusyError):
        return Trouble.BUSY
    if isinstance(error, OSError):
        return Trouble.FULL if error.errno in _NO_ROOM else Trouble.UNUSABLE
    # SQLite quotes a damaged schema in its message, and Python then fails to decode that.
    return Trouble.DAMAGED if isinstance(error, UnicodeDecodeError) else Trouble.UNUSABLE


def is_read_only(error: sqlite3.Error) -> bool:
    """Whether a database may still be read where the files that SQLite wants beside it cannot be made."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _CANNOT_WRITE_BESIDE or code in _CANNOT_SHARE_MEMORY


def _may_be_written(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
