"""compare: every strategy trained on the same few images, and tested on images none of them saw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold

from fewshot.augment import AugmentationLike
from fewshot.backbones import DEFAULT_BACKBONE, load_backbone
from fewshot.backbones.base import Backbone
from fewshot.cells import OnEvent, Split, whole_split
from fewshot.classifier import as_seed
from fewshot.errors import DatasetError, InvalidInputError
from fewshot.features import check_n_views
from fewshot.identity import backbone_identity, digest_of, head_identity, machine_identity
from fewshot.images.audit import AuditedDataset, audit
from fewshot.images.dataset import ImageDataset, as_sources, list_images
from fewshot.images.leakage import without_leakage
from fewshot.images.reader import ImageLike
from fewshot.images.sources import load_train_and_test, load_training
from fewshot.kept_cells import open_cells
from fewshot.preparation import Prepared, environment, prepare, strategy_info, usable
from fewshot.report.model import ImageInfo, Report
from fewshot.report.pictures import take_pictures
from fewshot.running import Runner
from fewshot.store import FeatureStore
from fewshot.strategies import Strategy, make_strategies

DatasetLike: TypeAlias = "ImageDataset | str | os.PathLike[str]"


def compare(
    train: DatasetLike,
    test: DatasetLike | None = None,
    *,
    strategies: Iterable[str | Strategy] | str | None = None,
    backbone: str | Backbone = DEFAULT_BACKBONE,
    augmentation: AugmentationLike = "heavy",
    n_views: int | None = None,
    unlabeled: DatasetLike | Sequence[ImageLike] | None = None,
    repeats: int = 2,
    n_jobs: int = 1,
    random_state: int | np.random.RandomState | None = 0,
    cache: bool = True,
    strict: bool = False,
    journal: str | os.PathLike[str] | None = None,
    on_event: OnEvent | None = None,
) -> Report:
    """Train strategies on the same images and compare them on images that none of them saw.

    With ``test``, these are the test images. Without, every class with at least two images allows repeated
    stratified cross-validation; with one image of a class, accuracy cannot be estimated: the strategies are trained,
    and where ``unlabeled`` images are given, the report says how often the strategies agree on them.

    Where no strategies are named, those that cannot use this backbone are left out with a note.

    Args:
        train: a data set, or a folder with one folder per class (or with ``train`` and ``test`` in it).
        test: the same, with no class that ``train`` does not have.
        strategies: names (:func:`fewshot.list_strategies`) or :class:`Strategy` objects; all built-in ones if omitted.
        backbone: a name or a backbone.
        augmentation: takes the place of ``"heavy"`` in strategies that augment heavily, and in their names.
        n_views: augmented views per training image; by default 16, and fewer for more than 40 images (at least 4).
        unlabeled: images, or a folder of them, to compare the strategies' answers on where accuracy cannot be
            estimated.
        repeats: of cross-validation.
        n_jobs: processes that train networks; the result does not depend on it.
        random_state: seed of everything random.
        cache: keep features on disk.
        strict: stop at the first unreadable image instead of leaving it out and saying so.
        journal: folder where finished cells, one for each strategy and split, are kept as they come. The same call
            goes on from them after an interruption; they stay until ``compare-journal.jsonl`` is removed.
        on_event: called with progress.

    Returns:
        The report: ``summary()``, ``compare(a, b)``, ``to_html(path)``, ``to_json(path)``, ``to_markdown(path)``.

    Raises:
        UnknownNameError: a strategy, backbone, head or policy nobody registered.
        InvalidInputError: an argument out of range.
        DatasetError: data from which nothing can be learned.
        ImageError: with ``strict``, an unreadable image.
        JournalError: another process writes to the journal.
        OutputError: the journal cannot be written.
    """
    seed = as_seed(random_state)
    prepared = prepare(make_strategies(strategies), augmentation)
    if n_views is not None:
        check_n_views(n_views)
    if repeats < 1:
        raise InvalidInputError(f"repeats={repeats}: needs at least 1.")
    if n_jobs < 1:
        raise InvalidInputError(f"n_jobs={n_jobs}: needs at least 1 process.")
    others = None if unlabeled is None else _list_unlabeled(unlabeled)
    train_set, test_set = _load(train, test)
    if test_set is not None and unlabeled is not None:
        raise InvalidInputError("Give either a test set or unlabeled images: with labels, agreement says nothing more.")
    loaded = load_backbone(backbone)
    prepared, left_out = usable(prepared, loaded, strict=strategies not in (None, "all"))
    run = _Run(
        prepared,
        loaded,
        audit(train_set, strict=strict),
        n_views if n_views is not None else default_n_views(len(train_set)),
        seed,
        n_jobs,
        FeatureStore() if cache else None,
        journal,
        on_event,
    )
    check_train(run.train)
    run.notes += left_out
    if test_set is not None:
        return run.on_test_set(audit(test_set, strict=strict))
    if min(run.train.dataset.counts().values()) < 2:
        return run.without_accuracy(others)
    if others is not None:
        run.notes.append(
            "The unlabelled images were not used: accuracy can be estimated by cross-validation, and says more than "
            "agreement."
        )
    return run.cross_validated(repeats)


def default_n_views(n_images: int) -> int:
    """Augmented views per image: 16 for up to 40 images, then fewer, at least 4, to bound the cost."""
    return int(np.clip(640 // max(1, n_images), 4, 16))


class _Run:
    """One comparison under way: what all its parts need to know."""

    def __init__(
        self,
        prepared: list[Prepared],
        backbone: Backbone,
        train: AuditedDataset,
        n_views: int,
        seed: int,
        n_jobs: int,
        store: FeatureStore | None,
        journal: str | os.PathLike[str] | None,
        on_event: OnEvent | None,
    ) -> None:
        self.prepared = prepared
        self.backbone = backbone
        self.train = train
        self.n_views = n_views
        self.seed = seed
        self.n_jobs = n_jobs
        self.store = store
        self.journal = journal
        self.on_event = on_event
        self.notes: list[str] = list(train.notes)

    def on_test_set(self, test: AuditedDataset) -> Report:
        """Train on all training images, predict a test set."""
        strangers = sorted(set(test.dataset.labels) - set(self.train.dataset.labels))
        if strangers:
            raise DatasetError(
                f"The test set has classes that training has not: {', '.join(map(repr, strangers))}. Training has "
                f"{', '.join(map(repr, self.train.dataset.counts()))}. Rename or remove them in the test set, or add "
                "training images of them."
            )
        test = without_leakage(self.train, test)
        self.notes += test.notes
        missing = sorted(set(self.train.dataset.labels) - set(test.dataset.labels))
        if missing:
            self.notes.append(f"No test images of {', '.join(missing)}: nothing is known about these classes.")
        split = whole_split(self.train.dataset, test.dataset)
        return self._report("test-set", [split], test.dataset.sources, _infos(test.dataset), test.digests)

    def cross_validated(self, repeats: int) -> Report:
        """Split the training images again and again into folds, each predicted from the others."""
        dataset = self.train.dataset
        folds = min(5, *dataset.counts().values())
        splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=self.seed)
        splits = [
            Split(i // folds, i % folds, train, test)
            for i, (train, test) in enumerate(splitter.split(np.zeros(len(dataset)), dataset.targets))
        ]
        self.notes.append(
            f"No test set was given: accuracy is estimated by {repeats} times {folds}-fold stratified "
            "cross-validation. The folds share training images, so the intervals are approximate."
        )
        return self._report("cross-validation", splits, None, _infos(dataset))

    def without_accuracy(self, unlabeled: tuple[ImageLike, ...] | None) -> Report:
        """Train only, and compare answers on unlabelled images where there are any."""
        single = [name for name, count in self.train.dataset.counts().items() if count == 1]
        self.notes.append(
            f"Accuracy cannot be estimated from these images: {', '.join(single)} "
            f"{'has' if len(single) == 1 else 'have'} one image, which training needs. Give a test set, or a second "
            "image of every class for cross-validation."
        )
        if unlabeled:
            audited = audit(ImageDataset(unlabeled, ("",) * len(unlabeled)))
            other, digests = audited.dataset, audited.digests
            self.notes += audited.notes
            self.notes.append(
                "Agreement of strategies on unlabelled images is not accuracy: all can be wrong together."
            )
        else:
            other, digests = ImageDataset((), ()), ()
            self.notes.append("Give unlabelled images (--unlabeled DIR) to see how often the strategies agree on them.")
        infos = tuple(replace(info, label=None) for info in _infos(other))
        split = whole_split(self.train.dataset, other)
        return self._report("unlabelled" if unlabeled else "none", [split], other.sources, infos, digests)

    def _report(
        self,
        protocol: str,
        splits: list[Split],
        other: tuple[ImageLike, ...] | None,
        test_images: tuple[ImageInfo, ...],
        digests: tuple[str, ...] = (),
    ) -> Report:
        """Run every strategy on every split.

        ``other`` are the images to predict, with their ``digests``; ``None`` for the training images.
        """
        dataset = self.train.dataset
        runner = Runner(
            self.prepared, self.backbone, dataset, self.n_views, self.seed, self.n_jobs, self.store, self.on_event
        )
        settings = self._settings(protocol, splits, (digests, [image.label for image in test_images]))
        with open_cells(self.journal, settings, len(self.prepared) * len(splits), self.on_event) as kept:
            results, nearest = runner.run(splits, other, kept)
        count = f"{len(self.prepared)} strategies" if len(self.prepared) > 1 else "1 strategy"
        report = Report(
            title=f"{count} on {len(dataset)} images of {len(dataset.class_names)} classes",
            protocol=protocol,
            class_names=dataset.class_names,
            train_images=_infos(dataset),
            test_images=test_images,
            strategies=tuple(strategy_info(prepared, self.backbone.spec, self.n_views) for prepared in self.prepared),
            results=results,
            nearest=nearest,
            notes=tuple(self.notes),
            environment=environment(self.backbone, self.n_views),
            seed=self.seed,
        )
        predicted = dataset.sources if other is None else other
        policies = [prepared.policy for prepared in self.prepared if prepared.policy.has_views]
        return replace(report, pictures=take_pictures(report, dataset.sources, predicted, policies))

    def _settings(self, protocol: str, splits: list[Split], predicted: tuple[Any, ...]) -> dict[str, Any]:
        """Everything that results depend on: finished cells are taken over only where all of it is the same."""
        train = self.train
        positions = [[split.repeat, split.fold, split.train.tolist(), split.test.tolist()] for split in splits]
        return {
            **machine_identity(),
            "seed": self.seed,
            "n_views": self.n_views,
            "protocol": protocol,
            "backbone": {self.backbone.spec: backbone_identity(self.backbone)},
            "strategies": {one.strategy.name: _identity(one) for one in self.prepared},
            "classes": list(train.dataset.class_names),
            "training images": digest_of(json.dumps([train.digests, train.dataset.labels])),
            "images to predict": digest_of(json.dumps(predicted)),
            "splits": digest_of(json.dumps(positions)),
        }


def _list_unlabeled(unlabeled: DatasetLike | Sequence[ImageLike]) -> tuple[ImageLike, ...]:
    if isinstance(unlabeled, (str, os.PathLike)):
        return tuple(list_images(unlabeled))
    return as_sources(unlabeled)


def _load(train: DatasetLike, test: DatasetLike | None) -> tuple[ImageDataset, ImageDataset | None]:
    if test is None:
        return load_train_and_test(train)
    return load_training(train), load_training(test)


def _identity(prepared: Prepared) -> list[str]:
    policy = prepared.policy
    return [head_identity(prepared), policy.name, digest_of(policy.spec)]


def check_train(train: AuditedDataset) -> None:
    """Refuse training images of fewer than two classes.

    Raises:
        DatasetError: with what was found and what is needed.
    """
    names = sorted(set(train.dataset.labels))
    if len(names) < 2:
        raise DatasetError(
            f"Found {len(names)} class ({', '.join(map(repr, names))}); a classifier needs images of at least 2 "
            "classes. Put them into one folder per class."
        )


def _infos(dataset: ImageDataset) -> tuple[ImageInfo, ...]:
    return tuple(ImageInfo(name, label) for name, label in zip(dataset.names, dataset.labels, strict=True))
