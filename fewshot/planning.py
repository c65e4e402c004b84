"""What a benchmark will do, settled before anything is computed: data sets, strategies, tasks, cells and settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike
from fewshot.backbones import load_backbone
from fewshot.backbones.base import Backbone
from fewshot.cells import Event, OnEvent
from fewshot.episodes import EpisodeSampler, Protocol
from fewshot.errors import DatasetError, InvalidInputError
from fewshot.evaluation import DRAW
from fewshot.heads import list_heads, make_head
from fewshot.heads.base import Head
from fewshot.identity import backbone_identity, digest_of, head_identity, machine_identity
from fewshot.images.audit import AuditedDataset, audit
from fewshot.images.data_report import describe
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding, messages
from fewshot.images.leakage import without_leakage
from fewshot.images.sources import DatasetSpec, dataset_name, load_dataset, load_splits, name_datasets
from fewshot.names import unknown_name
from fewshot.preparation import Prepared, environment, prepare, strategy_info, usable
from fewshot.report.benchmark import DatasetInfo
from fewshot.report.model import StrategyInfo
from fewshot.strategies import Strategy, make_strategies
from fewshot.tasks import FROZEN_BLOCK, TRAINED_BLOCK, Cell

Datasets: TypeAlias = "DatasetSpec | Sequence[DatasetSpec] | Mapping[str, DatasetSpec]"
Shots: TypeAlias = "int | tuple[int, int]"

DEFAULT_STRATEGIES = ("prototypical", "linear-probe", "ridge", "gda", "knn")
"""What is compared where nothing is named: inductive heads on one central view, milliseconds per episode."""


@dataclass(frozen=True)
class Settings:
    """What a person asked for; see :func:`fewshot.benchmark`."""

    n_way: int | tuple[int, int] | None = 5
    k_shots: tuple[Shots, ...] = (1, 5)
    n_query: int | None = 15
    imbalance: float | None = None
    n_episodes: int = 600
    trained_episodes: int = 30
    fixed_split: bool = False
    n_views: int = 16
    seed: int = 0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_episodes", "trained_episodes", "n_views"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        if isinstance(self.seed, np.integer):
            object.__setattr__(self, "seed", int(self.seed))
        if not isinstance(self.overrides, Mapping) or not all(isinstance(v, Mapping) for v in self.overrides.values()):
            raise InvalidInputError(f"overrides={self.overrides!r}: needs a mapping from data sets to mappings.")

    def protocols(self, dataset: str) -> list[Protocol]:
        """Give the protocols of a data set, one per number of shots."""
        own = dict(self.overrides.get(dataset, {}))
        shots = as_shots(own.pop("k_shots", self.k_shots))
        strangers = sorted(own.keys() - {"n_way", "n_query", "imbalance"})
        if strangers:
            raise unknown_name("setting of a data set", strangers[0], ("k_shots", "n_way", "n_query", "imbalance"))
        common = {"n_way": self.n_way, "n_query": self.n_query, "imbalance": self.imbalance} | own
        return [Protocol(k_shot=k_shot, **common) for k_shot in shots]


@dataclass(frozen=True, eq=False)
class PlannedDataset:
    """A data set, read and checked.

    Attributes:
        name: in tables.
        source: how it was given.
        dataset: its images; those of the training split first where splits are kept apart.
        is_query: (n,) images of the test split, or ``None``.
        digest: of all images and labels.
        protocols: one per number of shots.
        findings: what was understood and what was left out.
        data: the same as plain data, for reports.
    """

    name: str
    source: str
    dataset: ImageDataset
    is_query: NDArray[np.bool_] | None
    digest: str
    protocols: list[Protocol]
    findings: tuple[Finding, ...]
    data: dict[str, Any]

    def info(self) -> DatasetInfo:
        """Describe it for a report."""
        counts = self.dataset.counts().values()
        return DatasetInfo(self.name, self.source, len(self.dataset), len(counts), min(counts), max(counts))


@dataclass(frozen=True, eq=False)
class Entry:
    """A strategy with the backbone it uses: a line of the tables."""

    name: str
    prepared: Prepared
    backbone: Backbone | None

    def info(self, n_views: int) -> StrategyInfo:
        """Describe it for a report."""
        spec = None if self.backbone is None else self.backbone.spec
        return replace(strategy_info(self.prepared, spec, n_views), name=self.name)


@dataclass(frozen=True, eq=False)
class PlannedTask:
    """A task, and the cells that want it; see :mod:`fewshot.tasks`."""

    key: str
    dataset: PlannedDataset
    entries: tuple[Entry, ...]
    cells: tuple[Cell, ...]

    @property
    def backbone(self) -> Backbone | None:
        """The backbone of all entries."""
        return self.entries[0].backbone

    @property
    def trains(self) -> bool:
        """Whether pictures are trained on, rather than features."""
        return self.entries[0].prepared.trains


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything a run will do."""

    settings: Settings
    datasets: list[PlannedDataset]
    entries: list[Entry]
    tasks: list[PlannedTask]
    reference: str
    notes: list[str]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return sum(len(task.cells) for task in self.tasks)

    def fixed_settings(self) -> dict[str, Any]:
        """Everything that results depend on: a run may be continued only with the same."""
        backbones = {e.backbone.spec: backbone_identity(e.backbone) for e in self.entries if e.backbone is not None}
        return {
            **machine_identity(),
            "seed": self.settings.seed,
            "n_episodes": self.settings.n_episodes,
            "trained_episodes": self.settings.trained_episodes,
            "n_views": self.settings.n_views,
            "draw": DRAW,
            "backbones": backbones,
            "strategies": {e.name: [head_identity(e.prepared), e.prepared.policy.spec] for e in self.entries},
            "datasets": {
                one.name: {
                    "digest": one.digest,
                    "fixed_split": one.is_query is not None,
                    "protocols": {protocol.shots: asdict(protocol) for protocol in one.protocols},
                }
                for one in self.datasets
            },
        }

    def about(self, title: str) -> dict[str, Any]:
        """What a report needs besides."""
        shots = list(dict.fromkeys(protocol.shots for one in self.datasets for protocol in one.protocols))
        backbones = {e.backbone.spec: e.backbone for e in self.entries if e.backbone is not None}
        made_with = [environment(backbone, self.settings.n_views) for backbone in backbones.values()]
        found = made_with[0] if made_with else {}
        if len(made_with) > 1:
            found = found | {key: ", ".join(one[key] for one in made_with) for key in ("backbone", "runtime")}
        return {
            "title": title,
            "protocol": _in_words(self.settings, self.datasets),
            "shots": shots,
            "datasets": [asdict(one.info()) for one in self.datasets],
            "strategies": [asdict(entry.info(self.settings.n_views)) for entry in self.entries],
            "reference": self.reference,
            "notes": self.notes,
            "data": {one.name: one.data for one in self.datasets},
            "environment": found,
            "n_cells": self.n_cells,
            "images": {
                one.name: {
                    "names": list(one.dataset.names),
                    "labels": list(one.dataset.labels),
                    "is_query": None if one.is_query is None else one.is_query.astype(int).tolist(),
                }
                for one in self.datasets
            },
        }


