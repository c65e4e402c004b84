"""Row plots: one line per strategy, its name and figure above its mark, all on one scale.

Names stand above the data rather than beside it, so that a long one costs no width and a telephone shows all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from fewshot.report.markdown import show_accuracy, show_difference
from fewshot.report.model import Report, StrategyInfo
from fewshot.report.svg.base import (
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    clip,
    element,
    family,
    line,
    mark,
    number,
    picture,
    text,
)
from fewshot.stats import Interval

_TOP, _ROW, _DRAWS_ROW, _AXIS = 22.0, 42.0, 64.0, 38.0
_BINS, _BAR = 34, 22.0


@dataclass(frozen=True)
class _Row:
    """A strategy's line: its name, what is written at the right, and how to draw it at a height."""

    info: StrategyInfo
    text: str
    draw: Callable[[float], Markup]
    aside: str = ""


def accuracy(report: Report) -> Markup:
    """Draw each strategy's accuracy with its interval, and the level of a guess."""
    table = report.summary()
    chance = 100 / len(report.class_names)
    intervals = [_percent(row.accuracy) for row in table if row.accuracy is not None]
    scale = _percent_scale([*(v for i in intervals for v in i), chance])
    rows = [
        _Row(info, f"{show_accuracy(row.accuracy)}", _interval(scale, info, interval))
        for info, row, interval in zip(report.strategies, table, intervals, strict=True)
    ]
    return _plot("Accuracy", _said(rows), rows, scale, "accuracy, %", (chance, f"chance {chance:.3g} %"))


def difference(report: Report, baseline: str) -> Markup:
    """Draw each strategy's accuracy minus a baseline's on the same images, with the interval, around zero."""
    found = {row.strategy: row.differences.get(baseline) for row in report.summary()}
    intervals = {name: _percent(interval) for name, interval in found.items() if interval is not None}
    ends = [0.0, *(v for interval in intervals.values() for v in interval)]
    scale = Scale(10 * math.floor(min(ends) / 10), 10 * math.ceil(max(max(ends), min(ends) + 10) / 10))
    rows = []
    for info in report.strategies:
        interval = intervals.get(info.name)
        if interval is None:
            rows.append(_Row(info, "the baseline", _point(scale, info, 0.0, hollow=True)))
        else:
            rows.append(_Row(info, show_difference(found[info.name]), _interval(scale, info, interval)))
    title = f"Difference in accuracy to {baseline}"
    return _plot(title, _said(rows), rows, scale, "points, better →", (0.0, "no difference"))


def log_loss(report: Report) -> Markup:
    """Draw each strategy's log-loss from zero, and that of a uniform guess."""
    guess = math.log(len(report.class_names))
    losses = [row.log_loss or 0.0 for row in report.summary()]
    scale = Scale(0.0, 1.05 * max(guess, *losses))

    def stem(info: StrategyInfo, loss: float) -> Callable[[float], Markup]:
        return lambda y: (
            line(scale(0), y, scale(loss), y, f"whisker {family(info)}") + mark(family(info), scale(loss), y)
        )

    rows = [_Row(info, f"{loss:.3f}", stem(info, loss)) for info, loss in zip(report.strategies, losses, strict=True)]
    return _plot("Log-loss", _said(rows), rows, scale, "log-loss, ← better", (guess, f"uniform guess {guess:.2f}"))


def draws(report: Report) -> Markup:
    """Draw how accuracy spreads over random draws of the training images: histogram, mean, 5 to 95 % of draws."""
    chance = 100 / len(report.class_names)
    values = {d.strategy: 100 * np.array(d.accuracies) for d in report.draws}
    scale = _percent_scale([*(float(v) for some in values.values() for v in some), chance])
    infos = {info.name: info for info in report.strategies}
    rows = []
    for name, count, mean, low, high, _ in report.draws_summary():
        info = infos.get(name) or StrategyInfo(name, name, "", "", 0, trains=False)
        spread = Interval(100 * mean.value, 100 * low, 100 * high)
        shown = f"{spread.value:.1f} %"
        rows.append(
            _Row(info, shown, _histogram(scale, info, values[name], spread), f"{count} draw{'s' if count != 1 else ''}")
        )
    reference = (chance, f"chance {chance:.3g} %")
    return _plot("Accuracy over draws", _said(rows), rows, scale, "accuracy, %", reference, _DRAWS_ROW)


