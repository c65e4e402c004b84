"""Suites: benchmarks written down as TOML files, so that a table can be made again with one command.

::

    title = "Two data sets"
    ways = 5
    shots = [1, 5]                       # or "1-10"
    strategies = ["default", "tim"]
    backbones = ["efficientnet_lite0"]

    [[datasets]]
    source = "fruits"

    [[datasets]]
    source = "{data}/omniglot"           # with --data FOLDER
    queries = 10                         # other values for this data set
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.errors import DatasetError, InvalidInputError
from fewshot.names import unknown_name

# What is wrong with a suite is said before torch is imported, which takes seconds.
if TYPE_CHECKING:
    from fewshot.cells import OnEvent
    from fewshot.report.benchmark import BenchmarkReport

_KEYS = (
    "title ways shots queries imbalance fixed_split episodes trained_episodes strategies backbones augmentation views "
    "representation reference seed out datasets"
).split()
_DATASET_KEYS = "name source ways shots queries imbalance".split()
_LISTS = ("strategies", "backbones")
DEFAULT_OUT = "fewshot-bench"


@dataclass(frozen=True)
class Suite:
    """A benchmark, as ``fewshot.benchmark`` takes it.

    Attributes:
        arguments: of that function.
        out: folder of the run.
        notes: data sets that were left out, and why.
    """

    arguments: dict[str, Any]
    out: str
    notes: tuple[str, ...]


def suite_from_options(
    path: Path | None, data: Path | None, datasets: Sequence[str], options: Mapping[str, Any]
) -> Suite:
    """Read a suite and put the command line's options and data sets over it.

    Args:
        path: the TOML file; without one, everything comes from the options.
        data: what ``{data}`` stands for; without it, data sets that need it are left out with a note.
        datasets: more of them.
        options: by the names that suites use; ``None`` where nothing was given.

    Raises:
        DatasetError: no such file.
        UnknownNameError: a key that suites do not have.
        InvalidInputError: not TOML, a value of the wrong kind, or no data set at all.
    """
    written = {} if path is None else _read(path)
    rows: list[Any] = [*written.pop("datasets", []), *({"source": source} for source in datasets)]
    chosen = written | {key: value for key, value in options.items() if value is not None}
    taken: list[str] = []
    named: list[str | None] = []
    own: list[dict[str, Any]] = []
    notes = []
    for row in rows:
        source = str(row.get("source", ""))
        if "{data}" in source and data is None:
            notes.append(f"{source} was left out: give --data FOLDER.")
            continue
        source = source.replace("{data}", str(data))
        taken.append(source)
        named.append(str(row["name"]) if row.get("name") else None)
        own.append(_protocol({key: row[key] for key in row if key not in ("name", "source")}))
    if not taken:
        hint = f" ({' '.join(notes)})" if notes else ""
        raise InvalidInputError(
            f"No data set was given{hint}. Give a folder with one folder per class, or a name: fewshot bench fruits"
        )
    from fewshot.images.sources import name_datasets

    names = [given or free for given, free in zip(named, name_datasets(taken), strict=True)]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"Two data sets have one name: {', '.join(names)}. Give one of them another.")
    arguments = _protocol(chosen) | {
        "datasets": dict(zip(names, taken, strict=True)),
        "overrides": {name: values for name, values in zip(names, own, strict=True) if values},
    }
    plain = {"episodes": "n_episodes", "views": "n_views"}
    taken_over = "fixed_split episodes trained_episodes augmentation views representation reference seed title"
    for key in taken_over.split():
        if key in chosen:
            arguments[plain.get(key, key)] = chosen[key]
    for key in _LISTS:
        if key in chosen:
            arguments[key] = _list(chosen[key])
    return Suite(arguments, str(chosen.get("out", DEFAULT_OUT)), tuple(notes))


def run_suite(
    suite: Suite,
    *,
    engine: str = "local",
    n_jobs: int | None = None,
    address: str | None = None,
    resume: bool = False,
    strict: bool = False,
    keep_near_duplicates: bool = False,
    cache: bool = True,
    on_event: OnEvent | None = None,
) -> BenchmarkReport:
    """Run a suite; see :func:`fewshot.benchmark` for the arguments and errors."""
    from fewshot.benchmarking import benchmark

    return benchmark(
        **suite.arguments,
        notes=suite.notes,
        out=suite.out,
        engine=engine,
        n_jobs=n_jobs,
        address=address,
        resume=resume,
        strict=strict,
        keep_near_duplicates=keep_near_duplicates,
        cache=cache,
        on_event=on_event,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"The suite {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not TOML: {error}.") from None
    for key in written:
        if key not in _KEYS:
            raise unknown_name(f"key of the suite {path},", key, _KEYS)
    rows = written.get("datasets", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInputError(f"{path}: data sets are tables, [[datasets]], each with a source.")
    for row in rows:
        for key in row:
            if key not in _DATASET_KEYS:
                raise unknown_name(f"key of a data set in {path},", key, _DATASET_KEYS)
        if not isinstance(row.get("source"), str):
            raise InvalidInputError(f"{path}: a data set has no source: {row}.")
    return written


def _protocol(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what suites and the command line write into the arguments of ``fewshot.benchmark``."""
    found: dict[str, Any] = {}
    if "ways" in values:
        found["n_way"] = None if values["ways"] == "all" else _number_or_range("ways", values["ways"])
    if "shots" in values:
        parts = values["shots"].split(",") if isinstance(values["shots"], str) else values["shots"]
        parts = parts if isinstance(parts, list) else [parts]
        found["k_shots"] = tuple(_number_or_range("shots", part) for part in parts)
    if "queries" in values:
        found["n_query"] = None if values["queries"] == "all" else _number("queries", values["queries"])
    if "imbalance" in values:
        found["imbalance"] = values["imbalance"]
    return found


def _number_or_range(name: str, value: object) -> int | tuple[int, int]:
    low, dash, high = str(value).strip().partition("-")
    return (_number(name, low), _number(name, high)) if dash else _number(name, low)


def _number(name: str, value: object) -> int:
    try:
        return int(str(value).strip())
    except ValueError:
        extra = {"ways": ", a range such as 2-10, or all", "shots": ", several with commas, or a range such as 1-10"}
        raise InvalidInputError(f"{name}={value!r}: needs a whole number{extra.get(name, ' or all')}.") from None


def _list(value: object) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise InvalidInputError(f"{value!r}: needs a list of names.")
    return [str(part).strip() for part in parts if str(part).strip()]
