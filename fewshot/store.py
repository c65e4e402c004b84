"""FeatureStore: features on disk, in SQLite, addressed by the digest of everything that determines them.

A row holds one vector and the digest of its bytes; a row whose digest does not fit is dropped and computed again.
The store is a convenience: where it cannot be written, work goes on without it, with one warning.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SCHEMA_VERSION = 1
_CREATE = """
CREATE TABLE IF NOT EXISTS features (
    key BLOB PRIMARY KEY, vector BLOB NOT NULL, digest BLOB NOT NULL, stored REAL NOT NULL
) WITHOUT ROWID
"""
_MAX_VARIABLES = 500


def default_store_path() -> Path:
    """Where features are kept: ``FEWSHOT_CACHE``, else the user's cache folder (``XDG_CACHE_HOME`` on Linux)."""
    from platformdirs import user_cache_path

    folder = os.environ.get("FEWSHOT_CACHE")
    root = Path(folder).expanduser() if folder else user_cache_path("fewshot", appauthor=False)
    return root / f"features-{_SCHEMA_VERSION}.sqlite"


class FeatureStore:
    """Vectors on disk by key.

    Args:
        path: the SQLite file; made, with its folders, at the first write.
        limit_bytes: when the file outgrows this, the oldest vectors are removed until nine tenths of it are used.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, limit_bytes: int = 2 << 30) -> None:
        self.path = Path(path) if path is not None else default_store_path()
        self.limit_bytes = limit_bytes
        self._broken = False
        self._warned = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Look up vectors; keys that are not stored, or stored damaged, are missing from the result."""
        if self._broken or not keys:
            return {}
        found: dict[bytes, NDArray[np.float32]] = {}
        damaged = 0
        try:
            if not self.path.exists():
                return {}
            with closing(self._connect()) as database:
                for block in _blocks(keys):
                    marks = ",".join("?" * len(block))
                    # The marks are question marks only; the keys themselves are bound.
                    query = f"SELECT key, vector, digest FROM features WHERE key IN ({marks})"  # noqa: S608
                    for key, vector, digest in database.execute(query, block):
                        # A damaged row can hold NULL or a number where the bytes were.
                        if isinstance(vector, bytes) and _digest(key, vector) == digest:
                            found[key] = np.frombuffer(vector, dtype=np.float32)
                        else:
                            damaged += 1
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                self._give_up(error)
        # SQLite quotes a damaged schema in its message, and Python then fails to decode that: a ValueError.
        except (sqlite3.Error, OSError, ValueError) as error:
            self._give_up(error)
        if damaged and not self._warned:
            self._warned = True
            warnings.warn(
                f"{damaged} of the features stored in {self.path} are damaged and are computed again.",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def put(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors, all of them or none."""
        if self._broken or not vectors:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            now = time.time()
            rows = []
            for key, vector in vectors.items():
                data = np.ascontiguousarray(vector, dtype=np.float32).tobytes()
                rows.append((key, data, _digest(key, data), now))
            with closing(self._connect()) as database, database:
                database.execute(_CREATE)
                database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", rows)
            self._evict()
        except (sqlite3.Error, OSError, ValueError) as error:
            self._give_up(error)

    def __len__(self) -> int:
        try:
            if not self.path.exists():
                return 0
            with closing(self._connect()) as database:
                return int(database.execute("SELECT COUNT(*) FROM features").fetchone()[0])
        except (sqlite3.Error, OSError, ValueError):
            return 0

    @property
    def size_bytes(self) -> int:
        """Size of the file, in bytes; 0 where there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=30)
        try:
            _use_write_ahead_log(database)
            database.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            database.close()
            raise
        return database

    def _evict(self) -> None:
        if self.size_bytes <= self.limit_bytes:
            return
        target = 0.9 * self.limit_bytes
        with closing(self._connect()) as database:
            with database:
                removed = 1
                while removed and (used := _used_bytes(database)) > target:
                    removed = database.execute(
                        "DELETE FROM features WHERE key IN (SELECT key FROM features ORDER BY stored LIMIT "
                        "(SELECT CAST(1 + COUNT(*) * ? AS INTEGER) FROM features))",
                        (1 - target / used,),
                    ).rowcount
            database.execute("VACUUM")

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        warnings.warn(
            f"The feature store {self.path} cannot be used ({error}); going on without it. Set FEWSHOT_CACHE to a "
            "folder that can be written.",
            RuntimeWarning,
            stacklevel=3,
        )


def _use_write_ahead_log(database: sqlite3.Connection) -> None:
    try:
        database.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        # Two connections that open a new file at once: one of them sets the mode, which stays with the file. SQLite
        # does not let the other wait, and it need not.
        if "locked" not in str(error):
            raise


def _used_bytes(database: sqlite3.Connection) -> int:
    """Count the bytes in use, without the pages that a deletion has freed but not yet given back."""
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def feature_key(*parts: object) -> bytes:
    """Digest everything that determines a vector into the key it is stored under."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=20).digest()


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=8).digest()


def _blocks(keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (keys[i : i + _MAX_VARIABLES] for i in range(0, len(keys), _MAX_VARIABLES))