def make_plan(
    datasets: Datasets,
    strategies: Iterable[str | Strategy] | str | None,
    backbones: Iterable[str | Backbone] | str | Backbone,
    augmentation: AugmentationLike,
    settings: Settings,
    reference: str | None,
    strict: bool,
    keep_near_duplicates: bool = False,
    on_event: OnEvent | None = None,
) -> Plan:
    """Resolve and check everything that can be checked before features are extracted; see :func:`fewshot.benchmark`."""
    strategies = _listed(strategies)
    prepared = prepare(resolve_strategies(strategies), augmentation)
    named = list_datasets(datasets)
    strangers = sorted(settings.overrides.keys() - named.keys())
    if strangers:
        raise unknown_name("data set", strangers[0], named)
    loaded = {name: _load(spec, settings.fixed_split) for name, spec in named.items()}
    for name, (dataset, is_query) in loaded.items():
        _check_protocols(name, dataset, is_query, settings)
    wanted = list(backbones) if isinstance(backbones, Iterable) and not isinstance(backbones, str) else [backbones]
    if not wanted:
        raise InvalidInputError("backbones: none given.")
    found = [load_backbone(backbone) for backbone in wanted]
    entries, notes = _make_entries(prepared, found, strict=not _open_list(strategies))
    planned = []
    for name, (dataset, is_query) in loaded.items():
        found_in = _audited(name, dataset, is_query, strict, keep_near_duplicates, on_event)
        one = _planned(name, named[name], found_in, settings)
        _check_protocols(name, one.dataset, one.is_query, settings)
        planned.append(one)
        notes += [note if len(named) == 1 else f"{name}: {note}" for note in messages(one.findings)]
    names = [entry.name for entry in entries]
    silent = [e.name for e in entries if not e.prepared.trains and not hasattr(e.prepared.head, "predict_proba")]
    if silent:
        notes.append(
            f"{', '.join(silent)} gives no probabilities: its log-loss, Brier score and calibration are those of a "
            "classifier that is certain of every answer."
        )
    if len(set(names)) < len(names):
        raise InvalidInputError(f"Two of the strategies have one name: {', '.join(names)}. Is a backbone given twice?")
    if reference is not None and reference not in names:
        raise unknown_name("reference strategy", reference, names)
    if any(entry.prepared.trains for entry in entries) and settings.trained_episodes < settings.n_episodes:
        notes.append(
            f"Strategies that train a network run on the first {settings.trained_episodes} of the "
            f"{settings.n_episodes} episodes; differences to them are taken on these."
        )
    chosen = reference or next((name for name in names if name.startswith("linear-probe")), names[0])
    tasks = [task for one in planned for task in _make_tasks(one, entries, settings)]
    return Plan(settings, planned, entries, tasks, chosen, notes)


