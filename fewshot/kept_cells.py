"""Finished cells of a comparison: in memory, and in a journal where a folder is given.

An interruption costs the cell under way and nothing else.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fewshot.cells import Event, OnEvent, Split
from fewshot.identity import digest_of
from fewshot.journal import COMPARISON_FILE_NAME, Journal, Record, UnusableJournalError
from fewshot.report.model import Result


class KeptCells:
    """Results by strategy and split.

    Args:
        settings: everything that the results depend on.
        journal: where they are kept besides; its records are taken over.
    """

    def __init__(self, settings: Mapping[str, Any], journal: Journal | None = None) -> None:
        self._settings = json.dumps(settings, sort_keys=True)
        self._journal = journal
        self._results: dict[str, Result] = {}

    def find(self, strategy: str, split: Split) -> Result | None:
        """Look up a finished cell."""
        cell = self._id(strategy, split)
        if cell not in self._results and self._journal is not None and cell in self._journal.records:
            result = _restored(self._journal.records[cell])
            if result is not None and (result.strategy, result.test) == (strategy, tuple(split.test.tolist())):
                self._results[cell] = result
        return self._results.get(cell)

    def keep(self, result: Result, split: Split) -> None:
        """Keep a finished cell.

        Raises:
            OutputError: the journal cannot be written.
        """
        cell = self._id(result.strategy, split)
        self._results[cell] = result
        if self._journal is not None:
            self._journal.append({"cell": cell, "result": asdict(result)})

    def _id(self, strategy: str, split: Split) -> str:
        return digest_of(json.dumps([self._settings, strategy, split.repeat, split.fold]))


@contextmanager
def open_cells(
    folder: str | os.PathLike[str] | None, settings: Mapping[str, Any], n_cells: int, on_event: OnEvent | None
) -> Iterator[KeptCells]:
    """Begin to keep cells, or go on with those of an interrupted run with the same settings.

    A journal of other settings is put aside with a warning: its results must not be mixed with these, and are not
    thrown away either.

    Args:
        folder: of the journal; ``None`` for memory alone.
        settings: everything that results depend on, as plain data.
        n_cells: of the whole run.
        on_event: called with a note where a run goes on.

    Raises:
        JournalError: another process writes to the journal.
        OutputError: the folder cannot be written.
    """
    if folder is None:
        yield KeptCells(settings)
        return
    journal = _journal(folder, settings)
    try:
        if journal.records and on_event is not None:
            said = f"Going on with an interrupted run: {len(journal.records)} of {n_cells} cells are finished."
            on_event(Event("note", said))
        yield KeptCells(settings, journal)
    finally:
        journal.close()
        if not journal.records:
            discard_cells(folder)


def discard_cells(folder: str | os.PathLike[str]) -> None:
    """Remove a journal whose results are in a report now, unless another process has begun to use it."""
    path = Path(folder) / COMPARISON_FILE_NAME
    lock = Path(f"{path}.lock")
    with suppress(OSError, Timeout, NotImplementedError), FileLock(lock, timeout=0):
        path.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _journal(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> Journal:
    def begin() -> Journal:
        return Journal(folder, settings, {}, resume=True, name=COMPARISON_FILE_NAME, how="the same command")

    try:
        return begin()
    except UnusableJournalError as error:
        aside = _put_aside(Path(folder) / COMPARISON_FILE_NAME)
        warnings.warn(
            f"An unfinished comparison cannot be continued and was put aside as {aside}: {error.reason}.",
            RuntimeWarning,
            stacklevel=5,
        )
        return begin()


def _put_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)


def _restored(record: Record) -> Result | None:
    """Take a result back; ``None`` where the record is not what this version writes."""
    try:
        return Result.from_dict(record["result"])
    except (KeyError, TypeError, ValueError):
        return None
