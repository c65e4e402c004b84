"""Report: what was compared, every answer given, and the figures computed from them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import InvalidInputError
from fewshot.names import unknown_name
from fewshot.report.writing import plain, write_text
from fewshot.stats import Interval, mean_interval, paired_interval, proportion_interval

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ImageInfo:
    """One image of a report: its name, and its label where it has one."""

    name: str
    label: str | None


@dataclass(frozen=True)
class StrategyInfo:
    """What a strategy was made of.

    Attributes:
        name: as in every table.
        head: name or representation of the head.
        backbone: spec of the backbone; ``None`` where none was used.
        augmentation: name of the policy.
        n_views: augmented views per training image; 0 where there are none, or the head chooses and its note says.
        trains: whether it trains a network (or a part of one) rather than a head on frozen features.
        setting: ``"inductive"``, or ``"transductive"`` where test images were labelled jointly.
        description: one sentence for people.
        representation: what was made of the backbone's features; ``None`` where a head takes pictures.
    """

    name: str
    head: str
    backbone: str | None
    augmentation: str
    n_views: int
    trains: bool
    setting: str = "inductive"
    description: str = ""
    representation: str | None = None


@dataclass(frozen=True)
class Result:
    """One strategy's answers on one split.

    Attributes:
        strategy: its name.
        repeat: which repetition of cross-validation; 0 for a test set.
        fold: which fold; 0 for a test set.
        test: positions in ``Report.test_images``.
        proba: for each of these, class probabilities in the order of ``Report.class_names``.
        predicted: for each of these, position of the predicted class: as a rule the most probable one.
        extract_seconds: time to compute the features it used, almost none where they were stored.
        fit_seconds: training time after that.
        predict_seconds: prediction time after that.
        history: training curve; empty for heads on frozen features.
        note: what the strategy has to say about its training.
    """

    strategy: str
    repeat: int
    fold: int
    test: tuple[int, ...]
    proba: tuple[tuple[float, ...], ...]
    predicted: tuple[int, ...]
    extract_seconds: float
    fit_seconds: float
    predict_seconds: float
    history: tuple[dict[str, Any], ...] = ()
    note: str = ""

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Result:
        """Take back what ``dataclasses.asdict`` and JSON have made of a result: their lists become tuples again."""
        tuples = {key: tuple(row[key]) for key in ("test", "predicted", "history")}
        return cls(**{**row, **tuples, "proba": tuple(tuple(p) for p in row["proba"])})


@dataclass(frozen=True)
class Draws:
    """Accuracy of one strategy over random draws of the training images.

    Attributes:
        strategy: its name.
        indices: which draws; the same index is the same draw for every strategy.
        accuracies: 0..1, one per draw.
    """

    strategy: str
    indices: tuple[int, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True)
class Pictures:
    """JPEG thumbnails for the HTML report, by position. They are not part of the JSON."""

    train: Mapping[int, bytes] = field(default_factory=dict)
    test: Mapping[int, bytes] = field(default_factory=dict)
    views: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SummaryRow:
    """A strategy's line in the table; accuracies in 0..1, ``None`` where nothing can be estimated."""

    strategy: str
    setting: str
    n_test: int
    accuracy: Interval | None
    balanced_accuracy: float | None
    log_loss: float | None
    differences: dict[str, Interval]
    extract_seconds: float
    fit_seconds: float
    predict_seconds: float
    note: str

    @property
    def training_seconds(self) -> float:
        """From images to a trained classifier: features, where they were not stored already, and training."""
        return self.extract_seconds + self.fit_seconds


