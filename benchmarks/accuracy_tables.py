"""Markdown tables of accuracies, and of differences on the same episodes, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fewshot.report.benchmark import BenchmarkReport
from fewshot.stats import Interval


def accuracies(
    report: BenchmarkReport, k_shot: int, names: Sequence[str], references: Sequence[str] = ("yardstick",)
) -> Iterator[str]:
    """Table one number of shots.

    A data set's cell holds the mean accuracy in %, and the difference to the first reference with half of its 95 %
    interval. The mean over data sets stands beside its difference to every reference.

    Args:
        report: with all that is named.
        k_shot: number of shots.
        names: strategies, a row each.
        references: strategies that differences are taken to.
    """
    sets = report.datasets_at(k_shot)
    titles = [f"mean minus {name}" for name in references]
    yield from header(["strategy", *sets, "mean", *titles, f"worse than {references[0]} on", "ms"])
    for name in names:
        if all(report.find(one, name, k_shot) is None for one in sets):
            continue
        cells = [_cell(report, one, name, references[0], k_shot) for one in sets]
        gains = [_gain(report, name, other, k_shot) for other in references]
        yield row(
            [
                name,
                *cells,
                f"{_mean(report, name, k_shot):.1f}",
                *gains,
                ", ".join(worse(report, name, references[0], k_shot)) or "–",
                _time(milliseconds(report, name, k_shot)),
            ]
        )
    yield ""


def worse(report: BenchmarkReport, name: str, reference: str, k_shot: int) -> list[str]:
    """Name the data sets on which the 95 % interval of the difference lies below 0; not corrected for their number."""
    found = []
    for one in report.datasets_at(k_shot):
        test = None if name == reference else report.difference(name, reference, one, k_shot)
        if test is not None and test.difference.high < 0:
            found.append(one)
    return found


def verdict(report: BenchmarkReport, name: str, reference: str, shots: Iterable[int]) -> str:
    """Say in a line what a strategy gains at each number of shots, and on which data sets it is significantly worse."""
    said = []
    for k_shot in shots:
        bad = worse(report, name, reference, k_shot)
        where = f"significantly worse on {', '.join(bad)}" if bad else "no data set significantly worse"
        said.append(f"{k_shot} shots {_gain(report, name, reference, k_shot)}, {where}")
    return f"- **{name}** against {reference}: {'; '.join(said)}."


def milliseconds(report: BenchmarkReport, name: str, k_shot: int) -> float:
    """Mean over data sets of an episode's time to fit and predict, where heads are given features of many at once."""
    found = [report.find(one, name, k_shot) for one in report.datasets_at(k_shot)]
    return 1e3 * float(np.mean([one.fit_seconds + one.predict_seconds for one in found if one is not None]))


def points(interval: Interval, digits: int = 1) -> str:
    """Write a difference of shares in points, with its interval."""
    low, high = (f"{100 * end:+.{digits}f}" for end in interval[1:])
    return f"{100 * interval.value:+.{digits}f} [{low}, {high}]"


def percent(interval: Interval, digits: int = 1) -> str:
    """Write a share in %, with half of its interval."""
    return f"{100 * interval.value:.{digits}f} ± {50 * (interval.high - interval.low):.{digits}f}"


def header(titles: Sequence[str]) -> list[str]:
    """Start a table."""
    return [row(titles), "|" + "---|" * len(titles)]


def row(cells: Sequence[str]) -> str:
    """Write a table's row."""
    return f"| {' | '.join(cells)} |"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def _cell(report: BenchmarkReport, dataset: str, name: str, reference: str, k_shot: int) -> str:
    found = report.accuracy(dataset, name, k_shot)
    if found is None:
        return "–"
    test = None if name == reference else report.difference(name, reference, dataset, k_shot)
    if test is None:
        return percent(found)
    half = 50 * (test.difference.high - test.difference.low)
    return f"{100 * found.value:.1f} ({100 * test.difference.value:+.1f} ± {half:.1f})"


def _mean(report: BenchmarkReport, name: str, k_shot: int) -> float:
    found = [report.accuracy(one, name, k_shot) for one in report.datasets_at(k_shot)]
    return 100 * float(np.mean([one.value for one in found if one is not None]))


def _gain(report: BenchmarkReport, name: str, reference: str, k_shot: int) -> str:
    return "–" if name == reference else points(report.compare(name, reference, k_shot).difference)
