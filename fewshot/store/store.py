"""FeatureStore: look vectors up, keep vectors; whatever goes wrong with the file costs a warning, never the run."""

from __future__ import annotations

import functools
import os
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewshot.files import room, show_size
from fewshot.store import database as db
from fewshot.store import repair
from fewshot.store.gate import BusyError, gate
from fewshot.store.place import default_place, find_limit
from fewshot.store.troubles import Trouble, is_read_only, trouble_of

Use: TypeAlias = Literal["read", "write"]
T = TypeVar("T")

_SMALLEST_LIMIT = 128 << 10
_CHECKPOINT_MS = 2000


class FeatureStore:
    """Vectors on disk by key. Safe to share between threads, forked children and processes: it holds nothing open.

    Args:
        path: the SQLite file; made, with its folders, at the first write. By default :func:`default_store_path`.
        limit_bytes: what the file and its log may take together; before they would take more, the vectors that were
            not used for longest are removed. Less than 128 KiB keeps nothing. By default ``FEWSHOT_CACHE_LIMIT``,
            else what ``fewshot cache limit`` has set, else 2 GiB.

    Raises:
        InvalidInputError: ``FEWSHOT_CACHE_LIMIT`` is no size.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, limit_bytes: int | None = None) -> None:
        self.path = default_place().path if path is None else Path(path)
        self.limit_bytes = find_limit(self.path).size if limit_bytes is None else limit_bytes
        self._stopped: set[Use] = set()
        self._said: set[str] = set()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Look up vectors; keys that are not stored, or stored damaged, are missing from the result."""
        if not keys or "read" in self._stopped:
            return {}
        found = self._guard("read", lambda: self._read(keys), db.Found())
        if found.damaged:
            self._say_once(
                "rows",
                f"{found.damaged} of the features stored in {self.path} are damaged and are computed again.",
            )
        return found.vectors

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]], *, made_by: str = "") -> None:
        """Keep vectors, each of them whole or not at all.

        Args:
            vectors: (d,) float32 by key; a key is at most 64 bytes.
            made_by: what computed them, for ``fewshot cache info``.
        """
        if not vectors or "write" in self._stopped:
            return
        rows: Sequence[db.Row] = db.rows_of(vectors, made_by)
        size = sum(len(row[4]) for row in rows)
        while rows:
            if self._log_is_half_full and not self._guard("write", self._write_log_back, False, size=size, alone=True):
                return
            rows = self._guard("write", functools.partial(self._write, rows), [], size=size)

    def bring(self, rows: Sequence[db.Row]) -> None:
        """Write rows that another file held; a row whose key is there already stays as it is.

        Raises:
            OSError, sqlite3.Error: they cannot be written.
        """
        self._make_folder()
        while rows:
            if self._log_is_half_full:
                with gate(self.path, alone=True):
                    self._write_log_back()
            with gate(self.path):
                rows = self._write(rows, replace=False)

    def __len__(self) -> int:
        """Count the vectors; none are counted where the store cannot be read, which is warned of as in :meth:`get`."""
        if "read" in self._stopped:
            return 0
        return self._guard("read", lambda: self._reading(db.count, 0), 0)

    def __bool__(self) -> bool:
        """A store is one, with or without vectors in it."""
        return True

    @property
    def size_bytes(self) -> int:
        """Size of the file and its log, in bytes; 0 where there is none."""
        return _size(self.path) + _size(f"{self.path}-wal")

    @property
    def _log_room(self) -> int:
        """Bytes of the limit that are left to the log; the rest is the file's."""
        return min(32 << 20, max(64 << 10, self.limit_bytes // 4))

    @property
    def _log_is_half_full(self) -> bool:
        return _size(f"{self.path}-wal") > self._log_room // 2

    @property
    def page_budget(self) -> int:
        """Pages that the file may have under the limit."""
        return 0 if self.limit_bytes < _SMALLEST_LIMIT else (self.limit_bytes - self._log_room) // db.PAGE

    def _read(self, keys: Sequence[bytes]) -> db.Found:
        def work(database: sqlite3.Connection) -> db.Found:
            found = db.read(database, keys)
            self._note_use(database, found.stale)
            return found

        return self._reading(work, db.Found())

    def _reading(self, work: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        """Read the file, also where nothing can be written; ``nothing`` where there is none, or none of its tables."""
        if not self.path.exists():
            return nothing
        try:
            try:
                with db.opened(self.path) as database:
                    return work(database)
            except sqlite3.OperationalError as error:
                if not is_read_only(error):
                    raise
            # A read-only folder, or a disk too full for what SQLite wants beside the file.
            with db.opened(self.path, mode="immutable") as database:
                return work(database)
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return nothing
            raise

    def _note_use(self, database: sqlite3.Connection, numbers: Sequence[int]) -> None:
        if not numbers or "write" in self._stopped:
            return
        try:
            # Others may write: then this is noted at the next look-up.
            database.execute("PRAGMA busy_timeout=0")
            with db.transaction(database):
                if not self._log_is_half_full:
                    db.touch(database, numbers)
        except sqlite3.Error:
            pass

    def _make_folder(self) -> None:
        if self.path.parts[:1] == ("~",):
            raise OSError("no home folder is known")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _write(self, rows: Sequence[db.Row], *, replace: bool = True) -> Sequence[db.Row]:
        """Write rows, in transactions for which the log has room; return those that are left when it has none."""
        if not self.page_budget and not self.path.exists():
            return []
        with db.opened(self.path, mode="rwc") as database:
            db.prepare(database)
            while rows:
                block = _first_block(rows, self._log_room // 16)
                with db.transaction(database):
                    # Asked where nobody else can write: the log's other half is this transaction's.
                    if self._log_is_half_full:
                        return rows
                    self._write_block(database, block, replace)
                rows = rows[len(block) :]
            self._give_back(database)
        return []

    def _give_back(self, database: sqlite3.Connection) -> None:
        """Make a file smaller that is beyond the limit, as far as the log has room: more at the next write."""
        shrinking = True
        while shrinking and not self._log_is_half_full:
            shrinking = db.shrink(database, budget=self.page_budget, most=1 + self._log_room // (8 * db.PAGE))

    def _write_block(self, database: sqlite3.Connection, rows: Sequence[db.Row], replace: bool) -> None:
        # A row's share of the table and of two indices, and what a split of each costs.
        wanted = 6 + sum(len(row[4]) + 1024 for row in rows) // db.PAGE
        db.make_tables(database)
        if db.evict(database, wanted=wanted, budget=self.page_budget, most=2 * len(rows) + 256):
            db.insert(database, rows, replace=replace)

    def _write_log_back(self) -> bool:
        """Empty the log, while nobody else reads or writes."""
        if self._log_is_half_full:
            with db.opened(self.path) as database:
                database.execute(f"PRAGMA busy_timeout={_CHECKPOINT_MS}")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                if self._log_is_half_full:
                    raise BusyError("another program reads it for so long that its log outgrows the limit")
        return True

    def _guard(self, use: Use, work: Callable[[], T], otherwise: T, *, size: int = 0, alone: bool = False) -> T:
        """Do it; once more after a damaged file is out of the way; and else go on without."""
        for attempt in (1, 2):
            seen: repair.Identity | None = None
            try:
                if use == "write":
                    self._make_folder()
                # Looking into a store that is not there leaves no file.
                with gate(self.path, alone=alone, make=use == "write" or self.path.exists()):
                    # While the gate is held, nobody puts another file in its place.
                    seen = repair.identity(self.path)
                    return work()
            except (sqlite3.Error, OSError, ValueError) as error:
                trouble = trouble_of(error, self.path)
                if not (trouble is Trouble.DAMAGED and attempt == 1 and self._replace_damaged(seen, error)):
                    self._stop(use, trouble, error, size)
                    return otherwise
        raise AssertionError("the second attempt returns")

    def _replace_damaged(self, seen: repair.Identity | None, error: Exception) -> bool:
        """Start a new file in the place of a damaged one; return whether it is worth another attempt."""
        try:
            if not repair.put_aside(self.path, seen):
                return repair.identity(self.path) != seen
            rescued = repair.rescue(self.path, self.bring)
        except (sqlite3.Error, OSError, ValueError):
            return False
        what = (
            f"{rescued.intact} vectors were intact and are kept; the others are computed again."
            if rescued.kept_at is None
            else f"Nothing in it could be read; it lies in {rescued.kept_at} and `fewshot cache clear` removes it."
        )
        self._say_once("file", f"The feature store {self.path} was damaged ({error}) and is made anew. {what}")
        return True

    def _stop(self, use: Use, trouble: Trouble, error: Exception, size: int) -> None:
        if trouble is not Trouble.BUSY:
            # What cannot be read is not written either. What cannot be written can still be read.
            self._stopped |= {"read", "write"} if use == "read" else {"write"}
        ways_out = "Set FEWSHOT_CACHE to a folder that can be written."
        if trouble is Trouble.FULL:
            reason = f"the disk is full: {show_size(size)} were to be stored, {room(self.path)}"
            ways_out = "Make room there, or set FEWSHOT_CACHE to a folder elsewhere."
        elif trouble is Trouble.BUSY:
            reason, ways_out = str(error), "What was computed is not lost; it is only not stored this time."
        else:
            reason = str(error)
        how = "used" if use == "read" else "written"
        self._say_once(
            "stop", f"The feature store {self.path} cannot be {how} ({reason}); going on without it. {ways_out}"
        )

    def _say_once(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def _first_block(rows: Sequence[db.Row], size: int) -> Sequence[db.Row]:
    """Take rows from the front that have so many bytes together, at least one."""
    used = 0
    for position, row in enumerate(rows):
        used += len(row[4])
        if used > size and position:
            return rows[:position]
    return rows


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
