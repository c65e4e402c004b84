"""Running a comparison's cells: each strategy on each split, with the features that strategies share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from fewshot.augment import Policy, load_policy
from fewshot.backbones.base import Backbone
from fewshot.cells import Event, OnEvent, Split, make_result, train_and_predict
from fewshot.features import check_varied
from fewshot.finetune.base import HistoryRow
from fewshot.fitting import fit_on_views
from fewshot.heads import make_head
from fewshot.images.dataset import ImageDataset
from fewshot.images.reader import ImageLike
from fewshot.kept_cells import KeptCells
from fewshot.known import find_temperature, judge
from fewshot.preparation import Prepared, reloadable, represented
from fewshot.report.model import Result
from fewshot.representation import load_representation
from fewshot.representation.base import Parts, Representation
from fewshot.store import FeatureStore


@dataclass(frozen=True)
class Runner:
    """What every cell of a comparison needs.

    Attributes:
        prepared: the strategies.
        backbone: whose features they use.
        train: the training images.
        n_views: augmented views per training image.
        seed: of everything random.
        n_jobs: processes that train networks.
        store: where features are kept; ``None`` for nowhere.
        on_event: called with progress.
    """

    prepared: list[Prepared]
    backbone: Backbone
    train: ImageDataset
    n_views: int
    seed: int
    n_jobs: int
    store: FeatureStore | None
    on_event: OnEvent | None

    def run(
        self, splits: list[Split], other: tuple[ImageLike, ...] | None, kept: KeptCells
    ) -> tuple[tuple[Result, ...], tuple[int, ...]]:
        """Run every strategy on every split.

        Args:
            splits: which images are trained on and which are predicted.
            other: the images to predict; ``None`` for the training images.
            kept: cells that are finished already; the others are put there as soon as they are.

        Returns:
            One result per strategy and split; and for each image to predict the position of the training image that
            is nearest to it.

        Raises:
            OutputError: a finished cell cannot be kept.
        """
        features = self._features(other)
        results: list[Result] = []
        for prepared in self.prepared:
            name = prepared.strategy.name
            missing = [split for split in splits if kept.find(name, split) is None]
            if prepared.trains:
                fresh = self._run_trained(prepared, missing, other)
            else:
                fresh = ((split, self._run_frozen(prepared, split, features, other is None)) for split in missing)
            for split, result in fresh:
                kept.keep(result, split)
            results += [found for split in splits if (found := kept.find(name, split)) is not None]
            self._tell(Event("finished", name))
        return tuple(results), features.nearest(reuse=other is None)

    def _features(self, other: tuple[ImageLike, ...] | None) -> _Features:
        """Extract once what frozen strategies share: each representation and policy, and the images to predict."""
        sources = self.train.sources
        made: dict[str, Representation] = {}
        views: dict[tuple[str, str], tuple[Parts, float]] = {}
        for prepared in self.prepared:
            representation = represented(prepared, self.backbone)
            if representation is not None and (representation.name, prepared.policy.spec) not in views:
                made[representation.name] = representation
                views[representation.name, prepared.policy.spec] = self._timed_extract(
                    representation, sources, prepared.policy, f"training images, policy {prepared.policy.name}"
                )
        if not views:
            plain = load_representation("plain", self.backbone)
            made[plain.name] = plain
            views[plain.name, "none"] = self._timed_extract(plain, sources, load_policy(None), "training images")
        central = {name: parts.central() for (name, _), (parts, _) in reversed(views.items())}
        first = next(iter(made))
        check_varied(central[first].first, np.array(self.train.labels), self.backbone.spec, self.train.names)
        test = {}
        for name, representation in made.items() if other else ():
            test[name] = self._timed_extract(representation, other or (), load_policy(None), "images to predict")
        return _Features(made, views, central, test, first)

    def _timed_extract(
        self, representation: Representation, sources: tuple[ImageLike, ...], policy: Policy, subject: str
    ) -> tuple[Parts, float]:
        start = time.perf_counter()
        kind = "features" if representation.name == "plain" else f"{representation.name} features"
        parts = representation.parts(
            sources,
            augmentation=policy,
            n_views=self.n_views,
            seed=self.seed,
            store=self.store,
            progress=lambda done, total: self._tell(Event("progress", f"{kind} of {subject}", done, total)),
        )
        return parts, time.perf_counter() - start

    def _run_frozen(self, prepared: Prepared, split: Split, features: _Features, reuse: bool) -> Result:
        representation = represented(prepared, self.backbone)
        assert representation is not None  # noqa: S101 - for the type checker: it learns from features
        parts, extract_seconds = features.views[representation.name, prepared.policy.spec]
        labels = np.array(self.train.labels)
        head = make_head(prepared.head)
        start = time.perf_counter()
        support = parts.take(split.train)
        space = representation.space(support)
        samples = space.vectors(support)
        fit_on_views(head, samples, labels[split.train], self.seed)
        temperature, _ = find_temperature(head, samples, np.searchsorted(head.classes_, labels[split.train]))
        fitted = time.perf_counter()
        queries, test_seconds = features.queries(representation.name, reuse)
        proba, predicted = np.empty((0, len(head.classes_))), np.empty(0, dtype=np.intp)
        if queries is not None:
            proba, predicted = judge(head, space.vectors(queries.take(split.test))[:, 0], temperature)
        done = time.perf_counter()
        return make_result(
            prepared.strategy.name,
            split,
            proba,
            predicted,
            extract_seconds=extract_seconds if split.repeat == split.fold == 0 else 0.0,
            fit_seconds=fitted - start,
            predict_seconds=done - fitted + (test_seconds if split.repeat == split.fold == 0 else 0.0),
        )

    def _run_trained(
        self, prepared: Prepared, splits: list[Split], other: tuple[ImageLike, ...] | None
    ) -> Iterator[tuple[Split, Result]]:
        """Train on each split, and yield its result as soon as it is there."""
        # A backbone made from a name is loaded again by each process; sending its weights would cost more.
        several = self.n_jobs > 1 and len(splits) > 1
        common: dict[str, Any] = {
            "n_views": self.n_views,
            "seed": self.seed,
            "policy": prepared.policy,
            "backbone": reloadable(self.backbone) if several else self.backbone,
        }
        name = prepared.strategy.name
        cells = [(split, self.train.subset(split.train), self._asked(split, other)) for split in splits]
        if not several:

            def tell(done: int, total: int) -> None:
                self._tell(Event("progress", f"{name}: features, then training", done, total, strategy=name))

            for position, (split, part, queries) in enumerate(cells):
                # One curve is watched: the folds' would run into each other.
                watch = None if position else lambda row: self._tell_row(name, row)
                result = train_and_predict(
                    name, prepared.head, part, queries, split, **common, on_step=watch, progress=tell
                )
                yield split, result
            return
        results = joblib.Parallel(n_jobs=self.n_jobs, return_as="generator")(
            joblib.delayed(train_and_predict)(name, prepared.head, part, queries, split, **common)
            for split, part, queries in cells
        )
        for position, (split, result) in enumerate(zip(splits, results, strict=True)):
            for row in [] if position else result.history:
                self._tell_row(name, row)
            yield split, result

    def _asked(self, split: Split, other: tuple[ImageLike, ...] | None) -> tuple[ImageLike, ...]:
        return other if other is not None else tuple(self.train.sources[i] for i in split.test)

    def _tell(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def _tell_row(self, name: str, row: HistoryRow) -> None:
        self._tell(Event("history", name, row=row))


@dataclass(frozen=True)
class _Features:
    """What frozen strategies share.

    Attributes:
        made: the representations, by name.
        views: parts of the training images by representation and policy, with the seconds they took.
        central: the same without augmented views, by representation.
        test: parts of the images to predict by representation, with the seconds; none where there are no such images.
        main: the representation by which images are called near each other.
    """

    made: dict[str, Representation]
    views: dict[tuple[str, str], tuple[Parts, float]]
    central: dict[str, Parts]
    test: dict[str, tuple[Parts, float]]
    main: str

    def queries(self, name: str, reuse: bool) -> tuple[Parts | None, float]:
        """Give the parts of what is asked about, the training images where these are reused, and their seconds."""
        return (self.central[name], 0.0) if reuse else self.test.get(name, (None, 0.0))

    def nearest(self, *, reuse: bool) -> tuple[int, ...]:
        """For each image to predict the position of the training image that is nearest to it."""
        space = self.made[self.main].space(self.central[self.main])
        train = space.vectors(self.central[self.main])[:, 0]
        test = None if self.main not in self.test else space.vectors(self.test[self.main][0])[:, 0]
        return _nearest(train, None if reuse else test)


def _nearest(train: NDArray[np.float32], test: NDArray[np.float32] | None) -> tuple[int, ...]:
    """For each image to predict the training image with the largest cosine; never the image itself."""
    unit = train / np.maximum(np.linalg.norm(train, axis=1, keepdims=True), 1e-12)
    if test is None:
        similarity = unit @ unit.T
        np.fill_diagonal(similarity, -np.inf)
    else:
        similarity = (test / np.maximum(np.linalg.norm(test, axis=1, keepdims=True), 1e-12)) @ unit.T
    return tuple(int(i) for i in similarity.argmax(axis=1))
