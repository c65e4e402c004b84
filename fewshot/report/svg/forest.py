"""Compact rows: accuracies, or differences to the reference, one line per strategy, the best first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewshot.report.benchmark_findings import Findings, bounded
from fewshot.report.benchmark_words import show_mean
from fewshot.report.markdown import points
from fewshot.report.model import StrategyInfo
from fewshot.report.svg.base import (
    WIDTH,
    Scale,
    element,
    family,
    fit,
    line,
    mark,
    number,
    picture,
    text,
    width_of,
)
from fewshot.stats import Interval

_TOP, _ROW, _AXIS, _NAMES, _FIGURES = 24.0, 21.0, 38.0, 132.0, 40.0


@dataclass(frozen=True)
class _Row:
    """A strategy's line in percent: its interval, what is written at the right, and the data sets behind a mean."""

    info: StrategyInfo
    interval: Interval
    text: str
    behind: tuple[float, ...] = ()
    hollow: bool = False


def difference_rows(findings: Findings, k_shot: str, dataset: str | None = None) -> Markup | None:
    """Draw the differences to the reference on a data set, or their means over all; ``None`` where there are none."""
    rows = []
    for name in _order(findings, k_shot):
        row = findings.rows.get((dataset or "", name, k_shot))
        test, p = (row.difference, row.p_holm) if row else findings.leads.get((name, k_shot), (None, None))
        if test is None or (dataset is not None and row is None):
            continue
        behind = [one.difference for one in findings.of(k_shot, name)] if dataset is None else []
        rows.append(
            _Row(
                findings.infos[name],
                _percent(test.difference),
                points(test.difference.value, sign=True),
                tuple(100 * one.difference.value for one in behind if one is not None),
                hollow=p is None or not p < 0.05,
            )
        )
    if not rows:
        return None
    where = f"on {dataset}" if dataset else "over data sets"
    title = f"Difference in accuracy to {findings.report.reference} {where}, {k_shot} per class"
    return _plot(
        title,
        rows,
        _around_zero(_beside(findings, k_shot, dataset)),
        "points, better →",
        reference=(0.0, "no difference"),
    )


def accuracy_rows(findings: Findings, k_shot: str, dataset: str | None = None) -> Markup | None:
    """Draw the accuracies on a data set, or their means over all; ``None`` where there are none."""
    rows = []
    for name in _order(findings, k_shot):
        row = findings.rows.get((dataset or "", name, k_shot))
        interval = findings.overall.get((name, k_shot)) if dataset is None else row.accuracy if row else None
        if interval is not None:
            known = _percent(interval) if bounded(interval) else Interval(*[100 * interval.value] * 3)
            behind = [100 * one.accuracy.value for one in findings.of(k_shot, name)] if dataset is None else []
            hollow = name == findings.report.reference and len(findings.infos) > 1
            rows.append(_Row(findings.infos[name], known, show_mean(interval).split(" ")[0], tuple(behind), hollow))
    if not rows:
        return None
    where = f"on {dataset}" if dataset else "over data sets"
    # One scale for all data sets.
    values = [
        100 * v for one in findings.of(k_shot) for v in (one.accuracy if bounded(one.accuracy) else one.accuracy[:1])
    ]
    low = min(10 * math.floor(min(values) / 10), 90)
    scale = (float(low), float(max(10 * math.ceil(max(values) / 10), low + 10)))
    return _plot(f"Accuracy {where}, {k_shot} per class", rows, scale, "accuracy, %")


def _order(findings: Findings, k_shot: str) -> list[str]:
    """Give the same order in every picture of a number of shots: by the mean, then what has none."""
    return list(dict.fromkeys([*findings.order(k_shot), *(info.name for info in findings.ran(k_shot))]))


def _around_zero(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Cover zero and most differences: one hopeless strategy must not press all others into a point."""
    finite = [v for interval in intervals for v in interval if math.isfinite(v)]
    sizes = sorted(abs(interval.value) for interval in intervals)
    most = max(5.0, 3.5 * sizes[len(sizes) // 2])
    step = 5 if most < 25 else 10
    low = step * math.floor(max(min([0.0, *finite]), -most) / step)
    return float(low), float(step * math.ceil(max(min(max([0.0, *finite]), most), low + step) / step))


def _beside(findings: Findings, k_shot: str, dataset: str | None) -> list[Interval]:
    """Give the differences of all pictures that stand beside this one, so that they share one scale."""
    if dataset is None:
        return [_percent(test.difference) for test, _ in findings.leads.values()]
    return [_percent(row.difference.difference) for row in findings.of(k_shot) if row.difference is not None]


def _plot(
    title: str,
    rows: Sequence[_Row],
    ends: tuple[float, float],
    axis: str,
    reference: tuple[float, str] | None = None,
) -> Markup:
    names = min(max(width_of(row.info.name) for row in rows), _NAMES)
    top = _TOP if reference else 8.0
    bottom = top + _ROW * len(rows)
    scale = Scale(*ends, names + 16, WIDTH - _FIGURES - 8)
    parts = [line(scale(tick), top, scale(tick), bottom, "grid") for tick in scale.ticks()]
    if reference:
        x = scale(reference[0])
        parts.append(line(x, top - 4, x, bottom, "reference"))
        half = width_of(reference[1]) / 2
        parts.append(text(min(max(x, half + 2), WIDTH - half - 2), top - 9, reference[1], "note", "middle"))
    for position, row in enumerate(rows):
        y = top + _ROW * (position + 0.5)
        label = element("title", row.info.name)
        parts.append(element("text", fit(row.info.name, names), label, x=0.0, y=y + 4, class_="label"))
        parts.append(_interval(row, scale, y))
        parts.append(text(WIDTH, y + 4, row.text, "value", "end"))
    parts.append(line(scale.start, bottom, scale.end, bottom, "axis"))
    for tick in scale.ticks():
        parts.append(text(scale(tick), bottom + 15, number(tick), "tick", "middle"))
    parts.append(text(scale.end, bottom + 31, axis, "tick", "end"))
    said = "; ".join(f"{row.info.name}: {row.text}{_ends(row.interval)}" for row in rows)
    return picture(bottom + _AXIS, title, f"{said}.", *parts)


def _interval(row: _Row, scale: Scale, y: float) -> Markup:
    kind, interval = family(row.info), row.interval
    parts = [
        element("circle", cx=scale(value), cy=y, r=2.0, class_=f"behind {kind}")
        for value in row.behind
        if scale.low <= value <= scale.high
    ]
    if interval.value < scale.low or interval.value > scale.high:
        # Beyond the axis: an arrow at its end, and the figure at the right.
        x, way = (scale.start, -1) if interval.value < scale.low else (scale.end, 1)
        tip, foot = x + 2 * way, x - 7 * way
        arrow = f"{tip:.1f},{y:.1f} {foot:.1f},{y - 5:.1f} {foot:.1f},{y + 5:.1f}"
        parts.append(element("polygon", points=arrow, class_=f"mark {kind}"))
    else:
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            parts.append(line(scale(interval.low), y, scale(interval.high), y, f"whisker {kind}"))
        parts.append(mark(kind, scale(interval.value), y, 4.0, row.hollow))
    return Markup("").join(parts)


def _ends(interval: Interval) -> str:
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)) or interval.low == interval.high:
        return ""
    return f" [{points(interval.low / 100)}, {points(interval.high / 100)}]"


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.value, 100 * interval.low, 100 * interval.high)
