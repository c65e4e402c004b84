"""Looking after the store: what is in it, is it sound, make it smaller, remove it. Behind ``fewshot cache``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fewshot.errors import OutputError
from fewshot.store import database as db
from fewshot.store import repair
from fewshot.store.gate import gate
from fewshot.store.place import SCHEMA_VERSION, Place, default_place, find_limit, keep_limit
from fewshot.store.store import FeatureStore
from fewshot.store.troubles import Trouble, is_read_only, trouble_of

_ROWS_AT_ONCE = 256
_PAGES_AT_ONCE = 1024
T = TypeVar("T")


@dataclass(frozen=True)
class Maker:
    """What one backbone has in the store.

    Attributes:
        name: the backbone, its fingerprint and its runtime; empty where it was not told.
        vectors: how many.
        oldest_use: time of the last use of the one unused for longest, in seconds since 1970.
        newest_use: of the one used last.
    """

    name: str
    vectors: int
    oldest_use: float
    newest_use: float


@dataclass(frozen=True)
class Info:
    """What is in a store.

    Attributes:
        path: the file.
        origin: what decided that it is there; see :class:`fewshot.store.place.Place`.
        vectors: how many.
        size_bytes: of the file and its log.
        limit_bytes: what they may take.
        limit_origin: what decided that; see :class:`fewshot.store.place.Limit`.
        makers: by backbone, the largest first.
        others: files of other versions, and damaged ones that were put aside, with their sizes in bytes.
        problem: why the store cannot be read; ``None`` where it can.
    """

    path: Path
    origin: str
    vectors: int
    size_bytes: int
    limit_bytes: int
    limit_origin: str
    makers: tuple[Maker, ...]
    others: dict[Path, int]
    problem: str | None


@dataclass(frozen=True)
class Verified:
    """What was found in a store, and done about it.

    Attributes:
        intact: vectors that are as they were written.
        damaged: rows that were not, and are removed.
        rebuilt: whether the file itself was damaged; then rows that could not be read are not counted.
        rescued: vectors from a damaged file that was put aside earlier, or now.
    """

    intact: int
    damaged: int
    rebuilt: bool
    rescued: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing was damaged."""
        return not (self.damaged or self.rebuilt)


def inspect(place: Place | None = None) -> Info:
    """Say what is in the store.

    Raises:
        InvalidInputError: ``FEWSHOT_CACHE_LIMIT`` is no size.
    """
    place = place or default_place()
    limit, problem, makers = find_limit(place.path), None, []
    try:
        if place.path.exists():
            makers = _read_only(place.path, _makers)
    except (sqlite3.Error, OSError, ValueError) as error:
        problem = str(error)
    return Info(
        place.path,
        place.origin,
        sum(maker.vectors for maker in makers),
        FeatureStore(place.path, limit_bytes=limit.size).size_bytes,
        limit.size,
        limit.origin,
        tuple(sorted(makers, key=lambda maker: -maker.vectors)),
        {path: path.stat().st_size for path in _other_files(place.path)},
        problem,
    )


def verify(path: Path | None = None) -> Verified:
    """Check every vector's digest and the file's structure; remove damaged rows, or rebuild a damaged file.

    Others may use the store meanwhile.

    Raises:
        OutputError: damage was found that cannot be removed, or the store cannot be opened.
    """
    store = FeatureStore(path)
    with _explained(store.path, "verified"):
        damaged, rebuilt, rescued = 0, False, 0
        if store.path.exists():
            seen = repair.identity(store.path)
            try:
                damaged = _remove_damaged_rows(store.path)
            except (sqlite3.Error, ValueError) as error:
                if trouble_of(error, store.path) is not Trouble.DAMAGED:
                    raise
                rebuilt = repair.put_aside(store.path, seen)
        if repair.damaged_path(store.path).exists():
            rescued = repair.rescue(store.path, store.bring).intact
        return Verified(len(store), damaged, rebuilt, rescued)