def _open_list(strategies: Any) -> bool:
    """Whether strategies are left out where a backbone cannot serve them: not all of them were named."""
    return strategies is None or bool({"all", "default"} & set(map(str, _listed(strategies))))


def _listed(strategies: Any) -> list[Any]:
    if strategies is None:
        return ["default"]
    if isinstance(strategies, (str, Strategy)) or hasattr(strategies, "fit"):
        return [strategies]
    if not isinstance(strategies, Iterable):
        raise InvalidInputError(
            f"strategies={strategies!r}: needs names or Strategy objects. For a head of your own: "
            "Strategy('mine', head)."
        )
    return list(strategies)


def resolve_strategies(strategies: Iterable[str | Strategy] | str | None) -> list[Strategy]:
    """Resolve names: of strategies, of heads, ``"default"`` and ``"all"``.

    Raises:
        UnknownNameError: none of these.
        InvalidInputError: one name twice, or none.
    """
    names: list[str | Strategy] = []
    for item in _listed(strategies):
        if item == "default":
            names += DEFAULT_STRATEGIES
        elif item == "all":
            heads = [name for name in list_heads() if isinstance(make_head(name), Head)]
            names += [*DEFAULT_STRATEGIES, *(n for n in heads if n not in DEFAULT_STRATEGIES)]
            names += [one.name for one in make_strategies("all") if one.name not in heads]
        else:
            names.append(item)
    return make_strategies(names)


def list_datasets(datasets: Datasets) -> dict[str, DatasetSpec]:
    """Give every data set a name of its own.

    Raises:
        InvalidInputError: none at all, or something that is no data set.
    """
    if isinstance(datasets, Mapping):
        found = {str(name): spec for name, spec in datasets.items()}
    else:
        alone = isinstance(datasets, (str, os.PathLike, ImageDataset))
        try:
            specs: list[Any] = [datasets] if alone else list(datasets)  # type: ignore[arg-type]
        except TypeError:
            specs = [datasets]
        for spec in specs:
            _check_spec(spec)
        found = dict(zip(name_datasets(specs), specs, strict=True))
    for spec in found.values():
        _check_spec(spec)
    if not found:
        raise InvalidInputError("datasets: none given. Give a folder with one folder per class, or a name: 'fruits'.")
    return found


def _check_spec(spec: object) -> None:
    if not isinstance(spec, (str, os.PathLike, ImageDataset)):
        raise InvalidInputError(f"datasets: {spec!r} is neither a path, a name, nor an ImageDataset.")


