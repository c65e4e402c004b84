"""The demo: one photo of each of two fruits, every strategy, all held-out photos; then many other pairs of photos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray

from fewshot.augment import load_policy
from fewshot.backbones import DEFAULT_BACKBONE, load_backbone
from fewshot.cells import Event, OnEvent, train_and_predict, whole_split
from fewshot.comparison import compare
from fewshot.errors import InvalidInputError
from fewshot.files import write_file
from fewshot.finetune.base import ImageHead
from fewshot.fitting import fit_on_views
from fewshot.heads import make_head
from fewshot.images.dataset import ImageDataset
from fewshot.images.fruits import load_fruits
from fewshot.names import unknown_name
from fewshot.report.model import Draws, Report
from fewshot.representation import load_representation
from fewshot.representation.base import Parts, Representation
from fewshot.store import FeatureStore
from fewshot.strategies import STRATEGIES, Strategy, make_strategies

N_DRAWS = 200
_POOL = 70
"""Training photos that draws are made from, over all classes in play: their heavy views are what takes the time."""


_MIN_TRAINED = 3
"""Draws that networks are trained on in any case."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made: the report, and where it put the training photos."""

    report: Report
    photos: tuple[Path, ...]

    def write(self, out: Path) -> None:
        """Write the report as HTML and JSON into a folder.

        Raises:
            OutputError: it cannot be written.
        """
        self.report.to_json(out / "report.json")
        self.report.to_html(out / "report.html")


@dataclass(frozen=True)
class _Draw:
    """One random choice of classes and training photos: positions in the pool and in the test photos."""

    support: NDArray[np.intp]
    query: NDArray[np.intp]


def run_demo(
    out: Path,
    *,
    classes: Sequence[str] = (),
    n_way: int = 2,
    k_shot: int = 1,
    n_views: int = 16,
    seed: int = 0,
    deadline: float = float("inf"),
    on_event: OnEvent | None = None,
) -> DemoResult:
    """Compare all strategies on a few photos, then repeat on other random photos until the deadline.

    Args:
        out: folder for the training photos.
        classes: which fruits; drawn at random where empty.
        n_way: how many fruits, where they are drawn.
        k_shot: training photos of each.
        n_views: augmented views per photo.
        seed: of every draw.
        deadline: ``time.monotonic()`` after which strategies that train a network begin no draw after the third.
        on_event: called with progress.

    Raises:
        InvalidInputError: fewer than two classes, or more photos per class than there are.
        UnknownNameError: no such fruit; the message lists the closest.
        MissingExtraError: the photographs are not installed.
        OutputError: the training photos cannot be written.
    """
    fruits = load_fruits()
    train, test = fruits["train"], fruits["test"]
    names = _choose_classes(train, classes, n_way, k_shot, seed)
    rng = np.random.default_rng([seed, 0])
    support = [int(i) for name in names for i in rng.permutation(_members(train, [name]))[:k_shot]]
    photos = _write_photos(train.subset(support), out)
    drawn = ImageDataset.from_paths([str(path) for path in photos], [train.labels[i] for i in support])
    held_out = _only(test, names)
    report = compare(drawn, held_out, n_views=n_views, random_state=seed, on_event=on_event)
    report = replace(report, title=f"{' or '.join(names)}: what {len(drawn)} photos can teach")
    draws, note = _many_draws(
        train, test, names if classes else None, len(names), k_shot, n_views, seed, deadline, on_event
    )
    return DemoResult(report.with_draws(draws, note), tuple(photos))


def _choose_classes(train: ImageDataset, classes: Sequence[str], n_way: int, k_shot: int, seed: int) -> list[str]:
    lookup = {name.lower(): name for name in train.class_names}
    chosen = []
    for name in classes:
        if name.lower() not in lookup:
            raise unknown_name("fruit", name, train.class_names)
        chosen.append(lookup[name.lower()])
    if not classes:
        if not 2 <= n_way <= len(train.class_names):
            raise InvalidInputError(f"ways={n_way}: needs 2 to {len(train.class_names)} fruits.")
        chosen = [
            str(name) for name in np.random.default_rng([seed, 1]).choice(train.class_names, n_way, replace=False)
        ]
    if len(set(chosen)) < 2:
        raise InvalidInputError(f"classes: needs at least two different fruits, got {', '.join(classes)}.")
    fewest = min(train.counts()[name] for name in chosen)
    if not 1 <= k_shot <= fewest:
        raise InvalidInputError(f"shots={k_shot}: needs 1 to {fewest} photos of each of {', '.join(chosen)}.")
    return sorted(set(chosen))


def _write_photos(photos: ImageDataset, out: Path) -> list[Path]:
    """Write the training photos as they are, for the person to look at."""
    paths = []
    for source, name in zip(photos.sources, photos.names, strict=True):
        assert isinstance(source, bytes)  # noqa: S101 - for the type checker: the fruits come as JPEG bytes
        paths.append(out / name)
        write_file(paths[-1], source)
    return paths


