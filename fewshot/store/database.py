"""The store's SQLite database: its table, and reading, writing and removing rows. Errors are left to the caller."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

USE_STEP = 3600
"""Seconds. The time of last use is kept this coarsely: reading a vector writes at most once an hour."""

PAGE = 4096
"""Bytes in a page; three vectors of 1,280 share one, and have one more each."""

_SCHEMA = (
    # `used` stands before what is large, in the part of a row that is rewritten when it changes.
    "CREATE TABLE IF NOT EXISTS features (id INTEGER PRIMARY KEY, used INTEGER NOT NULL, made_by TEXT NOT NULL, "
    "key BLOB NOT NULL UNIQUE, digest BLOB NOT NULL, vector BLOB NOT NULL)",
    # In the order of eviction, and with all that a summary needs.
    "CREATE INDEX IF NOT EXISTS features_by_use ON features (used, id, made_by)",
)
_BUSY_SECONDS = 30.0
_MAX_VARIABLES = 500
_EVICT_AT_ONCE = 256

Row: TypeAlias = "tuple[Any, Any, Any, Any, Any]"
"""(used, made_by, key, digest, vector)"""


@dataclass
class Found:
    """What a look-up found.

    Attributes:
        vectors: (d,) float32 by key.
        damaged: rows whose digest does not fit.
        stale: ids of rows whose time of use is more than a step old.
    """

    vectors: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    damaged: int = 0
    stale: list[int] = field(default_factory=list)


@contextmanager
def opened(path: Path, *, mode: str = "rw") -> Iterator[sqlite3.Connection]:
    """Open the database for a short while.

    One connection per call, because a connection must not cross a fork or be shared by threads.

    Args:
        path: the file.
        mode: ``"rwc"`` makes it if missing; ``"rw"`` does not; ``"immutable"`` reads where nothing can be written,
            without locks and without what is only in the write-ahead log.
    """
    options = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", timeout=_BUSY_SECONDS, uri=True, isolation_level=None
    )
    try:
        # SQLite quotes what is damaged in its answers.
        database.text_factory = lambda data: data.decode("utf-8", "replace")
        yield database
    finally:
        database.close()


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, with the right to write taken at the start."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def prepare(database: sqlite3.Connection) -> None:
    """Make a new database ready; one that is ready stays as it is."""
    # Has an effect only before the first table is made.
    database.execute(f"PRAGMA page_size={PAGE}")
    database.execute("PRAGMA auto_vacuum=INCREMENTAL")
    try:
        database.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        # Two connections that open a new file at once: one of them sets the mode, which stays with the file. SQLite
        # does not let the other wait, and it need not.
        if "locked" not in str(error):
            raise
    database.execute("PRAGMA synchronous=NORMAL")


def make_tables(database: sqlite3.Connection) -> None:
    """Make the tables that are missing; within a transaction."""
    for statement in _SCHEMA:
        database.execute(statement)


def read(database: sqlite3.Connection, keys: Sequence[bytes]) -> Found:
    """Look up vectors."""
    found, now = Found(), time.time()
    for start in range(0, len(keys), _MAX_VARIABLES):
        block = keys[start : start + _MAX_VARIABLES]
        marks = ",".join("?" * len(block))
        # The marks are question marks only; the keys themselves are bound.
        query = f"SELECT key, digest, vector, id, used FROM features WHERE key IN ({marks})"  # noqa: S608 # nosec B608
        for key, digest, vector, number, used in database.execute(query, block):
            if not is_intact(key, digest, vector):
                found.damaged += 1
                continue
            found.vectors[key] = np.frombuffer(vector, dtype="<f4")
            # A time that is not a number, or lies in the future, is wrong.
            if not isinstance(used, int) or not now - USE_STEP < used <= now + USE_STEP:
                found.stale.append(number)
    return found


def count(database: sqlite3.Connection) -> int:
    """Count the vectors."""
    return int(database.execute("SELECT COUNT(*) FROM features").fetchone()[0])


def touch(database: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Note that rows are used now; within a transaction."""
    now = int(time.time())
    database.executemany("UPDATE features SET used = ? WHERE id = ?", [(now, number) for number in numbers])


def rows_of(vectors: Mapping[bytes, NDArray[np.float32]], made_by: str) -> list[Row]:
    """Turn vectors into rows: little-endian float32, with the digest of the bytes."""
    now, rows = int(time.time()), []
    for key, vector in vectors.items():
        data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
        rows.append((now, made_by, key, digest_of(key, data), data))
    return rows


def insert(database: sqlite3.Connection, rows: Sequence[Row], *, replace: bool) -> None:
    """Write rows; within a transaction. A row of the same key is replaced, or kept."""
    what = "REPLACE" if replace else "IGNORE"
    # One of the two words above.
    query = f"INSERT OR {what} INTO features (used, made_by, key, digest, vector) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
    database.executemany(query, rows)


def damage(reason: str) -> sqlite3.DatabaseError:
    """Make the error that SQLite raises for a damaged file, for damage that it does not see."""
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def evict(database: sqlite3.Connection, *, wanted: int, budget: int, most: int) -> bool:
    """Remove the vectors that were not used for longest, until so many pages are free; within a transaction.

    Args:
        database: where.
        wanted: pages that must fit.
        budget: pages that the file may have.
        most: rows that are removed at most, so that a limit that was lowered does not stop a run for minutes.

    Returns:
        Whether that many pages now fit without making the file larger than it is or than the budget.
    """
    while True:
        total, free = pages(database)
        missing: float = wanted + total - free - budget
        if missing <= 0 or most <= 0:
            # A file that is too large still has room where rows were removed.
            return wanted + total - free <= max(total, budget) and budget > 0
        rows = database.execute(
            "SELECT id, length(vector) FROM features ORDER BY used, id LIMIT ?", (min(most, _EVICT_AT_ONCE),)
        ).fetchall()
        if not rows:
            return False
        victims = []
        for number, size in rows:
            victims.append((number,))
            missing -= (size if isinstance(size, int) else 0) / PAGE
            if missing <= 0:
                break
        database.executemany("DELETE FROM features WHERE id = ?", victims)
        most -= len(victims)


def shrink(database: sqlite3.Connection, *, budget: int, most: int) -> bool:
    """Give free pages back to the disk while the file has more than ``budget`` pages, at most so many of them.

    Returns:
        Whether the file became smaller.
    """
    total, free = pages(database)
    count = min(total - budget, free, most)
    if count <= 0:
        return False
    # SQLite frees one page per step, and execute() takes only the first step of a statement without columns.
    database.executescript(f"PRAGMA incremental_vacuum({count})")
    return pages(database)[0] < total


def pages(database: sqlite3.Connection) -> tuple[int, int]:
    """Count the pages of the file, and those of them that are free."""
    total, free = (int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count"))
    return total, free


def is_intact(key: Any, digest: Any, vector: Any) -> bool:
    """Whether a row is as it was written. A damaged one can hold NULL or a number where bytes were."""
    if not (isinstance(key, bytes) and isinstance(vector, bytes) and len(key) <= blake2b.MAX_KEY_SIZE):
        return False
    return bool(digest_of(key, vector) == digest)


def digest_of(key: bytes, data: bytes) -> bytes:
    """Digest a vector's bytes together with its key: a vector under another key is not believed."""
    return blake2b(data, key=key, digest_size=16, person=b"float32").digest()
