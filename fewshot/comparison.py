"""compare: every strategy trained on the same few images, and tested on images none of them saw."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike
from fewshot.backbones import DEFAULT_BACKBONE, load_backbone
from fewshot.backbones.base import Backbone
from fewshot.cells import Event, OnEvent, Split, whole_split
from fewshot.errors import DatasetError, InvalidInputError
from fewshot.features import check_n_views
from fewshot.fitting import as_seed
from fewshot.identity import (
    backbone_identity,
    digest_of,
    head_identity,
    machine_identity,
    representation_identity,
)
from fewshot.images.audit import AuditedDataset, OnProgress, audit, survey
from fewshot.images.data_report import describe, too_few_classes, unknown_classes, untested_classes
from fewshot.images.dataset import ImageDataset, as_sources
from fewshot.images.findings import Finding, messages
from fewshot.images.folders import find_images
from fewshot.images.folds import MAX_FOLDS, grouped_folds, units_per_class
from fewshot.images.leakage import without_leakage
from fewshot.images.reader import ImageLike
from fewshot.images.sources import load_train_and_test, load_training
from fewshot.kept_cells import open_cells
from fewshot.preparation import Prepared, environment, prepare, represented, strategy_info, usable
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
    representation: str | None = None,
    unlabeled: DatasetLike | Sequence[ImageLike] | None = None,
    repeats: int = 2,
    n_jobs: int = 1,
    random_state: int | np.random.RandomState | None = 0,
    cache: bool = True,
    strict: bool = False,
    keep_near_duplicates: bool = False,
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
        strategies: names (:func:`fewshot.list_strategies`) or :class:`Strategy` objects; all built-in ones but the
            slow ones if omitted.
        backbone: a name or a backbone.
        augmentation: takes the place of ``"heavy"`` in strategies that augment heavily, and in their names.
        n_views: augmented views per training image; by default 16, and fewer for more than 40 images (at least 4).
        representation: what is made of the backbone's features (:mod:`fewshot.representation`), in strategies that say
            nothing else and learn from features.
        unlabeled: images, or a folder of them, to compare the strategies' answers on where accuracy cannot be
            estimated.
        repeats: of cross-validation.
        n_jobs: processes that train networks; the result does not depend on it.
        random_state: seed of everything random.
        cache: keep features on disk.
        strict: stop at the first unreadable image instead of leaving it out and saying so.
        keep_near_duplicates: test on images of which another version is in training, too, and let cross-validation
            train on one version of a picture and test on another: for flat things that are all photographed alike.
        journal: folder where finished cells, one for each strategy and split, are kept as they come. The same call
            goes on from them after an interruption; they stay until ``compare-journal.jsonl`` is removed.
        on_event: called with progress; from other threads, one call at a time, while a pretrained network is trained in
            this process.

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
    prepared = prepare(make_strategies(strategies), augmentation, representation)
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
        audit(train_set, strict=strict, progress=_telling(on_event, "images looked at")),
        n_views if n_views is not None else default_n_views(len(train_set)),
        seed,
        n_jobs,
        FeatureStore() if cache else None,
        journal,
        on_event,
    )
    run.sources = _named(train), _named(train if test is None else test)
    check_train(run.train)
    run.notes += left_out
    if test_set is not None:
        audited = audit(test_set, strict=strict, progress=_telling(on_event, "test images looked at"))
        return run.on_test_set(audited, keep_near_duplicates)
    groups = np.arange(len(run.train.dataset)) if keep_near_duplicates else run.train.groups
    if min(units_per_class(run.train.dataset.labels, groups).values()) < 2:
        return run.without_accuracy(others, groups)
    if others is not None:
        run.notes.append(
            "The unlabelled images were not used: accuracy can be estimated by cross-validation, and says more than "
            "agreement."
        )
    return run.cross_validated(repeats, groups)


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
        self.test: AuditedDataset | None = None
        self.sources = ("", "")

    def on_test_set(self, test: AuditedDataset, keep_near_duplicates: bool) -> Report:
        """Train on all training images, predict a test set."""
        trained = self.train.dataset.counts()
        strangers = sorted(set(test.dataset.labels) - set(trained))
        if strangers:
            raise DatasetError(unknown_classes(strangers, list(trained)))
        test = without_leakage(self.train, test, keep_near_duplicates=keep_near_duplicates)
        self.test = test
        self.notes += test.notes
        missing = sorted(set(trained) - set(test.dataset.labels))
        if missing:
            self.notes.append(untested_classes(missing))
        split = whole_split(self.train.dataset, test.dataset)
        return self._report("test-set", [split], test.dataset.sources, _infos(test.dataset), test.digests)

    def cross_validated(self, repeats: int, groups: NDArray[np.intp]) -> Report:
        """Split the training images again and again into folds, each predicted from the others."""
        dataset = self.train.dataset
        folds = min(MAX_FOLDS, *units_per_class(dataset.labels, groups).values())
        found = grouped_folds(dataset.labels, groups, n_folds=folds, repeats=repeats, seed=self.seed)
        splits = [Split(i // folds, i % folds, train, test) for i, (train, test) in enumerate(found)]
        together = len(dataset) - len(set(groups.tolist()))
        if together:
            self.notes.append(
                "Versions of one picture and frames of one video are in one fold, never trained on and tested on: "
                f"{together} of {len(dataset)} images go with another."
            )
        self.notes.append(
            f"No test set was given: accuracy is estimated by {repeats} times {folds}-fold stratified "
            "cross-validation. The folds share training images, so the intervals are approximate."
        )
        return self._report("cross-validation", splits, None, _infos(dataset))

    def without_accuracy(self, unlabeled: ImageDataset | None, groups: NDArray[np.intp]) -> Report:
        """Train only, and compare answers on unlabelled images where there are any."""
        counts = self.train.dataset.counts()
        few = [name for name, n in units_per_class(self.train.dataset.labels, groups).items() if n < 2]
        alike = [name for name in few if counts[name] > 1]
        self.notes.append(
            f"Accuracy cannot be estimated from these images: of {', '.join(few)} there is one image only, which "
            "training needs. Give a test set, or a second image of every class for cross-validation."
            + "".join(
                f" The {counts[name]} images of {name} are versions of one picture or frames of one video."
                for name in alike
            )
            + (" If they are not, --keep-near-duplicates (keep_near_duplicates=True) counts each." if alike else "")
        )
        if unlabeled:
            # Nothing is learned from them or measured on them: however many cannot be read, the rest is of use.
            audited = survey(unlabeled)
            other, digests = audited.dataset, audited.digests
            if not other.sources:
                raise DatasetError(f"None of the {len(unlabeled)} unlabelled images can be read: {audited.skipped[0]}")
            self.notes += [finding.message for finding in audited.findings if finding.severity != "error"]
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
        described = describe(self.train, self.test, source=self.sources[0], test_source=self.sources[1])
        self.notes += messages(finding for finding in described.findings if finding.code == "IMBALANCE")
        count = f"{len(self.prepared)} strategies" if len(self.prepared) > 1 else "1 strategy"
        report = Report(
            title=f"{count} on {len(dataset)} images of {len(dataset.class_names)} classes",
            protocol=protocol,
            class_names=dataset.class_names,
            train_images=_infos(dataset),
            test_images=test_images,
            strategies=tuple(strategy_info(prepared, self.backbone, self.n_views) for prepared in self.prepared),
            results=results,
            nearest=nearest,
            notes=tuple(self.notes),
            environment=environment(self.backbone, self.n_views),
            seed=self.seed,
            data=described.to_dict(),
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
            "strategies": {one.strategy.name: _identity(one, self.backbone) for one in self.prepared},
            "classes": list(train.dataset.class_names),
            "training images": digest_of(json.dumps([train.digests, train.dataset.labels])),
            "images to predict": digest_of(json.dumps(predicted)),
            "splits": digest_of(json.dumps(positions)),
        }


def _list_unlabeled(unlabeled: DatasetLike | Sequence[ImageLike]) -> ImageDataset:
    """Collect images without labels, with what was left out of their folder."""
    findings: list[Finding] = []
    sources: Sequence[ImageLike]
    if isinstance(unlabeled, (str, os.PathLike)):
        sources, findings = find_images(unlabeled)
    else:
        sources = as_sources(unlabeled)
    return ImageDataset(tuple(sources), ("",) * len(sources), findings=tuple(findings))


def _load(train: DatasetLike, test: DatasetLike | None) -> tuple[ImageDataset, ImageDataset | None]:
    if test is None:
        return load_train_and_test(train)
    return load_training(train), load_training(test)


def _identity(prepared: Prepared, backbone: Backbone) -> list[str]:
    policy = prepared.policy
    made_by = representation_identity(represented(prepared, backbone))
    return [head_identity(prepared), policy.name, digest_of(policy.spec), *made_by]


def check_train(train: AuditedDataset) -> None:
    """Refuse training images of fewer than two classes.

    Raises:
        DatasetError: with what was found and what is needed.
    """
    names = sorted(set(train.dataset.labels))
    if len(names) < 2:
        raise DatasetError(too_few_classes(names))


def _named(data: DatasetLike) -> str:
    return "images in memory" if isinstance(data, ImageDataset) else os.fspath(data)


def _telling(on_event: OnEvent | None, subject: str) -> OnProgress | None:
    return None if on_event is None else lambda done, total: on_event(Event("progress", subject, done, total))


def _infos(dataset: ImageDataset) -> tuple[ImageInfo, ...]:
    return tuple(ImageInfo(name, label) for name, label in zip(dataset.names, dataset.labels, strict=True))
