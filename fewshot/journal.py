"""Journal: an append-only file of finished cells, one JSON object per line, that outlives any interruption.

The first line says what the run is; every further line is one finished cell with the digest of its text. A line is
written and forced to the disk before its cell counts as finished. What a crash left of a last line is cut off when the
journal is opened again; a line that was damaged later is passed over with a warning, and its cell is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from filelock import FileLock, Timeout

from fewshot.errors import JournalError, OutputError

JOURNAL_SCHEMA = 1
FILE_NAME = "journal.jsonl"

_MARK = ',"digest":"'

Record: TypeAlias = "dict[str, Any]"


class Journal:
    """Finished cells of one run, on disk; use it as a context manager.

    Args:
        folder: of the run; made if missing.
        settings: everything that results depend on, as plain data. A journal with others is refused.
        about: what a report needs besides, as plain data; not compared.
        resume: go on with a journal that is there; without it, one that is there is refused.

    Raises:
        JournalError: a journal is there and may not be continued, with what differs; or another process writes to it.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool
    ) -> None:
        self.path = Path(folder) / FILE_NAME
        self._known_about: Any = None
        header = {"journal": JOURNAL_SCHEMA, "settings": _plain(settings), "about": _plain(about)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(f"{self.path}.lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise JournalError(
                f"Another process writes to {self.path}; wait for it, or choose another folder."
            ) from None
        except OSError as error:
            raise _unwritable(self.path.parent, error) from None
        self._file = -1
        try:
            self.records = self._open(header, resume)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if not self.path.stat().st_size:
                self._write(header)
                _sync_folder(self.path.parent)
            elif self._known_about != header["about"]:
                # A report made later is that of the last run.
                self._write({"about": header["about"]})
        except OSError as error:
            self.close()
            raise _unwritable(self.path, error) from None
        except BaseException:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Keep a finished cell; it is on the disk when this returns.

        Raises:
            OutputError: it could not be written; what was there before still is.
        """
        try:
            self._write(record)
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror}. Finished cells are kept; make room and go on with "
                "--resume."
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

    def _open(self, header: Record, resume: bool) -> dict[str, Record]:
        if not self.path.exists() or not self.path.stat().st_size:
            return {}
        if not resume:
            raise JournalError(
                f"{self.path} holds a run already. Give --resume (resume=True) to go on with it, or another folder."
            )
        cut_torn_line(self.path)
        if not self.path.stat().st_size:
            return {}
        found, records = read_journal(self.path)
        self._known_about = found["about"]
        differences = list(_differences(found["settings"], header["settings"]))
        if differences:
            shown = "; ".join(differences[:8]) + (f"; and {len(differences) - 8} more" if len(differences) > 8 else "")
            raise JournalError(
                f"{self.path} was begun with other settings, so its results cannot be continued: {shown}. Use the same "
                "settings, or another folder."
            )
        return records

    def _write(self, record: Record) -> None:
        start, line = self.path.stat().st_size, memoryview(_line(record))
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except BaseException:
            # Nothing half written may stay, least of all before a line that is written later.
            os.truncate(self.path, start)
            raise


def read_journal(path: str | os.PathLike[str]) -> tuple[Record, dict[str, Record]]:
    """Read a journal without changing it: its header, and its intact records by cell.

    Raises:
        JournalError: no journal, or of another version.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(
            f"No journal at {path} ({error.strerror}). Give the folder that `fewshot bench --out` wrote."
        ) from None
    header = _parsed(lines[0])
    if header is None or header.get("journal") != JOURNAL_SCHEMA:
        version = None if header is None else header.get("journal")
        raise JournalError(
            f"{path} is a journal of version {version!r}; this version of fewshot reads {JOURNAL_SCHEMA}. Choose "
            "another folder, or the version of fewshot that wrote it."
        )
    records: dict[str, Record] = {}
    damaged = 0
    # What follows the last line end is torn, and no damage.
    for line in lines[1:-1]:
        record = _parsed(line)
        if record is not None and "about" in record:
            header["about"] = record["about"]
        elif record is None or "cell" not in record:
            damaged += 1
        else:
            records.setdefault(record["cell"], record)
    if damaged:
        warnings.warn(
            f"{damaged} lines of {path} are damaged; their cells are computed again.", RuntimeWarning, stacklevel=2
        )
    return header, records


def canonical(records: Mapping[str, Record]) -> str:
    """Write records in the order of their cells and without times: equal runs give equal text, however they went."""
    rows = [{key: value for key, value in records[cell].items() if key != "seconds"} for cell in sorted(records)]
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def cut_torn_line(path: Path) -> None:
    """Cut off what a crash left of a last line: everything after the last line end."""
    with path.open("rb+") as handle:
        position = size = handle.seek(0, os.SEEK_END)
        keep = 0
        while position and not keep:
            step = min(1 << 16, position)
            position = handle.seek(position - step)
            # rfind gives -1 where there is no line end, and keep stays 0.
            end = handle.read(step).rfind(b"\n") + 1
            keep = position + end if end else 0
        if keep < size:
            handle.truncate(keep)
            handle.flush()
            os.fsync(handle.fileno())


def _line(record: Record) -> bytes:
    text = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f'{text[:-1]}{_MARK}{_digest(text)}"}}\n'.encode("ascii")


def _parsed(line: bytes) -> Record | None:
    """Read a line; ``None`` where its digest, the last entry of the object, does not fit the rest."""
    text, _, end = line.decode("ascii", "replace").rpartition(_MARK)
    text += "}"
    if end != f'{_digest(text)}"}}':
        return None
    record = json.loads(text)
    return record if isinstance(record, dict) else None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("ascii", "replace"), digest_size=6).hexdigest()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror}. Choose another place.")


def _sync_folder(folder: Path) -> None:
    """Force a new file's name to the disk, where the system lets folders be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


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