def _many_draws(
    train: ImageDataset,
    test: ImageDataset,
    names: list[str] | None,
    n_way: int,
    k_shot: int,
    n_views: int,
    seed: int,
    deadline: float,
    on_event: OnEvent | None,
) -> tuple[tuple[Draws, ...], str]:
    """Repeat the comparison on random photos (and fruits, unless ``names`` fixes them)."""
    in_play = names or list(train.class_names)
    pool, queries = _pool(train, in_play, k_shot, seed), _only(test, in_play)
    draws = [_draw(pool, queries, in_play, n_way, k_shot, seed, index) for index in range(N_DRAWS)]
    results = _frozen_draws(pool, queries, draws, n_views, seed, on_event)
    trained = _trained_draws(pool, queries, draws, n_views, seed, deadline, on_event)
    results += trained
    counts = ", ".join(f"{one.strategy} {len(one.indices)}" for one in trained)
    which = f"{n_way} of {len(in_play)} fruits" if names is None else "the same fruits"
    note = (
        f"Each draw takes {which} and {k_shot} photo{'s' if k_shot > 1 else ''} of each, from a pool of {len(pool)} "
        f"training photos, and is tested on all held-out photos of its fruits. Strategies on frozen features: "
        f"{N_DRAWS} draws; those that train a network: the first of these draws, as many as fitted the time ({counts})."
        " Means over other draws are not comparable; the paired differences are, each taken on the draws that both "
        "strategies had. The intervals speak of draws from this pool, tested on these photos."
    )
    return tuple(sorted(results, key=lambda r: list(STRATEGIES).index(r.strategy))), note


def _pool(train: ImageDataset, names: list[str], k_shot: int, seed: int) -> ImageDataset:
    per_class = max(_POOL // len(names), 2 * k_shot)
    rng = np.random.default_rng([seed, 2])
    return train.subset([int(i) for name in names for i in rng.permutation(_members(train, [name]))[:per_class]])


def _draw(
    pool: ImageDataset, queries: ImageDataset, names: list[str], n_way: int, k_shot: int, seed: int, index: int
) -> _Draw:
    rng = np.random.default_rng([seed, 3, index])
    chosen = sorted(str(name) for name in rng.choice(names, n_way, replace=False))
    support = [rng.permutation(_members(pool, [name]))[:k_shot] for name in chosen]
    return _Draw(np.concatenate(support), _members(queries, chosen))


def _frozen_draws(
    pool: ImageDataset, queries: ImageDataset, draws: list[_Draw], n_views: int, seed: int, on_event: OnEvent | None
) -> list[Draws]:
    backbone, store = load_backbone(DEFAULT_BACKBONE), FeatureStore()

    def extract(representation: Representation, dataset: ImageDataset, policy: str | None, subject: str) -> Parts:
        return representation.parts(
            dataset.sources,
            augmentation=policy,
            n_views=n_views,
            seed=seed,
            store=store,
            progress=lambda done, total: on_event and on_event(Event("progress", subject, done, total)),
        )

    train_labels, test_labels = np.array(pool.labels), np.array(queries.labels)
    strategies = _strategies(trains=False)
    found: dict[str, tuple[Representation, Parts, Parts]] = {}
    for name in dict.fromkeys(strategy.representation for strategy in strategies):
        made = load_representation(name, backbone)
        drawn_from = extract(made, pool, "heavy" if name == "plain" else None, "other photos to draw, with views")
        found[name] = made, drawn_from, extract(made, queries, None, "all held-out photos")
    results = []
    for strategy in strategies:
        made, drawn_from, test = found[strategy.representation]
        rows = drawn_from if strategy.augmentation == "heavy" else drawn_from.central()
        accuracies = []
        for draw in draws:
            support = rows.take(draw.support)
            space = made.space(support)
            head = fit_on_views(make_head(strategy.head), space.vectors(support), train_labels[draw.support], seed)
            predicted = head.predict(space.vectors(test.take(draw.query))[:, 0])
            accuracies.append(_accuracy(predicted == test_labels[draw.query]))
        results.append(Draws(strategy.name, tuple(range(len(draws))), tuple(accuracies)))
    return results


def _trained_draws(
    pool: ImageDataset,
    queries: ImageDataset,
    draws: list[_Draw],
    n_views: int,
    seed: int,
    deadline: float,
    on_event: OnEvent | None,
) -> list[Draws]:
    strategies = {strategy.name: strategy for strategy in _strategies(trains=True)}

    def run(task: tuple[str, int]) -> float | None:
        name, index = task
        # A few draws at least: with none there would be nothing to compare with.
        if index >= _MIN_TRAINED and time.monotonic() > deadline:
            return None
        train, test = pool.subset(draws[index].support), queries.subset(draws[index].query)
        result = train_and_predict(
            name,
            make_head(strategies[name].head),
            train,
            test.sources,
            whole_split(train, test),
            policy=load_policy(strategies[name].augmentation),
            backbone=DEFAULT_BACKBONE,
            n_views=n_views,
            seed=seed,
        )
        if on_event is not None:
            # No total: time decides how many there will be.
            on_event(Event("progress", "networks on other photos, as many as time allows", index + 1))
        predicted = np.unique(train.labels)[np.array(result.proba).argmax(axis=1)]
        return _accuracy(predicted == np.array(test.labels))

    tasks = [(name, index) for index in range(len(draws)) for name in strategies]
    # Threads, not processes: a draw is short, and starting a process would import everything again.
    with ThreadPoolExecutor(int(joblib.cpu_count())) as workers:
        accuracies = list(workers.map(run, tasks))
    results = []
    for name in strategies:
        done = {i: a for (n, i), a in zip(tasks, accuracies, strict=True) if n == name and a is not None}
        if done:
            results.append(Draws(name, tuple(done), tuple(done.values())))
    return results


def _strategies(*, trains: bool) -> list[Strategy]:
    return [s for s in make_strategies("all") if isinstance(make_head(s.head), ImageHead) == trains]


def _accuracy(right: NDArray[np.bool_]) -> float:
    return round(float(np.mean(right)), 6)


def _members(dataset: ImageDataset, names: Sequence[str]) -> NDArray[np.intp]:
    return np.flatnonzero(np.isin(dataset.labels, list(names)))


def _only(dataset: ImageDataset, names: Sequence[str]) -> ImageDataset:
    return replace(dataset.subset(_members(dataset, names)), class_names=tuple(sorted(names)))
