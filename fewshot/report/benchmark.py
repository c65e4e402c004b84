"""BenchmarkReport: accuracies over episodes, data sets and shots, and what can be said about their differences."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import InvalidInputError
from fewshot.metrics import expected_calibration_error
from fewshot.names import unknown_name
from fewshot.report.model import ImageInfo, StrategyInfo
from fewshot.report.writing import plain, write_text
from fewshot.significance import (
    PairedTest,
    Ranks,
    WinTieLoss,
    holm,
    paired_test,
    rank_strategies,
    stratified_test,
    win_tie_loss,
)
from fewshot.stats import Interval, across_sets_interval, mean_interval, overall_interval

BENCHMARK_SCHEMA = 1


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set held.

    Attributes:
        name: as in every table.
        source: how it was given: a path or a name.
        n_images: images that episodes were drawn from.
        n_classes: classes with images.
        smallest_class: images of the class that has fewest.
        largest_class: images of the class that has most.
    """

    name: str
    source: str
    n_images: int
    n_classes: int
    smallest_class: int
    largest_class: int


@dataclass(frozen=True)
class Series:
    """One strategy's results on one data set at one number of shots; one value per episode, in 0..1.

    Attributes:
        dataset: name of the data set.
        strategy: name of the strategy.
        k_shot: support images per class, as in the protocol: ``"5"``, or ``"1-10"`` where it varies.
        episodes: index of each episode; equal indices are equal episodes for all strategies.
        accuracy: share of queries answered rightly.
        balanced_accuracy: mean over classes of that share.
        log_loss: mean of -log of the probability of the true class.
        brier: mean squared distance of the probabilities from the truth.
        seconds: time of each episode, training and prediction; an equal share where many were computed together.
        calibration: per bin of confidence (number of answers, sum of confidence, sum of right answers).
        extract_seconds: time to compute the features of the whole data set, almost none where they were stored.
        fit_seconds: training, mean per episode.
        predict_seconds: prediction, mean per episode.
        timed_alone: whether each episode's seconds were measured, rather than shared out.
    """

    dataset: str
    strategy: str
    k_shot: str
    episodes: tuple[int, ...]
    accuracy: tuple[float, ...]
    balanced_accuracy: tuple[float, ...]
    log_loss: tuple[float, ...]
    brier: tuple[float, ...]
    seconds: tuple[float, ...]
    calibration: tuple[tuple[float, float, float], ...]
    extract_seconds: float
    fit_seconds: float
    predict_seconds: float
    timed_alone: bool = False

    @property
    def ece(self) -> float:
        """Expected calibration error over the answers of all episodes."""
        return expected_calibration_error(np.array(self.calibration, dtype=np.float64))


@dataclass(frozen=True)
class EpisodeExample:
    """An episode worth looking at.

    Attributes:
        kind: ``"worst"`` (lowest accuracy of a strategy) or ``"slowest"``.
        dataset: name of the data set.
        strategy: name of the strategy.
        k_shot: as in :class:`Series`.
        index: of the episode.
        accuracy: in 0..1.
        seconds: it took.
        support: the images that were learned from.
        missed: queries that were answered wrongly, at most a few; empty where this is not known.
        answers: the class given to each of these.
        n_missed: how many were answered wrongly in all.
        support_pictures: JPEG thumbnails by position; not part of the JSON.
        missed_pictures: likewise.
    """

    kind: str
    dataset: str
    strategy: str
    k_shot: str
    index: int
    accuracy: float
    seconds: float
    support: tuple[ImageInfo, ...]
    missed: tuple[ImageInfo, ...] = ()
    answers: tuple[str, ...] = ()
    n_missed: int = 0
    support_pictures: Mapping[int, bytes] = field(default_factory=dict, compare=False)
    missed_pictures: Mapping[int, bytes] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class BenchmarkRow:
    """A line of the table; accuracies in 0..1.

    Attributes:
        dataset: name of the data set.
        k_shot: support images per class.
        strategy: name of the strategy.
        setting: ``"inductive"`` or ``"transductive"``.
        n_episodes: that the figures are means over.
        accuracy: mean with its 95 % interval over episodes.
        balanced_accuracy: mean.
        log_loss: mean.
        brier: mean.
        ece: expected calibration error over all answers.
        difference: to the reference, on the same episodes; ``None`` for the reference itself.
        p_holm: p-value of that difference, corrected over all comparisons with the reference at this data set and
            number of shots.
        extract_seconds: as in :class:`Series`.
        fit_seconds: as in :class:`Series`.
        predict_seconds: as in :class:`Series`.
    """

    dataset: str
    k_shot: str
    strategy: str
    setting: str
    n_episodes: int
    accuracy: Interval
    balanced_accuracy: float
    log_loss: float
    brier: float
    ece: float
    difference: PairedTest | None
    p_holm: float | None
    extract_seconds: float
    fit_seconds: float
    predict_seconds: float


