"""Damaged databases: put aside, and what is intact in them brought into a new one."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fewshot.store.database import PAGE, Row, is_intact, make_tables, opened, prepare, transaction
from fewshot.store.gate import gate

_ROWS_AT_ONCE = 256
_PATIENT_STEPS = 16
_LAST_ID = 1 << 62

Identity: TypeAlias = "tuple[int, int]"


@dataclass(frozen=True)
class Rescued:
    """What became of a damaged database.

    Attributes:
        intact: rows that were read from it unharmed.
        kept_at: where it lies, when nothing could be read from it; ``None`` when it was removed.
    """

    intact: int
    kept_at: Path | None


def identity(path: Path) -> Identity | None:
    """Tell a file from the one that may take its place; ``None`` where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def damaged_path(path: Path) -> Path:
    """Where a damaged database is put. There is at most one."""
    return path.with_name(f"{path.name}.damaged")


def put_aside(path: Path, seen: Identity | None) -> bool:
    """Move a damaged database out of the way, unless another process has done so already.

    Args:
        path: the database.
        seen: identity of the file that was found damaged.

    Returns:
        Whether this call moved it.

    Raises:
        BusyError: other processes use it for too long.
        OSError: it cannot be moved, or no lock can be had.
    """
    with gate(path, alone=True) as locked:
        if seen is None or identity(path) != seen:
            return False
        if not locked:
            raise PermissionError("files cannot be locked here, so that a damaged one cannot be replaced safely")
        aside = damaged_path(path)
        remove_files(aside)
        # The log first: beside a new database it would be taken for that one's.
        for ending in ("-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
        Path(f"{path}-shm").unlink(missing_ok=True)
        return True


def rescue(path: Path, bring: Callable[[Sequence[Row]], None]) -> Rescued:
    """Bring what is intact in the database that was put aside into a new one, and remove the former.

    It is kept where nothing at all could be read from it: it may be something else than a store.

    Args:
        path: where the database was before it was put aside.
        bring: writes rows into the new one, which others may use meanwhile.
    """
    aside, intact = damaged_path(path), 0
    _restore_first_page(aside)
    rows = _readable_rows(aside)
    while block := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        bring(block)
        intact += len(block)
    if intact == 0:
        return Rescued(0, aside if aside.exists() else None)
    remove_files(aside)
    return Rescued(intact, None)


def remove_files(path: Path) -> int:
    """Remove a database and the files that SQLite keeps beside it; return how many bytes they had."""
    size = 0
    for ending in ("-wal", "", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            file = Path(f"{path}{ending}")
            length = file.stat().st_size
            file.unlink()
            size += length
    return size


def _restore_first_page(path: Path) -> None:
    """Give a damaged store the first page of a sound one, for without it SQLite reads nothing.

    It holds the header and the table's definition, and is the same in every store but for what is set to zero here.
    """
    with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.sqlite"
        with opened(sound, mode="rwc") as database:
            prepare(database)
            with transaction(database):
                make_tables(database)
        page = bytearray(sound.read_bytes()[:PAGE])
        # The number of pages (0: as long as the file is), and the list of free ones. Nothing is written to this file.
        page[28:40] = bytes(12)
        with path.open("r+b") as file:
            # One that has nothing of ours in it is not a store.
            if b"features_by_use" in file.read(PAGE):
                file.seek(0)
                file.write(page)


def _readable_rows(path: Path) -> Iterator[Row]:
    """Read the intact rows of a damaged database: from its start, in leaps over what is unreadable, and its end."""
    query = "SELECT id, used, made_by, key, digest, vector FROM features NOT INDEXED WHERE id {} ? ORDER BY id {}"
    try:
        with opened(path) as database:
            first = -1
            for number, row in _leaping(database, query.format(">", "ASC")):
                first = number
                yield row
            # One leap may have gone too far.
            with contextlib.suppress(sqlite3.Error, ValueError):
                for number, *row in database.execute(query.format("<", "DESC"), (_LAST_ID,)):
                    if number <= first:
                        break
                    if (good := _checked(row)) is not None:
                        yield good
    except (sqlite3.Error, ValueError):
        return


def _leaping(database: sqlite3.Connection, query: str) -> Iterator[tuple[int, Row]]:
    last, failures = -1, 0
    while last < _LAST_ID:
        try:
            for number, *row in database.execute(query, (last,)):
                # Damaged ids come in any order; only what is beyond the last one is progress.
                if number > last:
                    last, failures = number, 0
                if (good := _checked(row)) is not None:
                    yield number, good
            return
        except (sqlite3.Error, ValueError):
            failures += 1
            last += 1 if failures < _PATIENT_STEPS else 1 << (failures - _PATIENT_STEPS)


def _checked(row: list[object]) -> Row | None:
    used, made_by, key, digest, vector = row
    if not is_intact(key, digest, vector):
        return None
    return used if isinstance(used, int) else 0, made_by if isinstance(made_by, str) else "", key, digest, vector
