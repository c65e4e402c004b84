"""Rows of CSV and TSV files as editors, pandas and spreadsheets of any country write them, in bounded memory.

Rows are numbered as a spreadsheet numbers them: the header is row 1, blank rows count, and a cell may hold several
lines.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from fewshot.errors import DatasetError
from fewshot.images.findings import shortened
from fewshot.images.labels import show
from fewshot.images.paths import open_path, stat_path

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_MAX_LINE = 4 * 2**20
"""Characters in one line at most: a file without line breaks is no table, and need not fit into memory."""

_SAID = re.compile(r"sep=([^\s\"])\s*")
_ENCODINGS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TABLES = (
    (b"PK\x03\x04", "an Excel workbook or another ZIP archive; save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save it as CSV"),
    (b"PAR1", "a Parquet file; write it as CSV (in pandas: frame.to_csv)"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
)


class Table:
    """A table, open for reading.

    Attributes:
        name: its path, for messages.
        columns: the columns' names, once rows are read.

    Raises:
        DatasetError: no such file, one that may not be read, or no table.
    """

    def __init__(self, path: Path) -> None:
        self.name = show(str(path))
        self.columns: tuple[str, ...] = ()
        self._handle = self._open(path)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def rows(self, *wanted: str) -> Iterator[tuple[int, list[str]]]:
        """Give (number, cells) of each row after the header; blank rows have no cells.

        Args:
            wanted: columns that are needed, by which the delimiter is recognised.

        Raises:
            DatasetError: a row that cannot be read, or text in another encoding.
        """
        lines = self._lines()
        number, delimiter = 0, ","
        try:
            first = next(lines, "")
            said = _SAID.fullmatch(first)
            delimiter = said[1] if said else _delimiter(first, wanted)
            # Excel takes this line for itself and does not show it as a row.
            reader = csv.reader(lines if said else _chain(first, lines), delimiter=delimiter, strict=True)
            for row in reader:
                number += 1
                if number == 1:
                    self.columns = tuple(map(_clean, row))
                else:
                    yield number, row
        except csv.Error as error:
            raise DatasetError(f"{self.name}: row {number + 1} cannot be read: {_reason(error, delimiter)}.") from None
        except UnicodeError as error:
            raise DatasetError(
                f"{self.name} is not UTF-8 text ({error}). Save it as CSV in UTF-8; in Excel: CSV UTF-8."
            ) from None

    def position(self, column: str) -> int:
        """Give the position of a column.

        Raises:
            DatasetError: no such column, with the closest names, or several.
        """
        column = _clean(column)
        if self.columns.count(column) == 1:
            return self.columns.index(column)
        if column in self.columns:
            count = self.columns.count(column)
            raise DatasetError(f"{self.name} has {count} columns called {show(column)!r}; rename one.")
        lower = {name.lower(): name for name in reversed(self.columns)}
        # Image for image: what else could be meant?
        if [name.lower() for name in self.columns].count(column.lower()) == 1:
            return self.columns.index(lower[column.lower()])
        close = [lower[name] for name in difflib.get_close_matches(column.lower(), lower, n=3, cutoff=0.6)]
        guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise DatasetError(
            f"{self.name} has no column {column!r}; its columns are {shortened(list(map(repr, self.columns)), 20)}."
            f"{guess} Rename them, or name them in Python: ImageDataset.from_csv(path, image_column=, label_column=)."
        )

    def _open(self, path: Path) -> io.TextIOWrapper:
        """Open the file in its encoding, refusing what only pretends to be a table."""
        try:
            mode = stat_path(path).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file (a pipe, device or socket)"
                raise DatasetError(f"{self.name} cannot be read as a table: this is {kind}. Give the path of a CSV.")
            binary = os.fdopen(open_path(path), "rb")
        except FileNotFoundError:
            raise DatasetError(f"No such file: {self.name}.") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
        head = binary.peek(64)
        for signature, kind in _NOT_TABLES:
            if head.lstrip().lower().startswith(signature.lower()):
                binary.close()
                raise DatasetError(f"{self.name} is no CSV, whatever its name says: this is {kind}.")
        encoding = next((encoding for mark, encoding in _ENCODINGS if head.startswith(mark)), "utf-8-sig")
        return io.TextIOWrapper(binary, encoding=encoding, newline="")

    def _lines(self) -> Iterator[str]:
        """Give lines with their ends; a NUL or a line without end shows that this is no table."""
        number = 0
        while line := self._handle.readline(_MAX_LINE):
            number += 1
            if "\0" in line:
                raise DatasetError(
                    f"{self.name}: line {number} holds NUL characters; this is no text, or UTF-16 without a byte-order "
                    "mark. Save it as CSV in UTF-8."
                )
            if len(line) == _MAX_LINE:
                raise DatasetError(f"{self.name}: line {number} has over {_MAX_LINE:,} characters; this is no CSV.")
            yield line


def _delimiter(header: str, wanted: Sequence[str]) -> str:
    """Find what separates the columns: that by which all wanted ones are there, else what there is most of."""
    for delimiter in _DELIMITERS:
        names = list(map(_clean, next(csv.reader([header], delimiter=delimiter), [])))
        if all(_clean(name) in names for name in wanted):
            return delimiter
    return max(_DELIMITERS, key=header.count)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _clean(name: str) -> str:
    return name.strip("\ufeff \t\r\n\xa0")


def _reason(error: csv.Error, delimiter: str) -> str:
    text = str(error)
    if "unexpected end" in text or "field limit" in text:
        return 'a cell begins with a quote (") that is never closed, or holds more than a path or label can'
    if "expected after" in text:
        return f'a quoted cell must end with a quote (") and then {_DELIMITERS.get(delimiter, repr(delimiter))}'
    return text
