"""Tables of image paths and labels: CSV and TSV as editors, pandas and spreadsheets of any country write them.

Rows are numbered as a spreadsheet numbers them: the header is row 1, blank rows count, and a cell may hold
several lines.

A fault of the table (an empty cell, a quote that is never closed) stops; image files that are missing are treated as
any bad file: left out and listed, unless they are more than 5 % or all of a class.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot.errors import DatasetError
from fewshot.images.findings import Finding
from fewshot.images.labels import Labels, show
from fewshot.images.layout import Collected
from fewshot.images.paths import open_path, stat_path

MAX_MISSING_SHARE = 0.05
"""With more missing images than this share, reading stops: the paths start somewhere else, or the table is old."""

TABLE_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_MAX_LINE = 4 * 2**20
"""Characters in one line at most: a file without line breaks is no table, and need not fit into memory."""

_SHOWN = 5
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
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True)
class _Columns:
    """The columns' names, and at which positions images and labels are."""

    names: tuple[str, ...]
    image: int
    label: int


def read_table(
    path: str | os.PathLike[str],
    *,
    image_column: str = "image",
    label_column: str = "label",
    root: str | os.PathLike[str] | None = None,
) -> Collected:
    """Read image paths and labels; see :meth:`fewshot.ImageDataset.from_csv`.

    Raises:
        DatasetError: a file that is no such table, faults in its rows, or too many missing images, with row numbers.
    """
    table = Path(path)
    base = Path(root).expanduser() if root is not None else table.parent
    with _open(table) as handle:
        try:
            return _collect(table, handle, base, (image_column, label_column))
        except UnicodeError as error:
            raise DatasetError(
                f"{show(str(table))} is not UTF-8 text ({error}). Save it as CSV in UTF-8; in Excel: CSV UTF-8."
            ) from None


def _collect(table: Path, handle: io.TextIOWrapper, base: Path, wanted: tuple[str, str]) -> Collected:
    rows = _rows(table, handle, wanted)
    columns = _find_columns(table, next(rows)[1], wanted)
    labels = Labels()
    kept: list[tuple[str, str]] = []
    faults: list[str] = []
    missing: list[tuple[int, str, str, str]] = []
    for number, row in rows:
        if not row:
            continue
        if fault := _fault(row, columns, labels):
            faults.append(f"row {number}: {fault}")
            continue
        image, label = row[columns.image].strip(), labels.normalise(row[columns.label])
        source, problem = _find_image(base, image)
        if problem:
            missing.append((number, source, label, problem))
        else:
            kept.append((source, label))
    _stop(table, faults, missing, kept)
    return Collected(
        tuple(source for source, _ in kept),
        tuple(label for _, label in kept),
        (*_missing_findings(table, missing), *labels.findings()),
    )


def _open(table: Path) -> io.TextIOWrapper:
    """Open a table in its encoding, refusing what only pretends to be one."""
    name = show(str(table))
    try:
        mode = stat_path(table).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not an ordinary file (a pipe, device or socket)"
            raise DatasetError(f"{name} cannot be read as a table: this is {kind}. Give the path of a CSV.")
        binary = os.fdopen(open_path(table), "rb")
    except FileNotFoundError:
        raise DatasetError(f"No such file: {name}.") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    head = binary.peek(64)
    for signature, kind in _NOT_TABLES:
        if head.lstrip().lower().startswith(signature.lower()):
            binary.close()
            raise DatasetError(f"{name} is no CSV, whatever its name says: this is {kind}.")
    encoding = next((encoding for mark, encoding in _ENCODINGS if head.startswith(mark)), "utf-8-sig")
    return io.TextIOWrapper(binary, encoding=encoding, newline="")