def as_shots(k_shots: Any) -> tuple[Shots, ...]:
    """Turn one or several numbers of shots into a tuple; a pair inside is a range.

    Raises:
        InvalidInputError: none, one twice, or something else.
    """
    try:
        several: list[Any] = [k_shots] if isinstance(k_shots, (int, np.integer)) else list(k_shots)
    except TypeError:
        raise InvalidInputError(f"k_shots={k_shots!r}: needs a whole number, or several: (1, 5).") from None
    shots = tuple(Protocol(k_shot=k_shot).k_shot for k_shot in several)
    if not shots or len(set(shots)) < len(shots):
        raise InvalidInputError(f"k_shots={k_shots!r}: {'a number is given twice' if shots else 'none given'}.")
    return shots


def check_count(name: str, value: object) -> int:
    """Give a positive whole number as Python's.

    Raises:
        InvalidInputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInputError(f"{name}={value!r}: needs a whole number of at least 1.")
    return int(value)


def _load(spec: DatasetSpec, fixed_split: bool) -> tuple[ImageDataset, NDArray[np.bool_] | None]:
    if not fixed_split:
        return load_dataset(spec), None
    splits = load_splits(spec)
    if "train" not in splits:
        raise DatasetError(f"{dataset_name(spec)} has the splits {' and '.join(splits)}, but none to learn from.")
    test = "test" if "test" in splits else "val"
    return _joined(splits["train"], splits[test])


def _joined(train: ImageDataset, test: ImageDataset) -> tuple[ImageDataset, NDArray[np.bool_]]:
    strangers = sorted(set(test.labels) - set(train.labels))
    if strangers:
        raise DatasetError(f"The test split has classes that training has not: {', '.join(map(repr, strangers))}.")
    both = ImageDataset(
        (*train.sources, *test.sources),
        (*train.labels, *test.labels),
        image_names=(*train.names, *test.names),
        findings=(*train.findings, *test.findings),
    )
    return both, np.arange(len(both)) >= len(train)


def _check_protocols(name: str, dataset: ImageDataset, is_query: NDArray[np.bool_] | None, settings: Settings) -> None:
    """Refuse, before anything is computed, protocols that the data cannot serve."""
    for protocol in settings.protocols(name):
        try:
            EpisodeSampler(dataset.labels, protocol, seed=settings.seed, is_query=is_query)
        except DatasetError as error:
            raise DatasetError(f"{name}, {protocol.describe()}: {error}") from None


def _audited(
    name: str,
    dataset: ImageDataset,
    is_query: NDArray[np.bool_] | None,
    strict: bool,
    keep_near_duplicates: bool,
    on_event: OnEvent | None,
) -> tuple[AuditedDataset, AuditedDataset | None]:
    """Look at all images: those of both splits, where support and queries come from different ones."""

    def tell(done: int, total: int) -> None:
        if on_event is not None:
            on_event(Event("progress", f"images of {name} looked at", done, total))

    if is_query is None:
        found = audit(dataset, strict=strict, progress=tell)
        together = len(found.dataset) - len(np.unique(found.groups))
        if together:
            said = (
                f"{together} images are versions of others or frames of one video. An episode may learn from one and "
                "ask about another, which flatters accuracy."
            )
            found = replace(found, findings=(*found.findings, Finding("NOTE", said, severity="warning")))
        return found, None
    train = audit(dataset.subset(np.flatnonzero(~is_query)), strict=strict, progress=tell)
    queries = replace(dataset.subset(np.flatnonzero(is_query)), findings=())
    test = audit(queries, strict=strict, progress=tell)
    return train, without_leakage(train, test, keep_near_duplicates=keep_near_duplicates)


def _planned(
    name: str, spec: DatasetSpec, found: tuple[AuditedDataset, AuditedDataset | None], settings: Settings
) -> PlannedDataset:
    train, test = found
    source = "images in memory" if isinstance(spec, ImageDataset) else os.fspath(spec)
    dataset, is_query = (train.dataset, None) if test is None else _joined(train.dataset, test.dataset)
    digests = (*train.digests, *(() if test is None else test.digests))
    report = describe(train, test, source=source, test_source=source)
    text = json.dumps([digests, dataset.labels, None if is_query is None else is_query.tolist()])
    return PlannedDataset(
        name, source, dataset, is_query, digest_of(text), settings.protocols(name), report.findings, report.to_dict()
    )


def _make_entries(
    prepared: list[Prepared], backbones: list[Backbone], *, strict: bool
) -> tuple[list[Entry], list[str]]:
    """Combine strategies with backbones; those that need none take part once."""
    entries, notes = [Entry(one.strategy.name, one, None) for one in prepared if not one.needs_backbone], []
    short = short_names([backbone.spec for backbone in backbones])
    for backbone in backbones:
        kept, left_out = usable([one for one in prepared if one.needs_backbone], backbone, strict=strict)
        notes += left_out
        suffix = f"@{short[backbone.spec]}" if len(backbones) > 1 else ""
        entries += [Entry(f"{one.strategy.name}{suffix}", one, backbone) for one in kept]
    if not entries:
        raise InvalidInputError(f"No strategy can run: {' '.join(notes)}")
    return entries, notes


def short_names(specs: Sequence[str]) -> dict[str, str]:
    """Leave out what the names of all networks begin with, so that tables show where they differ.

    Example:
        >>> short_names(["efficientnet_lite0", "efficientnet_lite0+efficientnet_lite2"])
        {'efficientnet_lite0': 'lite0', 'efficientnet_lite0+efficientnet_lite2': 'lite0+lite2'}
    """
    parts = {part for spec in specs for part in spec.split("+")}
    # Character by character: what is wanted is where names, not paths, begin to differ.
    common = os.path.commonprefix(sorted(parts)) if len(parts) > 1 else ""  # noqa: RUF071
    common = common[: common.rfind("_") + 1]
    return {spec: "+".join(part.removeprefix(common) for part in spec.split("+")) for spec in specs}


def _make_tasks(dataset: PlannedDataset, entries: list[Entry], settings: Settings) -> list[PlannedTask]:
    """Group a data set's entries by what they share, and cut their episodes into cells."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        policy = "" if entry.prepared.trains else entry.prepared.policy.spec
        views = settings.n_views if entry.prepared.policy.has_views else 0
        key = json.dumps([dataset.digest, backbone_identity(entry.backbone), entry.prepared.trains, policy, views])
        groups.setdefault(digest_of(key), []).append(entry)
    tasks = []
    for key, members in groups.items():
        trains = members[0].prepared.trains
        block = TRAINED_BLOCK if trains else FROZEN_BLOCK
        total = min(settings.trained_episodes, settings.n_episodes) if trains else settings.n_episodes
        cells = [
            _cell(key, dataset.name, entry, protocol, settings.seed, first, min(first + block, total))
            for protocol in dataset.protocols
            for entry in members
            for first in range(0, total, block)
        ]
        tasks.append(PlannedTask(key, dataset, tuple(members), tuple(cells)))
    return tasks


def _cell(key: str, dataset: str, entry: Entry, protocol: Protocol, seed: int, first: int, last: int) -> Cell:
    what = [key, dataset, entry.name, head_identity(entry.prepared), entry.prepared.policy.spec]
    text = json.dumps([*what, asdict(protocol), seed, first, last])
    return Cell(digest_of(text), dataset, entry.name, protocol, first, last)


def _in_words(settings: Settings, datasets: list[PlannedDataset]) -> str:
    """How episodes are drawn, in one sentence."""
    kinds: dict[str, list[str]] = {}
    for one in datasets:
        shots = ", ".join(protocol.shots for protocol in one.protocols)
        words = replace(one.protocols[0], k_shot=1).describe().replace("1-shot", f"{shots} shots")
        kinds.setdefault(words, []).append(one.name)
    shown = "; ".join(f"{words} ({', '.join(names)})" if len(kinds) > 1 else words for words, names in kinds.items())
    split = " Support comes from the training split, queries from the test split." if settings.fixed_split else ""
    return f"{settings.n_episodes} episodes: {shown}.{split}"
