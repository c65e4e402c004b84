"""Journal: an append-only file of finished cells, one JSON object per line, that outlives any interruption.

The first line says what the run is; every further line is one finished cell with the digest of its text. A line is
written and forced to the disk before its cell counts as finished. What a crash left of a last line is cut off when the
journal is opened again; a line that was damaged later is passed over with a warning, and its cell is computed again.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import BaseFileLock, FileLock, Timeout

from fewshot.errors import JournalError, OutputError
from fewshot.files import cannot_write, sync
from fewshot.journal_lines import (
    JOURNAL_SCHEMA,
    Record,
    UnusableJournalError,
    canonical,
    count_records,
    cut_torn_line,
    read_journal,
    to_line,
)

__all__ = [
    "COMPARISON_FILE_NAME",
    "FILE_NAME",
    "Journal",
    "Record",
    "UnusableJournalError",
    "canonical",
    "count_records",
    "cut_torn_line",
    "read_journal",
]

FILE_NAME = "journal.jsonl"
COMPARISON_FILE_NAME = "compare-journal.jsonl"


class Journal:
    """Finished cells of one run, on disk; use it as a context manager.

    Args:
        folder: of the run; made if missing.
        settings: everything that results depend on, as plain data. A journal with others is refused.
        about: what a report needs besides, as plain data; not compared.
        resume: go on with a journal that is there; without it, one that is there is refused.
        name: of the file.
        how: to go on with an interrupted run, in words that follow "go on with".

    Raises:
        JournalError: a journal is there and may not be continued, with what differs; or another process writes to it.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        *,
        resume: bool,
        name: str = FILE_NAME,
        how: str = "--resume (resume=True)",
    ) -> None:
        self.path = Path(folder) / name
        self._how = how
        self._known_about: Any = None
        self._header = {"journal": JOURNAL_SCHEMA, "settings": _plain(settings), "about": _plain(about)}
        self.records: dict[str, Record] = {}
        self._file = -1
        self._lock = _locked(self.path)
        try:
            if self._begun():
                self.records = self._take_over(resume)
            self._open()
            if self._known_about not in (None, self._header["about"]):
                # A report made later is that of the last run.
                self._write({"about": self._header["about"]})
        except OSError as error:
            self.close()
            raise cannot_write(self.path, error) from None
        except BaseException:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Keep a finished cell; it is on the disk when this returns.

        Raises:
            OutputError: it could not be written; what was there before still is.
            JournalError: another file has taken the journal's place.
        """
        try:
            if self._is_lost():
                self._write_again()
            self._write(record)
        except OSError as error:
            raise OutputError(
                f"{cannot_write(self.path, error)} Cells that are finished are kept: go on with {self._how}."
            ) from None
        self.records[record["cell"]] = record

    def close(self) -> None:
        """Close the file and let others write to it."""
        if self._file >= 0:
            os.close(self._file)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begun(self) -> bool:
        """Whether a journal is there, as far as a header's length or more."""
        if self.path.exists() and not self.path.is_file():
            raise JournalError(f"{self.path} is no file. Remove it, or choose another folder.")
        return self.path.exists() and self.path.stat().st_size > 0

    def _take_over(self, resume: bool) -> dict[str, Record]:
        """Check that the run may go on, and read its records."""
        if not resume:
            raise JournalError(
                f"{self.path} holds a run already. Give --resume (resume=True) to go on with it, or another folder."
            )
        cut_torn_line(self.path)
        if not self.path.stat().st_size:
            return {}
        found, records = read_journal(self.path)
        self._known_about = found["about"]
        differences = list(_differences(found["settings"], self._header["settings"]))
        if differences:
            shown = "; ".join(differences[:8]) + (f"; and {len(differences) - 8} more" if len(differences) > 8 else "")
            raise UnusableJournalError(
                f"{self.path} was begun with other settings, so its results cannot be continued: {shown}. Use the same "
                "settings, or another folder.",
                shown,
            )
        return records

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if not os.fstat(self._file).st_size:
            self._write(self._header)
            sync(self.path.parent)

    def _write(self, record: Record) -> None:
        start, line = os.fstat(self._file).st_size, memoryview(to_line(record))
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except BaseException:
            # Nothing half written may stay, least of all before a line that is written later.
            os.ftruncate(self._file, start)
            raise

    def _is_lost(self) -> bool:
        """Whether somebody has removed the file meanwhile: what is written to it now is seen by nobody."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        if not os.path.samestat(there, os.fstat(self._file)):
            raise JournalError(f"Another file has taken the place of {self.path}; choose another folder.")
        return False

    def _write_again(self) -> None:
        warnings.warn(
            f"{self.path} has been removed and is written again, with all that is finished.",
            RuntimeWarning,
            stacklevel=3,
        )
        os.close(self._file)
        self._file = -1
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        for record in self.records.values():
            self._write(record)


def _locked(path: Path) -> BaseFileLock:
    """Lock a journal for this process, and make its folder."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise JournalError(f"Another process writes to {path}; wait for it, or choose another folder.") from None
    except OSError as error:
        raise cannot_write(path.parent, error) from None
    except NotImplementedError:
        raise JournalError(f"{path.parent} is on a file system without locks; choose another folder.") from None
    return lock


def _plain(value: Any) -> Any:
    """What JSON makes of a value: tuples become lists, keys strings."""
    return json.loads(json.dumps(value))


def _differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Name what differs between two settings, each with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now:
        yield f"{where} was {json.dumps(before)} and is {json.dumps(now)}"
