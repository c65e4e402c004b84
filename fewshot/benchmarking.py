"""benchmark: strategies on thousands of episodes of many data sets, resumable, on one machine or a cluster."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fewshot.augment import AugmentationLike
from fewshot.backbones import DEFAULT_BACKBONE
from fewshot.backbones.base import Backbone
from fewshot.cells import Event, OnEvent
from fewshot.engines import check_jobs, make_engine
from fewshot.episodes import EpisodeSampler, Protocol
from fewshot.errors import InvalidInputError
from fewshot.evaluation import FeatureTask, evaluate_blocks
from fewshot.features import check_varied
from fewshot.finetune.base import ImageHead
from fewshot.heads import make_head
from fewshot.heads.base import TransductiveHead
from fewshot.images.dataset import as_labels
from fewshot.images.reader import ImageLike
from fewshot.journal import Journal, Record
from fewshot.planning import (
    DEFAULT_STRATEGIES,
    Datasets,
    Plan,
    PlannedTask,
    Settings,
    Shots,
    as_shots,
    check_count,
    make_plan,
)
from fewshot.preparation import reloadable
from fewshot.report.benchmark import BenchmarkReport, DatasetInfo
from fewshot.report.model import StrategyInfo
from fewshot.representation.base import Parts
from fewshot.results import build_report
from fewshot.store import FeatureStore
from fewshot.strategies import Strategy
from fewshot.tasks import Cell, FrozenTask, Task, TrainedTask, make_record


def benchmark(
    datasets: Datasets,
    *,
    strategies: Iterable[str | Strategy] | str | None = None,
    backbones: Iterable[str | Backbone] | str | Backbone = DEFAULT_BACKBONE,
    n_way: int | tuple[int, int] | None = 5,
    k_shots: Shots | Sequence[Shots] = (1, 5),
    n_query: int | None = 15,
    imbalance: float | None = None,
    n_episodes: int = 600,
    trained_episodes: int = 30,
    fixed_split: bool = False,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    augmentation: AugmentationLike = "heavy",
    n_views: int = 16,
    representation: str | None = None,
    reference: str | None = None,
    seed: int = 0,
    engine: str = "local",
    n_jobs: int | None = None,
    address: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    title: str | None = None,
    notes: Sequence[str] = (),
    cache: bool = True,
    strict: bool = False,
    keep_near_duplicates: bool = False,
    on_event: OnEvent | None = None,
) -> BenchmarkReport:
    """Evaluate strategies on episodes drawn from data sets.

    Everything is checked before features are extracted. Features are extracted once per data set, backbone and policy,
    and kept; heads on features then run on hundreds of episodes as one tensor operation. The same arguments give the
    same results on every engine, and however often a run was interrupted.

    Args:
        datasets: one, several, or a mapping from names: folders with one folder per class, CSVs, data sets, or names
            such as ``"fruits"``, ``"leaves:FOLDER"`` and ``"torchvision:Flowers102"``.
        strategies: names of strategies or of heads, or :class:`Strategy` objects; ``"default"`` means five heads on
            one central view, ``"all"`` everything there is.
        backbones: one or several, each a name or a backbone.
        n_way: classes per episode; a pair for a number drawn for each episode; ``None`` for all classes.
        k_shots: one or several numbers of support images per class; a pair inside the sequence is a range that each
            class draws its number from.
        n_query: queries per class; ``None`` for all images that are not support.
        imbalance: concentration of the Dirichlet distribution of the classes' shares of the queries; equal shares if
            omitted. 2 is the usual choice.
        n_episodes: per data set and number of shots.
        trained_episodes: at most so many for strategies that train a network, which takes seconds each.
        fixed_split: learn from images of the training split and ask about the test split's; with ``n_way=None`` and
            ``n_query=None`` this is the usual evaluation with K images per class.
        overrides: by data set: other values of ``n_way``, ``k_shots``, ``n_query`` and ``imbalance``.
        augmentation: takes the place of ``"heavy"``, as in :func:`fewshot.compare`.
        n_views: augmented views per support image, where a strategy uses them.
        representation: what is made of the backbone's features (:mod:`fewshot.representation`), in strategies that say
            nothing else and learn from features.
        reference: the strategy that differences are taken to; the first linear probe if omitted.
        seed: of everything random.
        engine: ``"local"``, ``"joblib"`` or ``"ray"``.
        n_jobs: threads, processes or actors; one per core if omitted.
        address: of a Ray cluster.
        out: folder for the journal, so that an interrupted run can go on.
        resume: go on with the journal in ``out``.
        title: of the report.
        notes: further notes for the report.
        cache: keep features on disk.
        strict: stop at the first unreadable image instead of leaving it out and saying so.
        keep_near_duplicates: with ``fixed_split``, ask about images of which another version is in training, too.
        on_event: called with progress.

    Raises:
        UnknownNameError: a strategy, backbone, policy, engine or data set nobody knows.
        InvalidInputError: an argument out of range.
        DatasetError: a data set that cannot serve the episodes, with the classes that are too small.
        JournalError: ``out`` holds a run that may not be continued, and what differs.
        ImageError: with ``strict``, an unreadable image.
    """
    settings = Settings(
        n_way,
        as_shots(k_shots),
        n_query,
        imbalance,
        n_episodes,
        trained_episodes,
        fixed_split,
        n_views,
        seed,
        {} if overrides is None else overrides,
    )
    if resume and out is None:
        raise InvalidInputError("resume=True needs out=, the folder of the run to go on with.")
    runner = make_engine(engine, n_jobs=n_jobs, address=address)
    with closing(runner):
        plan = make_plan(
            datasets,
            strategies,
            backbones,
            augmentation,
            settings,
            reference,
            strict,
            keep_near_duplicates,
            on_event,
            representation,
        )
        plan.notes.extend(notes)
        header = {"settings": plan.fixed_settings(), "about": plan.about(title or _title(plan))}
        with _journal(out, header, resume) as (records, keep):
            progress, costs = _Progress(plan, records, on_event), Costs()
            for planned in plan.tasks:
                costs.recall(planned, records)
                missing = [cell for cell in planned.cells if cell.id not in records]
                if missing:
                    task = make_task(planned, settings, costs, cache=cache, on_event=on_event)
                    for record in runner.run(task, missing):
                        keep(record)
                        progress.add(record)
    wanted = {cell.id for task in plan.tasks for cell in task.cells}
    sources = {one.name: dict(zip(one.dataset.names, one.dataset.sources, strict=True)) for one in plan.datasets}
    return build_report(header, {cell: records[cell] for cell in records if cell in wanted}, sources.__getitem__)


def evaluate_features(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    heads: Iterable[Any] | Mapping[str, Any] | str | None = None,
    n_way: int | tuple[int, int] | None = 5,
    k_shot: Shots = 1,
    n_query: int | None = 15,
    imbalance: float | None = None,
    n_episodes: int = 600,
    reference: str | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    name: str = "features",
    on_event: OnEvent | None = None,
) -> BenchmarkReport:
    """Evaluate heads on episodes drawn from any features: no images, no backbone.

    Args:
        features: (n, d), or (n, 1 + n_views, d) where augmented views of each image are learned from, too.
        labels: (n,) labels of any kind.
        heads: names, heads or scikit-learn classifiers, or a mapping from names to these.
        n_way: as in :func:`benchmark`, as for the next three.
        k_shot: support images per class, or a pair.
        n_query: queries per class.
        imbalance: of the queries.
        n_episodes: how many.
        reference: the head that differences are taken to.
        seed: of everything random.
        n_jobs: threads; one per core if omitted. The result does not depend on it.
        name: of the data, for tables.
        on_event: called with progress.

    Raises:
        UnknownNameError: a head nobody registered.
        InvalidInputError: an argument out of range, a head that needs pictures, or features that are not finite.
        DatasetError: too few images in some class.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(np.arange(10), 20)
        >>> X = rng.normal(size=(10, 32))[y] + 0.5 * rng.normal(size=(200, 32))
        >>> report = evaluate_features(X, y, heads=["prototypical"], n_query=5, n_episodes=64)
        >>> report.accuracy("features", "prototypical", 1).value > 0.5
        True
    """
    values, tags = _as_features(features), as_labels(labels)
    if len(values) != len(tags):
        raise InvalidInputError(f"Got {len(values)} feature vectors and {len(tags)} labels; give one label for each.")
    n_episodes = check_count("n_episodes", n_episodes)
    check_jobs(n_jobs)
    named = _named_heads(heads)
    protocol = Protocol(n_way, k_shot, n_query, imbalance)
    sampler = EpisodeSampler(tags, protocol, seed=seed)
    task = FeatureTask(values, sampler, device="cuda" if torch.cuda.is_available() else "cpu")
    tell = None if on_event is None else lambda done, total: on_event(Event("progress", "episodes", done, total))
    scores = evaluate_blocks(task, named, range(n_episodes), seed=seed, n_jobs=n_jobs, progress=tell)
    records = {
        head: make_record(Cell(head, name, head, protocol, 0, n_episodes), found, 0.0) for head, found in scores.items()
    }
    counts = np.unique(tags, return_counts=True)[1]
    header = {
        "settings": {"seed": seed, "datasets": {name: {"protocols": {protocol.shots: asdict(protocol)}}}},
        "about": {
            "title": f"{len(named)} heads on {n_episodes} episodes of {len(values)} feature vectors",
            "protocol": f"{n_episodes} episodes: {protocol.describe()}.",
            "shots": [protocol.shots],
            "datasets": [
                asdict(DatasetInfo(name, "features", len(values), len(counts), int(counts.min()), int(counts.max())))
            ],
            "strategies": [asdict(_head_info(key, head, values.shape[1] - 1)) for key, head in named.items()],
            "reference": _reference(reference, list(named)),
            "notes": [],
            "environment": {},
            "n_cells": len(named),
            "images": {
                name: {
                    "names": [f"row {i}" for i in range(len(tags))],
                    "labels": [str(tag) for tag in tags.tolist()],
                    "is_query": None,
                }
            },
        },
    }
    return build_report(header, records, lambda _: {})


def _as_features(features: ArrayLike) -> NDArray[np.floating]:
    """Turn features into (n, 1 + n_views, d) numbers."""
    try:
        values = np.asarray(features)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"they are of type {values.dtype}")
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"These features are no array of real numbers: {error}.") from None
    values = values[:, None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        raise InvalidInputError(f"Got features of shape {np.shape(features)}; needs (n, d) or (n, 1 + n_views, d).")
    return np.asarray(values, dtype=np.float64) if values.dtype.kind in "iub" else values


def _named_heads(heads: Iterable[Any] | Mapping[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(heads, Mapping):
        found = {str(key): make_head(head) for key, head in heads.items()}
    else:
        alone = isinstance(heads, str) or hasattr(heads, "fit")
        given: list[Any] = [heads] if alone else list(DEFAULT_STRATEGIES if heads is None else heads)
        found = {head if isinstance(head, str) else repr(head): make_head(head) for head in given}
        if len(found) < len(given):
            raise InvalidInputError(f"heads: one is given twice: {', '.join(map(str, given))}.")
    for key, head in found.items():
        if isinstance(head, ImageHead):
            raise InvalidInputError(f"{key} trains on pictures, and these are features; use fewshot.benchmark.")
        getattr(head, "_check_parameters", lambda: None)()
    if not found:
        raise InvalidInputError("heads: none given.")
    return found


def _head_info(name: str, head: Any, n_views: int) -> StrategyInfo:
    setting = "transductive" if isinstance(head, TransductiveHead) else "inductive"
    return StrategyInfo(name, repr(head), "given features", "none", n_views, trains=False, setting=setting)


def _reference(reference: str | None, names: list[str]) -> str:
    if reference is None:
        return "linear-probe" if "linear-probe" in names else names[0]
    if reference not in names:
        from fewshot.names import unknown_name

        raise unknown_name("reference head", reference, names)
    return reference


@contextmanager
def _journal(out: str | os.PathLike[str] | None, header: Mapping[str, Any], resume: bool) -> Iterator[Any]:
    """Give the records so far, and a function that keeps another: on disk, or in memory where no folder is given."""
    if out is None:
        records: dict[str, Record] = {}
        yield records, lambda record: records.update({record["cell"]: record})
    else:
        with Journal(out, header["settings"], header["about"], resume=resume) as journal:
            yield journal.records, journal.append


class _Progress:
    """Counts episodes, those of an earlier run too."""

    def __init__(self, plan: Plan, records: Mapping[str, Record], on_event: OnEvent | None) -> None:
        cells = [cell for task in plan.tasks for cell in task.cells]
        self._total = sum(cell.last - cell.first for cell in cells)
        self._done = sum(cell.last - cell.first for cell in cells if cell.id in records)
        self._on_event = on_event

    def add(self, record: Record) -> None:
        self._done += len(record["episodes"])
        if self._on_event is not None:
            self._on_event(Event("progress", "episodes", self._done, self._total))


def make_task(
    planned: PlannedTask, settings: Settings, costs: Costs, *, cache: bool = True, on_event: OnEvent | None = None
) -> Task:
    """Extract the features that a task's cells need, or gather the pictures."""
    one = planned.dataset
    common: dict[str, Any] = {
        "key": uuid.uuid4().hex,
        "labels": one.dataset.labels,
        "is_query": one.is_query,
        "seed": settings.seed,
    }
    heads = {entry.name: entry.prepared.head for entry in planned.entries}
    if planned.trains:
        backbone = planned.backbone
        return TrainedTask(
            **common,
            dataset=one.dataset,
            heads=heads,
            policies={entry.name: entry.prepared.policy for entry in planned.entries},
            # A backbone made from a name is loaded again by each process; sending its weights would cost more.
            backbone=DEFAULT_BACKBONE if backbone is None else reloadable(backbone),
            n_views=settings.n_views,
        )
    start = time.perf_counter()
    features = _extract(planned, settings, cache, on_event)
    costs.add(planned, time.perf_counter() - start)
    return FrozenTask(**common, features=features, heads=heads, extract_seconds=costs.of(planned))