def _rows(table: Path, handle: io.TextIOWrapper, wanted: tuple[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Give (number, cells) of each row, the header first, once the delimiter is known."""
    lines = _lines(table, handle)
    first, number = next(lines, ""), 1
    said = re.fullmatch(r"sep=(.)\s*", first, re.DOTALL)
    # Excel takes this line for itself and does not show it as a row.
    delimiter = said[1] if said else _delimiter(first, wanted)
    if delimiter in ('"', "\r", "\n", " ") or not (delimiter.isprintable() or delimiter == "\t"):
        raise DatasetError(f"{show(str(table))} begins with {first.strip()!r}; separate its columns by commas.")
    rest = lines if said else _chain(first, lines)
    reader = csv.reader(rest, delimiter=delimiter, strict=True)
    try:
        yield 1, next(reader, [])
        for row in reader:
            number += 1
            yield number, row
    except csv.Error as error:
        raise _broken(table, number + 1, delimiter, error) from None


def _broken(table: Path, row: int, delimiter: str, error: csv.Error) -> DatasetError:
    text = str(error)
    if "unexpected end" in text or "field limit" in text:
        text = 'a cell begins with a quote (") that is never closed, or holds more than a path or label can'
    elif "expected after" in text:
        text = f'a quoted cell must end with a quote (") and then {_DELIMITERS.get(delimiter, repr(delimiter))}'
    return DatasetError(f"{show(str(table))}: row {row} cannot be read: {text}.")


def _lines(table: Path, handle: io.TextIOWrapper) -> Iterator[str]:
    """Give lines with their ends; a NUL or a line without end shows that this is no table."""
    number = 0
    while line := handle.readline(_MAX_LINE):
        number += 1
        if "\0" in line:
            raise DatasetError(
                f"{show(str(table))}: line {number} holds NUL characters; this is no text, or UTF-16 without a "
                "byte-order mark. Save it as CSV in UTF-8."
            )
        if len(line) == _MAX_LINE:
            raise DatasetError(f"{show(str(table))}: line {number} has over {_MAX_LINE:,} characters; this is no CSV.")
        yield line


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _delimiter(header: str, wanted: tuple[str, str]) -> str:
    """Find what separates the columns: that by which both wanted ones are there, else what there is most of."""
    for delimiter in _DELIMITERS:
        names = _clean(next(csv.reader([header], delimiter=delimiter), []))
        if all(name in names for name in map(_clean_name, wanted)):
            return delimiter
    return max(_DELIMITERS, key=header.count)


def _clean(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(_clean_name, names))


def _clean_name(name: str) -> str:
    return name.strip("\ufeff \t\r\n\xa0")


def _find_columns(table: Path, header: Sequence[str], wanted: tuple[str, str]) -> _Columns:
    names = _clean(header)
    places = []
    for column in map(_clean_name, wanted):
        if names.count(column) > 1:
            raise DatasetError(f"{show(str(table))} has {names.count(column)} columns called {column!r}; rename one.")
        if column not in names:
            near = difflib.get_close_matches(column.lower(), [name.lower() for name in names], n=3, cutoff=0.6)
            close = [name for name in dict.fromkeys(names) if name.lower() in near]
            guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise DatasetError(
                f"{show(str(table))} has no column {column!r}; its columns are {list(names)}.{guess} Name them with "
                "image_column= and label_column=."
            )
        places.append(names.index(column))
    return _Columns(names, *places)


def _fault(row: Sequence[str], columns: _Columns, labels: Labels) -> str:
    """Say what is wrong with a row itself; nothing where it is right."""
    if any(cell.strip() for cell in row[len(columns.names) :]):
        return f"{len(row)} cells, but {len(columns.names)} columns; put a cell that holds the delimiter in quotes"
    if len(row) <= columns.image or not row[columns.image].strip():
        return f"empty {show(columns.names[columns.image])}"
    if len(row) <= columns.label or not labels.normalise(row[columns.label]):
        return f"empty {show(columns.names[columns.label])}"
    if url := _URL.match(row[columns.image].strip()):
        return f"{show(row[columns.image].strip())} is an address ({url[0]}), not a file; download it and give its path"
    return ""


def _find_image(base: Path, image: str) -> tuple[str, str]:
    """Find the file that a cell means; return its path and why it cannot be used, empty if it can."""
    problem = ""
    for candidate in _readings(image):
        path = str(base / candidate)
        try:
            mode = stat_path(path).st_mode
        except PermissionError:
            return path, "may not be read"
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ELOOP:
                problem = "is a loop of links"
            continue
        if stat.S_ISREG(mode):
            return path, ""
        problem = "is a folder" if stat.S_ISDIR(mode) else "is no ordinary file (a pipe, device or socket)"
    if not problem and os.name != "nt" and _WINDOWS.match(image):
        problem = "is a path of Windows, and this system has no drives"
    return str(base / image), problem or "no such image"


def _readings(image: str) -> Iterator[str]:
    """Give what a path may mean: itself, one in the user's home, or one written on Windows."""
    yield image
    if image.startswith("~"):
        yield os.path.expanduser(image)
    if os.sep == "/" and "\\" in image:
        yield image.replace("\\", "/")


def _stop(
    table: Path, faults: list[str], missing: list[tuple[int, str, str, str]], kept: list[tuple[str, str]]
) -> None:
    """Stop at faults of the table, at too many missing images, and where nothing or no image of a class is left."""
    name = show(str(table))
    if faults:
        raise DatasetError(f"{name}: {_first(faults)}.")
    said = [_missing_text(*row) for row in missing]
    if len(missing) > MAX_MISSING_SHARE * (len(missing) + len(kept)):
        raise DatasetError(
            f"{name}: {len(missing)} of {len(missing) + len(kept)} images cannot be used: {_first(said)}. Relative "
            "paths start at the folder of the CSV; another one can be given as root=."
        )
    lost = sorted({label for _, _, label, _ in missing} - {label for _, label in kept})
    if lost:
        raise DatasetError(f"{name}: no image of {', '.join(map(repr, map(show, lost)))} can be used: {_first(said)}.")
    if not kept:
        raise DatasetError(f"{name} has a header but no rows.")


def _missing_text(row: int, path: str, _: str, problem: str) -> str:
    return f"row {row}: {problem} {show(path)}" if problem.startswith("no ") else f"row {row}: {show(path)} {problem}"


def _missing_findings(table: Path, missing: list[tuple[int, str, str, str]]) -> list[Finding]:
    codes = {"may not be read": "PERMISSION", "no such image": "VANISHED"}
    groups: dict[str, list[tuple[int, str, str, str]]] = {}
    for row in missing:
        groups.setdefault(codes.get(row[3], "NOT_A_FILE"), []).append(row)
    return [
        Finding(
            code,
            f"{len(rows)} images of {show(str(table))} were left out: {_first([_missing_text(*row) for row in rows])}.",
            tuple(path for _, path, _, _ in rows),
            "warning",
        )
        for code, rows in sorted(groups.items())
    ]


def _first(texts: list[str]) -> str:
    """Show the first few, and say how many more there are."""
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