def clear(path: Path | None = None) -> int:
    """Remove the store, those of older versions beside it and what was put aside, while nobody is using it.

    Returns:
        How many bytes they took.

    Raises:
        OutputError: they cannot be removed, or other processes do not let go of them.
    """
    path = path or default_place().path
    with _explained(path, "cleared"):
        if not path.parent.exists():
            return 0
        with gate(path, alone=True) as locked:
            if not locked:
                raise PermissionError("it cannot be locked here; remove it by hand while nothing uses it")
            size = repair.remove_files(path)
            return size + sum(repair.remove_files(other) for other in _other_files(path))


def set_limit(size: int, path: Path | None = None) -> int:
    """Keep a limit for all later runs, and make the store that small now.

    Args:
        size: in bytes; less than 128 KiB keeps nothing.
        path: the store; by default :func:`fewshot.store.default_store_path`.

    Returns:
        How many vectors were removed.

    Raises:
        OutputError: the setting, or the store, cannot be written.
    """
    path = path or default_place().path
    keep_limit(path, size)
    store = FeatureStore(path, limit_bytes=size)
    before = len(store)
    if not store.page_budget:
        with _explained(path, "cleared"), gate(path, alone=True):
            repair.remove_files(path)
        return before
    if not path.exists():
        return 0
    with _explained(path, "made smaller"):
        while not _smaller(path, store.page_budget):
            pass
    return before - len(store)


def _smaller(path: Path, budget: int) -> bool:
    """Take a step towards a budget in pages; return whether it is reached. In steps, so that others get a turn."""
    with gate(path), db.opened(path) as database:
        with db.transaction(database):
            fits = db.evict(database, wanted=0, budget=budget, most=_ROWS_AT_ONCE)
        shrunk = db.shrink(database, budget=budget, most=_PAGES_AT_ONCE)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        # Where no rows are too many and no pages can be given back, there is nothing more to do.
        return fits and not shrunk


def _remove_damaged_rows(path: Path) -> int:
    """Check structure and rows; remove damaged rows and count them. A damaged structure raises."""
    with gate(path), db.opened(path) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'features'").fetchone():
            if database.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise db.damage("its table is missing")
            return 0
        (answer,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise db.damage(str(answer))
    count, last = 0, -(1 << 63)
    while True:
        # Rows are read in short transactions: a long one would let the log grow.
        with gate(path), db.opened(path) as database:
            rows = database.execute(
                "SELECT id, key, digest, vector FROM features WHERE id > ? ORDER BY id LIMIT ?", (last, _ROWS_AT_ONCE)
            ).fetchall()
            bad = [(row[0],) for row in rows if not db.is_intact(*row[1:])]
            if bad:
                with db.transaction(database):
                    database.executemany("DELETE FROM features WHERE id = ?", bad)
        if not rows:
            return count
        count, last = count + len(bad), rows[-1][0]


def _makers(database: sqlite3.Connection) -> list[Maker]:
    query = "SELECT made_by, COUNT(*), MIN(used), MAX(used) FROM features INDEXED BY features_by_use GROUP BY made_by"
    return [Maker(str(name), *numbers) for name, *numbers in database.execute(query)]


def _read_only(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    try:
        with gate(path), db.opened(path) as database:
            return work(database)
    except sqlite3.OperationalError as error:
        if not is_read_only(error):
            raise
    with db.opened(path, mode="immutable") as database:
        return work(database)


def _other_files(path: Path) -> list[Path]:
    """List databases of other schema versions, and the damaged one that was put aside."""
    aside = repair.damaged_path(path)
    found = [aside] if aside.exists() else []
    if path.name == f"features-{SCHEMA_VERSION}.sqlite":
        found += [p for p in sorted(path.parent.glob("features-[0-9]*.sqlite")) if p != path and p.is_file()]
    return found


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, ValueError) as error:
        raise OutputError(f"The feature store {path} cannot be {what}: {error}.") from error
