"""Tables of image paths and labels.

A fault of the table (an empty cell, a quote that is never closed) stops; image files that are missing are treated as
any bad file: left out and listed, unless they are more than 5 % or all of a class.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fewshot.errors import DatasetError
from fewshot.images.findings import Finding, shortened
from fewshot.images.labels import Labels, show
from fewshot.images.layout import Collected
from fewshot.images.paths import stat_path
from fewshot.images.rows import Table

MAX_MISSING_SHARE = 0.05
"""With more missing images than this share, reading stops: the paths start somewhere else, or the table is old."""

TABLE_SUFFIXES = (".csv", ".tsv")
_SHOWN = 5
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class _Missing(NamedTuple):
    """A row whose image cannot be used."""

    row: int
    path: str
    label: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.reason.format(show(self.path))}"


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
    base = str(Path(path).parent if root is None else Path(root).expanduser())
    labels = Labels()
    sources: list[str] = []
    kept: list[str] = []
    faults: list[str] = []
    missing: list[_Missing] = []
    with Table(Path(path)) as table:
        rows = table.rows(image_column, label_column)
        row = next(rows, None)
        image_at, label_at = table.position(image_column), table.position(label_column)
        while row is not None:
            number, cells = row
            row = next(rows, None)
            if not cells:
                continue
            if fault := _fault(cells, table, image_at, label_at, labels):
                faults.append(f"row {number}: {fault}")
                continue
            label = labels.normalise(cells[label_at])
            source, code, reason = _find_image(base, cells[image_at].strip())
            if code:
                missing.append(_Missing(number, source, label, code, reason))
            else:
                sources.append(source)
                kept.append(label)
    _stop(table.name, faults, missing, kept)
    others = [name for at, name in enumerate(table.columns) if at not in (image_at, label_at) and name.strip()]
    unused = [Finding("UNUSED_COLUMNS", f"Of {table.name}, not used: {shortened(others)}.")] if others else []
    return Collected(tuple(sources), tuple(kept), (*unused, *_findings(table.name, missing), *labels.findings()))


def _fault(cells: Sequence[str], table: Table, image_at: int, label_at: int, labels: Labels) -> str:
    """Say what is wrong with a row itself; nothing where it is right."""
    n_columns = len(table.columns)
    if len(cells) > n_columns and any(cell.strip() for cell in cells[n_columns:]):
        return f"{len(cells)} cells, but {n_columns} columns; put a cell that holds the delimiter in quotes"
    if len(cells) <= image_at or not (image := cells[image_at].strip()):
        return f"empty {show(table.columns[image_at])}"
    if len(cells) <= label_at or not labels.normalise(cells[label_at]):
        return f"empty {show(table.columns[label_at])}"
    if "://" in image and _URL.match(image):
        return f"{show(image)} is an address, not a file; download it and give its path"
    return ""


def _find_image(base: str, image: str) -> tuple[str, str, str]:
    """Find the file that a cell means: (path, code, reason), the last two empty if it can be used."""
    code, reason = "VANISHED", "no such image {}"
    if os.name != "nt" and _WINDOWS.match(image):
        reason = "{} is a path of Windows, which this system has not"
    for candidate in _readings(image):
        path = _under(base, candidate)
        try:
            mode = stat_path(path).st_mode
        except PermissionError:
            return path, "PERMISSION", "{} may not be read"
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ELOOP:
                code, reason = "NOT_A_FILE", "{} is a loop of links"
            continue
        if stat.S_ISREG(mode):
            return path, "", ""
        kind = "a folder" if stat.S_ISDIR(mode) else "no ordinary file (a pipe, device or socket)"
        code, reason = "NOT_A_FILE", f"{{}} is {kind}"
    return _under(base, image), code, reason


def _under(base: str, image: str) -> str:
    """Join as :class:`pathlib.Path` does, which takes long for a million rows and changes few of them."""
    if image.startswith(".") or "/." in image or "//" in image or base == os.curdir or os.name == "nt":
        return str(Path(base) / image)
    return os.path.join(base, image)


def _readings(image: str) -> Iterator[str]:
    """Give what a path may mean: itself, one in the user's home, or one written on Windows."""
    yield image
    if image.startswith("~"):
        yield os.path.expanduser(image)
    if os.sep == "/" and "\\" in image:
        yield image.replace("\\", "/")


def _stop(name: str, faults: list[str], missing: list[_Missing], kept: list[str]) -> None:
    """Stop at faults of the table, at too many missing images, and where nothing or no image of a class is left."""
    if faults:
        raise DatasetError(f"{name}: {_first(faults)}.")
    if len(missing) > MAX_MISSING_SHARE * (len(missing) + len(kept)):
        raise DatasetError(
            f"{name}: {len(missing)} of {len(missing) + len(kept)} images cannot be used: {_first(missing)}. Relative "
            "paths start at the folder of the CSV; another one can be given as root=."
        )
    lost = sorted({one.label for one in missing} - set(kept))
    if lost:
        raise DatasetError(f"{name}: no image of {', '.join(map(repr, lost))} can be used: {_first(missing)}.")
    if not kept:
        raise DatasetError(f"{name} has a header but no rows.")


def _findings(name: str, missing: list[_Missing]) -> list[Finding]:
    groups: dict[str, list[_Missing]] = {}
    for one in missing:
        groups.setdefault(one.code, []).append(one)
    return [
        Finding(
            code,
            f"{len(some)} images of {name} were left out: {_first(some)}.",
            tuple(one.path for one in some),
            "warning",
        )
        for code, some in sorted(groups.items())
    ]


def _first(problems: Sequence[object]) -> str:
    """Show the first few, and say how many more there are."""
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(map(str, problems[:_SHOWN])) + more