@dataclass(frozen=True, repr=False)
class BenchmarkReport:
    """Everything a benchmark found.

    Attributes:
        title: what was measured, for people.
        protocol: how episodes were drawn, one sentence.
        datasets: what was measured on.
        strategies: what was measured, in the order of the tables; the name says the backbone where there are several.
        shots: the numbers of support images per class, as :attr:`Series.k_shot` writes them.
        series: every result.
        reference: the strategy that differences are taken to.
        notes: what was understood, left out and cannot be said, one sentence each.
        environment: versions, device and settings.
        seed: of everything random.
        examples: episodes worth looking at.
        data: for each data set what was understood of its images and what was left out, as
            :class:`fewshot.images.data_report.DataReport` writes it; ``None`` where there are none, or an earlier
            version kept no such thing.
    """

    title: str
    protocol: str
    datasets: tuple[DatasetInfo, ...]
    strategies: tuple[StrategyInfo, ...]
    shots: tuple[str, ...]
    series: tuple[Series, ...]
    reference: str
    notes: tuple[str, ...]
    environment: dict[str, str]
    seed: int
    examples: tuple[EpisodeExample, ...] = ()
    data: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<BenchmarkReport: {self.title}; see summary(), to_markdown(), to_html(path)>"

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str], Series]:
        return {(one.dataset, one.strategy, one.k_shot): one for one in self.series}

    @property
    def population(self) -> str:
        """Which population the intervals speak of, in a sentence or two."""
        return (
            "Intervals are 95 % and speak of further episodes drawn from the same images: they shrink with the number "
            "of episodes, however few images there are. New images of these classes, or other classes, vary more."
        )

    def with_reference(self, strategy: str) -> BenchmarkReport:
        """Take differences to another strategy.

        Raises:
            UnknownNameError: no such strategy in this report.
        """
        self._check(strategy)
        return replace(self, reference=strategy)

    def with_examples(self, examples: tuple[EpisodeExample, ...]) -> BenchmarkReport:
        """Copy the report with episodes worth looking at."""
        return replace(self, examples=examples)

    def with_notes(self, notes: Sequence[str]) -> BenchmarkReport:
        """Copy the report with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def find(self, dataset: str, strategy: str, k_shot: int | str) -> Series | None:
        """Look up results; ``None`` where this combination was not run.

        Raises:
            UnknownNameError: no such data set, strategy or number of shots in this report.
        """
        found = self._by_key.get((dataset, strategy, str(k_shot)))
        if found is None:
            self._check(strategy)
            for kind, name, known in (
                ("data set", dataset, [one.name for one in self.datasets]),
                ("number of shots", str(k_shot), self.shots),
            ):
                if name not in known:
                    raise unknown_name(kind, name, known)
        return found

    def accuracy(self, dataset: str, strategy: str, k_shot: int | str) -> Interval | None:
        """Mean accuracy over episodes with its interval; ``None`` where it was not run."""
        found = self.find(dataset, strategy, k_shot)
        return None if found is None else _within_unit(mean_interval(found.accuracy))

    def datasets_at(self, k_shot: int | str) -> tuple[str, ...]:
        """Name the data sets that have results at this number of shots, of whichever strategy.

        A data set may be measured at fewer numbers of shots than others; means and ranks are over those that have the
        number at all.
        """
        present = {one.dataset for one in self.series if one.k_shot == str(k_shot)}
        return tuple(one.name for one in self.datasets if one.name in present)

    def full_episodes(self, dataset: str, k_shot: int | str) -> int:
        """Count the episodes of a data set at a number of shots; a strategy that trains networks may have fewer."""
        found = [len(one.episodes) for one in self.series if one.dataset == dataset and one.k_shot == str(k_shot)]
        return max(found, default=0)

    def overall(self, strategy: str, k_shot: int | str) -> Interval | None:
        """Mean over data sets of the mean accuracy; ``None`` unless the strategy was run on all of them.

        Data sets without this number of shots do not count, see :meth:`datasets_at`. The interval speaks of
        further episodes from these same data sets.
        """
        values = self._values(strategy, k_shot)
        return None if values is None else _within_unit(overall_interval(values))

    def across_datasets(self, strategy: str, k_shot: int | str) -> Interval | None:
        """Give the same mean with an interval that speaks of other data sets like these; ``None`` for one data set."""
        values = self._values(strategy, k_shot)
        return None if values is None or len(values) < 2 else _within_unit(across_sets_interval(values))

    def difference(self, a: str, b: str, dataset: str, k_shot: int | str) -> PairedTest | None:
        """Accuracy of ``a`` minus accuracy of ``b`` on the episodes that both have; ``None`` where there are none."""
        pair = self._pair(a, b, dataset, k_shot)
        return None if pair is None else paired_test(*pair)

    def compare(self, a: str, b: str, k_shot: int | str | None = None) -> PairedTest:
        """Accuracy of ``a`` minus accuracy of ``b`` as a mean over data sets, paired on the same episodes.

        Over several numbers of shots, the differences of each episode are averaged first: an episode has the same
        queries at all of them, and the support of fewer shots is part of that of more, so that these differences are
        not independent. Of each data set, the numbers of shots count that both strategies have there, and of those
        the episodes that they share at all of them; ``n`` is the number of such episodes.

        Args:
            a: a strategy.
            b: another.
            k_shot: at this number of shots; the mean over all of them if omitted.

        Raises:
            UnknownNameError: no such strategy in this report.
            InvalidInputError: the two share no episodes.
        """
        self._check(a)
        self._check(b)
        wanted = self.shots if k_shot is None else (str(k_shot),)
        per_set = [self._differences(a, b, one.name, wanted) for one in self.datasets]
        found = [values for values in per_set if values is not None]
        if not found:
            where = "" if k_shot is None else f" at {k_shot} shots"
            raise InvalidInputError(f"{a} and {b} have no episodes in common{where}.")
        return stratified_test(found)

    def ranks(self, k_shot: int | str) -> Ranks | None:
        """Rank strategies by mean accuracy on each data set; ``None`` for fewer than two data sets or strategies.

        Only strategies that were run on all data sets that have this number of shots take part. Means are over the
        episodes that all of these share: the few episodes of one that trains networks may be easier or harder than
        all of another's.
        """
        names, sets = [s.name for s in self.strategies if self._values(s.name, k_shot) is not None], []
        if len(names) < 2 or len(self.datasets_at(k_shot)) < 2:
            return None
        for dataset in self.datasets_at(k_shot):
            found = [self._by_episode(dataset, name, k_shot) for name in names]
            shared = self.shared_episodes(dataset, names, k_shot)
            if not shared:
                return None
            sets.append([float(np.mean([values[i] for i in shared])) for values in found])
        return rank_strategies(names, np.array(sets))

    def shared_episodes(self, dataset: str, strategies: Sequence[str], k_shot: int | str) -> list[int]:
        """Indices of the episodes of a data set that all of these strategies have, in order."""
        found = [set(self._by_episode(dataset, name, k_shot)) for name in strategies]
        return sorted(set.intersection(*found)) if found else []

    def win_tie_loss(self, a: str, b: str, k_shot: int | str) -> WinTieLoss:
        """On how many data sets ``a`` is better, no different and worse than ``b``, at 5 % and Holm-corrected."""
        tests = [self.difference(a, b, one.name, k_shot) for one in self.datasets]
        found = [test for test in tests if test is not None]
        adjusted = holm([test.p_value for test in found])
        return win_tie_loss(test._replace(p_value=float(p)) for test, p in zip(found, adjusted, strict=True))

    def summary(self) -> list[BenchmarkRow]:
        """Compute the table: one row per data set, number of shots and strategy that was run there."""
        rows = []
        for dataset in self.datasets:
            for k_shot in self.shots:
                rows += self._rows(dataset.name, k_shot)
        return rows

    def _rows(self, dataset: str, k_shot: str) -> list[BenchmarkRow]:
        infos = [info for info in self.strategies if self.find(dataset, info.name, k_shot) is not None]
        tests = {
            info.name: self.difference(info.name, self.reference, dataset, k_shot)
            for info in infos
            if info.name != self.reference
        }
        named = [name for name, test in tests.items() if test is not None]
        adjusted = dict(zip(named, holm([tests[name].p_value for name in named]), strict=True))  # type: ignore[union-attr]
        rows = []
        for info in infos:
            found = self._by_key[dataset, info.name, k_shot]
            rows.append(
                BenchmarkRow(
                    dataset=dataset,
                    k_shot=k_shot,
                    strategy=info.name,
                    setting=info.setting,
                    n_episodes=len(found.episodes),
                    accuracy=_within_unit(mean_interval(found.accuracy)),
                    balanced_accuracy=float(np.mean(found.balanced_accuracy)),
                    log_loss=float(np.mean(found.log_loss)),
                    brier=float(np.mean(found.brier)),
                    ece=found.ece,
                    difference=tests.get(info.name),
                    p_holm=adjusted.get(info.name),
                    extract_seconds=found.extract_seconds,
                    fit_seconds=found.fit_seconds,
                    predict_seconds=found.predict_seconds,
                )
            )
        return rows

    def _values(self, strategy: str, k_shot: int | str) -> list[NDArray[np.float64]] | None:
        found = [self.find(name, strategy, k_shot) for name in self.datasets_at(k_shot)]
        if not found or any(one is None for one in found):
            return None
        return [np.array(one.accuracy) for one in found if one is not None]

    def _pair(
        self, a: str, b: str, dataset: str, k_shot: int | str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        mine, theirs = self._by_episode(dataset, a, k_shot), self._by_episode(dataset, b, k_shot)
        common = sorted(mine.keys() & theirs.keys())
        if not common:
            return None
        return np.array([mine[i] for i in common]), np.array([theirs[i] for i in common])

    def _differences(self, a: str, b: str, dataset: str, shots: Sequence[str]) -> NDArray[np.float64] | None:
        """Per episode, ``a`` minus ``b`` as a mean over the numbers of shots that both have on this data set."""
        pairs = [(self._by_episode(dataset, a, k), self._by_episode(dataset, b, k)) for k in shots]
        both = [(mine, theirs) for mine, theirs in pairs if mine.keys() & theirs.keys()]
        common = sorted(set.intersection(*(mine.keys() & theirs.keys() for mine, theirs in both))) if both else []
        if not common:
            return None
        differences = np.array([[mine[i] - theirs[i] for i in common] for mine, theirs in both], dtype=np.float64)
        return np.asarray(differences.mean(axis=0))

    def _by_episode(self, dataset: str, strategy: str, k_shot: int | str) -> dict[int, float]:
        """Accuracies by index of the episode; none where this combination was not run."""
        found = self.find(dataset, strategy, k_shot)
        return {} if found is None else dict(zip(found.episodes, found.accuracy, strict=True))

    def _check(self, strategy: str) -> None:
        names = [info.name for info in self.strategies]
        if strategy not in names:
            raise unknown_name("strategy", strategy, names)

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the pictures as plain data, with the summary's figures beside the raw results."""
        data: dict[str, Any] = {"schema": BENCHMARK_SCHEMA, "kind": "benchmark"}
        data |= {f.name: plain(getattr(self, f.name)) for f in fields(self) if f.name != "examples"}
        data["examples"] = [{key: plain(getattr(one, key)) for key in _example_fields()} for one in self.examples]
        data["summary"] = plain([asdict(row) for row in self.summary()])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BenchmarkReport:
        """Take back what :meth:`to_dict` gave; the pictures are gone.

        Raises:
            InvalidInputError: the data is not a benchmark's report, or of another schema.
        """
        if data.get("kind") != "benchmark" or data.get("schema") != BENCHMARK_SCHEMA:
            raise InvalidInputError(
                f"This is a report of kind {data.get('kind')!r}, schema {data.get('schema')!r}; a benchmark's of "
                f"schema {BENCHMARK_SCHEMA} is needed."
            )
        return cls(
            title=data["title"],
            protocol=data["protocol"],
            datasets=tuple(DatasetInfo(**row) for row in data["datasets"]),
            strategies=tuple(StrategyInfo(**row) for row in data["strategies"]),
            shots=tuple(data["shots"]),
            series=tuple(Series(**{key: _tuples(value) for key, value in row.items()}) for row in data["series"]),
            reference=data["reference"],
            notes=tuple(data["notes"]),
            environment=dict(data["environment"]),
            seed=data["seed"],
            examples=tuple(
                EpisodeExample(
                    **row
                    | {
                        "support": tuple(ImageInfo(**image) for image in row["support"]),
                        "missed": tuple(ImageInfo(**image) for image in row["missed"]),
                        "answers": tuple(row["answers"]),
                    }
                )
                for row in data["examples"]
            ),
            data=data.get("data"),
        )

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Give the report as JSON, or write it where a path is given, and give the path.

        Keys that end in ``seconds`` are times, and which episodes are listed as ``"slowest"`` depends on times as
        well; everything else depends on images, settings and seed alone.
        """
        return write_text(path, json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """Give the tables as Markdown, or write them where a path is given, and give the path."""
        from fewshot.report.benchmark_markdown import render

        return write_text(path, render(self))

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Give the report as one self-contained HTML page, or write it where a path is given, and give the path."""
        from fewshot.report.benchmark_html import render

        return write_text(path, render(self))


def _example_fields() -> list[str]:
    return [f.name for f in fields(EpisodeExample) if not f.name.endswith("_pictures")]


def _within_unit(interval: Interval) -> Interval:
    """Cut an interval of accuracies where accuracies end; of one episode it has no ends at all."""
    return Interval(interval.value, max(0.0, interval.low), min(1.0, interval.high))


def _tuples(value: Any) -> Any:
    return (
        tuple(_tuples(item) for item in value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    )
