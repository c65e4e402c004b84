"""A journal's lines: how a record becomes one, which of a file's lines are intact, and what they say."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from fewshot.errors import JournalError

JOURNAL_SCHEMA = 1

_MARK = ',"digest":"'

Record: TypeAlias = "dict[str, Any]"


class UnusableJournalError(JournalError):
    """A journal that this run may not go on with.

    Attributes:
        reason: why, in words.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_journal(path: str | os.PathLike[str]) -> tuple[Record, dict[str, Record]]:
    """Read a journal without changing it: its header, and its intact records by cell.

    Raises:
        JournalError: no journal, one whose first line is damaged, or one of another version.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise JournalError(f"{path} is no file. Give the folder that `fewshot bench --out` wrote.")
        with open(path, "rb") as handle:
            header = _header(handle.readline(), path)
            records, damaged = _records(handle, header)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "it does not fit into memory"
        raise JournalError(
            f"No journal at {path} ({reason}). Give the folder that `fewshot bench --out` wrote."
        ) from None
    if damaged:
        warnings.warn(
            f"{damaged} lines of {path} are damaged; their cells are computed again.", RuntimeWarning, stacklevel=2
        )
    return header, records


def _header(line: bytes, path: str | os.PathLike[str]) -> Record:
    header = from_line(line.removesuffix(b"\n"))
    # A version that wrote no digests, or other ones, can still say which it is.
    version = header.get("journal") if header is not None else _loose(line).get("journal")
    if version is not None and version != JOURNAL_SCHEMA:
        raise UnusableJournalError(
            f"{path} is a journal of version {version!r}; this version of fewshot reads {JOURNAL_SCHEMA}. Choose "
            "another folder, or the version of fewshot that wrote it.",
            f"it is of version {version!r}",
        )
    parts = [] if header is None else [header.get("settings"), header.get("about")]
    if header is None or version is None or not all(isinstance(part, dict) for part in parts):
        raise UnusableJournalError(
            f"The first line of {path} is damaged, and nothing else says which run its cells belong to. Remove the "
            "file, or choose another folder.",
            "its first line is damaged",
        )
    return header


def _records(lines: Iterable[bytes], header: Record) -> tuple[dict[str, Record], int]:
    """Take what is intact, with a later ``about`` into the header; count the lines that are not."""
    records: dict[str, Record] = {}
    damaged = 0
    for line in lines:
        if not line.endswith(b"\n"):
            break  # torn, and no damage
        record = from_line(line.removesuffix(b"\n")) or {}
        if isinstance(record.get("about"), dict):
            header["about"] = record["about"]
        elif isinstance(record.get("cell"), str):
            records.setdefault(record["cell"], record)
        else:
            damaged += 1
    return records, damaged


def count_records(path: str | os.PathLike[str]) -> int:
    """Count a journal's records, damaged ones too, without reading them; 0 where there is none."""
    try:
        with open(path, "rb") as handle:
            return max(0, sum(line.endswith(b"\n") for line in handle) - 1)
    except OSError:
        return 0


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


def to_line(record: Record) -> bytes:
    """Write a record as a line of JSON whose last entry is the digest of the rest."""
    text = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f'{text[:-1]}{_MARK}{_digest(text)}"}}\n'.encode("ascii")


def from_line(line: bytes) -> Record | None:
    """Read a line; ``None`` where its digest, the last entry of the object, does not fit the rest."""
    text, _, end = line.decode("ascii", "replace").rpartition(_MARK)
    text += "}"
    return _object(text) if end == f'{_digest(text)}"}}' else None


def _loose(line: bytes) -> Record:
    """Read a line whatever its digest."""
    return _object(line.decode("utf-8", "replace")) or {}


def _object(text: str) -> Record | None:
    try:
        found = json.loads(text)
    # Text of no kind, numbers too long, brackets too deep.
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("ascii", "replace"), digest_size=6).hexdigest()