class Costs:
    """What features cost in this run, by network: a joined backbone finds those of its networks stored."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, str], float] = {}

    def add(self, planned: PlannedTask, seconds: float) -> None:
        """Share out the time of an extraction among the networks that were run."""
        fresh = [key for key in self._keys(planned) if key not in self._seconds]
        # The same network twice, under two names, costs once.
        self._seconds |= {key: seconds / len(fresh) for key in fresh}

    def recall(self, planned: PlannedTask, records: Mapping[str, Record]) -> None:
        """Take over what an interrupted run has noted."""
        found = [records[cell.id]["seconds"]["extract"] for cell in planned.cells if cell.id in records]
        if found and not planned.trains and len(self._keys(planned)) == 1:
            self.add(planned, max(found))

    def of(self, planned: PlannedTask) -> float:
        """Seconds that the features of a task cost, whenever in this run they were computed."""
        return sum(self._seconds[key] for key in self._keys(planned))

    def _keys(self, planned: PlannedTask) -> list[tuple[str, str, str]]:
        representation = planned.representation
        assert representation is not None  # noqa: S101 - for the type checker: heads on features need one
        views = f"{representation.name} {planned.entries[0].prepared.policy.spec}"
        return [(planned.dataset.digest, views, network.fingerprint) for network in representation.networks]


def _extract(planned: PlannedTask, settings: Settings, cache: bool, on_event: OnEvent | None) -> Parts:
    """Extract the parts of all images; views of images that are only asked about are not needed, and zero."""
    one, representation, policy = planned.dataset, planned.representation, planned.entries[0].prepared.policy
    assert representation is not None  # noqa: S101 - for the type checker: heads on features need one
    spec = representation.backbone.spec
    kind = "features" if representation.name == "plain" else f"{representation.name} features"
    subject = f"{kind} of {one.name}, {spec}{f', policy {policy.name}' if policy.has_views else ''}"

    def extract(sources: Sequence[ImageLike], augmentation: AugmentationLike) -> Parts:
        return representation.parts(
            sources,
            augmentation=augmentation,
            n_views=settings.n_views,
            seed=settings.seed,
            store=FeatureStore() if cache else None,
            progress=lambda done, total: on_event and on_event(Event("progress", subject, done, total)),
        )

    sources = one.dataset.sources
    if one.is_query is None or not policy.has_views:
        parts = extract(sources, policy)
        check_varied(parts.first, np.array(one.dataset.labels), spec, one.dataset.names)
        return parts
    support = extract([sources[i] for i in np.flatnonzero(~one.is_query)], policy)
    query = extract([sources[i] for i in np.flatnonzero(one.is_query)], None)
    return support.beside(query, one.is_query)


def _title(plan: Plan) -> str:
    count = len(plan.entries)
    names = ", ".join(one.name for one in plan.datasets[:4]) + (", ..." if len(plan.datasets) > 4 else "")
    return f"{count} {'strategies' if count > 1 else 'strategy'} on {names}"