def _plot(
    title: str,
    description: str,
    rows: Sequence[_Row],
    scale: Scale,
    axis: str,
    reference: tuple[float, str],
    row_height: float = _ROW,
) -> Markup:
    bottom = _TOP + row_height * len(rows)
    parts = [line(scale(tick), _TOP, scale(tick), bottom, "grid") for tick in scale.ticks()]
    parts.append(line(scale(reference[0]), _TOP - 5, scale(reference[0]), _TOP + 3, "reference"))
    parts.append(_beside(scale(reference[0]), _TOP - 9, reference[1]))
    for position, row in enumerate(rows):
        top = _TOP + row_height * position
        room = 40 - len(row.text) - (len(row.aside) + 1 if row.aside else 0)
        name = [clip(row.info.name, room)]
        if row.aside:
            name.append(element("tspan", row.aside, class_="aside", dx=6.0))
        parts.append(element("text", *name, x=LEFT - 6, y=top + 15, class_="name"))
        parts.append(text(RIGHT + 6, top + 15, row.text, "value", "end"))
        # Interrupted where the names are, so that it crosses none.
        parts.append(line(scale(reference[0]), top + 20, scale(reference[0]), top + row_height - 4, "reference"))
        parts.append(row.draw(top + row_height - 13))
    parts.append(line(LEFT, bottom, RIGHT, bottom, "axis"))
    for tick in scale.ticks():
        parts.append(text(min(max(scale(tick), 12.0), WIDTH - 12), bottom + 15, number(tick), "tick", "middle"))
    parts.append(text(RIGHT + 6, bottom + 31, axis, "tick", "end"))
    return picture(bottom + _AXIS, title, description, *parts)


def _beside(x: float, y: float, content: str) -> Markup:
    """Write a reference line's label over it, kept inside the picture."""
    half = 3.4 * len(content)
    return text(min(max(x, half + 2), WIDTH - half - 2), y, content, "note", "middle")


def _interval(scale: Scale, info: StrategyInfo, interval: Interval) -> Callable[[float], Markup]:
    kind = family(info)

    def draw(y: float) -> Markup:
        low, high = scale(interval.low), scale(interval.high)
        ends = [line(x, y - 3, x, y + 3, f"whisker {kind}") for x in (low, high)]
        return Markup("").join([line(low, y, high, y, f"whisker {kind}"), *ends, mark(kind, scale(interval.value), y)])

    return draw


def _point(scale: Scale, info: StrategyInfo, value: float, hollow: bool) -> Callable[[float], Markup]:
    return lambda y: mark(family(info), scale(value), y, hollow=hollow)


def _histogram(
    scale: Scale, info: StrategyInfo, values: np.ndarray[tuple[int], np.dtype[np.float64]], spread: Interval
) -> Callable[[float], Markup]:
    counts, edges = np.histogram(values, bins=_BINS, range=(scale.low, scale.high))
    kind = family(info)

    def draw(y: float) -> Markup:
        foot = y - 7
        bars = []
        for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if count:
                # A single draw must stay visible beside a bar of hundreds.
                height = max(1.5, _BAR * count / int(counts.max()))
                x, width = scale(left) + 0.5, scale(right) - scale(left) - 1
                bars.append(element("rect", x=x, y=foot - height, width=width, height=height, class_=f"bar {kind}"))
        return Markup("").join(bars) + _interval(scale, info, spread)(y)

    return draw


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.value, 100 * interval.low, 100 * interval.high)


def _percent_scale(values: Sequence[float]) -> Scale:
    """Cover values in percent with whole tens, at least twenty points of them."""
    low = min(10 * math.floor(min(values) / 10), 80)
    return Scale(float(low), float(max(10 * math.ceil(max(values) / 10), low + 20)))


def _said(rows: Sequence[_Row]) -> str:
    """The picture in words, for those who do not see it."""
    return "; ".join(f"{row.info.name}: {row.text}{', ' + row.aside if row.aside else ''}" for row in rows) + "."