@dataclass(frozen=True, repr=False)
class Report:
    """Everything a comparison found.

    Attributes:
        title: what was compared, for people.
        protocol: ``"test-set"``, ``"cross-validation"``, ``"unlabelled"`` (agreement only), or ``"none"``.
        class_names: order of all probabilities.
        train_images: the training images.
        test_images: the images that were predicted: test, training (cross-validation) or unlabelled ones.
        strategies: what was compared, in the order of the table.
        results: every answer.
        nearest: for each test image the position of the training image whose features are most similar.
        notes: what was understood, left out and cannot be said, one sentence each.
        environment: versions, device and settings.
        seed: of everything random.
        draws: accuracy over random draws of training images, where these were made.
        draws_note: which draws, in words.
        pictures: thumbnails, for HTML only.
        data: what was understood of the images and what was left out, as :class:`fewshot.images.data_report.DataReport`
            writes it; ``None`` in reports of earlier versions.
    """

    title: str
    protocol: str
    class_names: tuple[str, ...]
    train_images: tuple[ImageInfo, ...]
    test_images: tuple[ImageInfo, ...]
    strategies: tuple[StrategyInfo, ...]
    results: tuple[Result, ...]
    nearest: tuple[int, ...]
    notes: tuple[str, ...]
    environment: dict[str, str]
    seed: int
    draws: tuple[Draws, ...] = ()
    draws_note: str = ""
    pictures: Pictures = field(default_factory=Pictures, compare=False)
    data: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Report: {self.title}, {self.protocol}; see summary(), to_markdown(), to_html(path)>"

    @property
    def has_accuracy(self) -> bool:
        """Whether the predicted images have labels, so that accuracy can be estimated."""
        return self.protocol in ("test-set", "cross-validation")

    @property
    def baselines(self) -> tuple[str, ...]:
        """Strategies that differences are taken to: the from-scratch ones, or the first."""
        from fewshot.strategies import BASELINES

        names = [strategy.name for strategy in self.strategies]
        return tuple(name for name in BASELINES if name in names) or tuple(names[:1])

    def proba(self, strategy: str) -> NDArray[np.float64]:
        """Class probabilities (n_test, n_classes) of a strategy, averaged over repeats of cross-validation.

        Raises:
            UnknownNameError: no such strategy in this report.
        """
        total = np.zeros((len(self.test_images), len(self.class_names)))
        times = np.zeros(len(self.test_images))
        for result in self._results_of(strategy):
            total[list(result.test)] += np.array(result.proba).reshape(len(result.test), -1)
            times[list(result.test)] += 1
        return total / np.maximum(times, 1)[:, None]

    def predicted(self, strategy: str) -> NDArray[np.int64]:
        """Position (n_test,) of each test image's predicted class; with repeats, by votes and then probability."""
        votes = self.proba(strategy) / 2
        for result in self._results_of(strategy):
            votes[list(result.test), list(result.predicted)] += 1
        predicted: NDArray[np.int64] = votes.argmax(axis=1)
        return predicted

    def predictions(self, strategy: str) -> list[str]:
        """Predicted class of each test image; see :meth:`predicted`."""
        return [self.class_names[i] for i in self.predicted(strategy)]

    def correct(self, strategy: str) -> NDArray[np.float64]:
        """For each test image 1 where right and 0 where wrong; with repeats, the share of right answers.

        Raises:
            InvalidInputError: the predicted images have no labels.
        """
        if not self.has_accuracy:
            raise InvalidInputError("These images have no labels to compare with, so nothing is right or wrong.")
        truth = self._truth()
        total, times = np.zeros(len(truth)), np.zeros(len(truth))
        for result in self._results_of(strategy):
            test = np.array(result.test, dtype=int)
            total[test] += np.array(result.predicted) == truth[test]
            times[test] += 1
        return total / np.maximum(times, 1)

    def confusion(self, strategy: str) -> NDArray[np.int64]:
        """Count (true class, predicted class), each (n_classes,), over test images."""
        table = np.zeros((len(self.class_names),) * 2, dtype=np.int64)
        np.add.at(table, (self._truth(), self.predicted(strategy)), 1)
        return table

    def compare(self, a: str, b: str) -> Interval:
        """Accuracy of ``a`` minus accuracy of ``b`` on the same images, with its paired 95 % interval."""
        return paired_interval(self.correct(a), self.correct(b))

    def agreement(self, a: str, b: str) -> float:
        """Share of the predicted images to which both strategies give the same class."""
        return float(np.mean([x == y for x, y in zip(self.predictions(a), self.predictions(b), strict=True)]))

    def summary(self) -> list[SummaryRow]:
        """Compute the table, one row per strategy."""
        return [self._row(strategy) for strategy in self.strategies]

    def draws_summary(self) -> list[tuple[str, int, Interval, float, float, dict[str, Interval]]]:
        """Summarise the draws: (strategy, draws, mean, 5th and 95th percentile, paired differences to baselines)."""
        by_name = {draws.strategy: dict(zip(draws.indices, draws.accuracies, strict=True)) for draws in self.draws}
        rows = []
        for draws in self.draws:
            mine = by_name[draws.strategy]
            differences = {}
            for baseline in self.baselines:
                common = sorted(set(mine) & set(by_name.get(baseline, {})))
                if baseline != draws.strategy and len(common) > 1:
                    differences[baseline] = mean_interval([mine[i] - by_name[baseline][i] for i in common])
            low, high = np.quantile(draws.accuracies, [0.05, 0.95])
            mean = mean_interval(draws.accuracies)
            rows.append(
                (
                    draws.strategy,
                    len(draws.indices),
                    # Student's interval of a few draws knows nothing of where accuracies end; of one, it has no ends.
                    mean if len(draws.indices) == 1 else Interval(mean.value, max(mean.low, 0), min(mean.high, 1)),
                    float(low),
                    float(high),
                    differences,
                )
            )
        return rows

    def disagreements(self) -> list[int]:
        """Positions of test images that not all strategies give the same class, most disputed first."""
        if not self.results or not self.test_images:
            return []
        votes = np.array([self.predicted(s.name) for s in self.strategies])
        agreeing = [int(np.bincount(column).max()) for column in votes.T]
        disputed = [i for i, count in enumerate(agreeing) if count < len(self.strategies)]
        return sorted(disputed, key=lambda i: (agreeing[i], i))

    def with_draws(self, draws: tuple[Draws, ...], note: str) -> Report:
        """Copy the report with accuracies over random draws added."""
        return replace(self, draws=draws, draws_note=note)

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the pictures as plain data, with the summary's figures beside the raw answers."""
        data = {"schema": SCHEMA_VERSION}
        data |= {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "pictures"}
        data["summary"] = plain([asdict(row) for row in self.summary()])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Take back what :meth:`to_dict` gave; the pictures are gone.

        Raises:
            InvalidInputError: the data is not a report, or of another schema.
        """
        if data.get("schema") != SCHEMA_VERSION:
            raise InvalidInputError(
                f"This is a report of schema {data.get('schema')!r}; this version reads {SCHEMA_VERSION}."
            )
        return cls(
            title=data["title"],
            protocol=data["protocol"],
            class_names=tuple(data["class_names"]),
            train_images=tuple(ImageInfo(**row) for row in data["train_images"]),
            test_images=tuple(ImageInfo(**row) for row in data["test_images"]),
            strategies=tuple(StrategyInfo(**row) for row in data["strategies"]),
            results=tuple(Result.from_dict(row) for row in data["results"]),
            nearest=tuple(data["nearest"]),
            notes=tuple(data["notes"]),
            environment=dict(data["environment"]),
            seed=data["seed"],
            draws=tuple(
                Draws(row["strategy"], tuple(row["indices"]), tuple(row["accuracies"])) for row in data["draws"]
            ),
            draws_note=data["draws_note"],
            data=data.get("data"),
        )

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Give the report as JSON, or write it where a path is given, and give the path.

        Keys that end in ``_seconds`` are times; everything else depends on images, settings and seed alone.
        """
        return write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """Give the table as Markdown, or write it where a path is given, and give the path."""
        from fewshot.report.markdown import render

        return write_text(path, render(self))

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Give the report as one self-contained HTML page, or write it where a path is given, and give the path."""
        from fewshot.report.html import render

        return write_text(path, render(self))

    def _truth(self) -> NDArray[np.int64]:
        position = {name: i for i, name in enumerate(self.class_names)}
        return np.array([position[image.label or ""] for image in self.test_images], dtype=np.int64)

    def _results_of(self, strategy: str) -> list[Result]:
        found = [result for result in self.results if result.strategy == strategy]
        if not found:
            raise unknown_name("strategy", strategy, [s.name for s in self.strategies])
        return found

    def _row(self, info: StrategyInfo) -> SummaryRow:
        results = [result for result in self.results if result.strategy == info.name]
        accuracy = balanced = loss = None
        differences: dict[str, Interval] = {}
        if self.has_accuracy:
            correct, truth = self.correct(info.name), self._truth()
            accuracy = proportion_interval(correct)
            balanced = float(np.mean([correct[truth == c].mean() for c in np.unique(truth)]))
            chosen = self.proba(info.name)[np.arange(len(truth)), truth]
            loss = float(-np.log(np.clip(chosen, 1e-6, 1)).mean())
            differences = {base: self.compare(info.name, base) for base in self.baselines if base != info.name}
        return SummaryRow(
            strategy=info.name,
            setting=info.setting,
            n_test=len(self.test_images) if self.has_accuracy else 0,
            accuracy=accuracy,
            balanced_accuracy=balanced,
            log_loss=loss,
            differences=differences,
            extract_seconds=sum(r.extract_seconds for r in results),
            fit_seconds=sum(r.fit_seconds for r in results),
            predict_seconds=sum(r.predict_seconds for r in results),
            note=next((r.note for r in results if r.note), ""),
        )


def percent(value: float, digits: int = 1) -> str:
    """Show a share between 0 and 1 in percent, without the sign ``%``."""
    return f"{100 * value:.{digits}f}"
