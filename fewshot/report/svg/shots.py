"""Accuracy over the number of training images: a line and a band per strategy, named where it ends.

Of many strategies a few are drawn in full: the best, the reference, the baselines. The others are thin, with their
names as tooltips, so that nothing is left out and the picture can still be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewshot.report.benchmark_findings import Findings, bounded
from fewshot.report.model import StrategyInfo, percent
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
    spread,
    text,
    width_of,
)
from fewshot.stats import Interval

_HEIGHT, _TOP, _BOTTOM, _LEFT = 332.0, 26.0, 290.0, 30.0
_LINE, _LEADER, _LABELS = 14.0, 14.0, 120.0
_DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 5", "4 6")
_DRAWN = 7
"""Strategies that are drawn in full."""


@dataclass(frozen=True)
class _Curve:
    """A strategy's (position, accuracy in percent) points."""

    info: StrategyInfo
    points: tuple[tuple[float, Interval], ...]


def drawn_in_full(findings: Findings) -> list[str]:
    """Choose what is drawn in full: the best at each number of shots, the reference, the baselines, the next best."""
    from fewshot.strategies import BASELINES

    names = [best for best in map(findings.best, findings.shots) if best]
    names += [findings.report.reference, *(name for name in BASELINES if name in findings.infos)]
    names += [name for place in range(_DRAWN) for k in findings.shots for name in findings.order(k)[place : place + 1]]
    chosen = list(dict.fromkeys([*names, *findings.infos]))[:_DRAWN]
    return [name for name in findings.infos if name in chosen]


def shots_scale(findings: Findings) -> Scale:
    """Cover all accuracies, so that the pictures of all data sets share one scale."""
    values = [100 * row.accuracy.value for row in findings.rows.values()]
    low = min(10 * math.floor(min(values) / 10), 80)
    return Scale(float(low), float(max(10 * math.ceil(max(values) / 10), low + 20)), _BOTTOM, _TOP)


def accuracy_over_shots(findings: Findings, dataset: str | None = None) -> Markup:
    """Draw the accuracies on a data set, or their means over all of them."""
    chosen = drawn_in_full(findings)
    places = _places(findings.shots)
    curves = [curve for info in findings.infos.values() if (curve := _curve(findings, info, dataset, places)).points]
    room = min(max((width_of(c.info.name) for c in curves if c.info.name in chosen), default=0.0), _LABELS)
    xs = Scale(0.0, max(places), _LEFT + 12, WIDTH - room - _LEADER - 14)
    ys = shots_scale(findings)
    parts = _axes(findings.shots, places, xs, ys)
    parts += [_thin(curve, xs, ys) for curve in curves if curve.info.name not in chosen]
    full = [curve for curve in curves if curve.info.name in chosen]
    parts += [band for curve in full for band in _band(curve, xs, ys)]
    seen: dict[str, int] = {}
    styles = {}
    for curve in full:
        kind = family(curve.info)
        styles[curve.info.name] = _DASHES[seen.get(kind, 0) % len(_DASHES)]
        seen[kind] = seen.get(kind, 0) + 1
        parts.append(_full(curve, xs, ys, styles[curve.info.name], curve.info.name == findings.report.reference))
    parts += _labels(full, xs, ys, styles, room)
    said = "; ".join(f"{curve.info.name}: {_said(curve, findings.shots, places)}" for curve in curves)
    where = f"on {dataset}" if dataset else "over data sets"
    return picture(_HEIGHT, f"Accuracy {where} by training images per class", f"In percent. {said}.", *parts)


def _places(shots: Sequence[str]) -> list[float]:
    """Place numbers of shots on a logarithmic axis, ranges and the like at equal steps."""
    if all(k.isdecimal() and int(k) > 0 for k in shots):
        logs = [math.log(int(k)) for k in shots]
        return [value - min(logs) for value in logs]
    return [float(i) for i in range(len(shots))]


def _curve(findings: Findings, info: StrategyInfo, dataset: str | None, places: Sequence[float]) -> _Curve:
    points = []
    for k, place in zip(findings.shots, places, strict=True):
        row = findings.rows.get((dataset or "", info.name, k))
        interval = findings.overall.get((info.name, k)) if dataset is None else row.accuracy if row else None
        if interval is not None:
            points.append((place, Interval(*(100 * v for v in interval)) if bounded(interval) else _bare(interval)))
    return _Curve(info, tuple(points))


def _bare(interval: Interval) -> Interval:
    """Leave out the band of a single episode, which has none."""
    return Interval(*[100 * interval.value] * 3)


def _axes(shots: Sequence[str], places: Sequence[float], xs: Scale, ys: Scale) -> list[Markup]:
    left, right = xs.start - 12, xs.end + 4
    parts = [line(left, ys(tick), right, ys(tick), "grid") for tick in ys.ticks(7)]
    parts += [text(left - 5, ys(tick) + 4, number(tick), "tick", "end") for tick in ys.ticks(7)]
    parts.append(line(left, ys.start, right, ys.start, "axis"))
    before = -math.inf
    for k, place in sorted(zip(shots, places, strict=True), key=lambda pair: pair[1]):
        parts.append(line(xs(place), ys.start, xs(place), ys.start + 4, "axis"))
        # Close together on a logarithmic axis not every number has room.
        if xs(place) - width_of(k) / 2 > before + 4:
            parts.append(text(xs(place), ys.start + 17, k, "tick", "middle"))
            before = xs(place) + width_of(k) / 2
    parts.append(text(left, ys.start + 34, "training images per class →", "tick"))
    parts.append(text(2.0, 12.0, "accuracy, %", "tick"))
    return parts


def _polyline(curve: _Curve, xs: Scale, ys: Scale, style: str, dash: str = "", *children: str) -> Markup:
    points = " ".join(f"{xs(x):.1f},{ys(interval.value):.1f}" for x, interval in curve.points)
    return element("polyline", *children, points=points, class_=style, stroke_dasharray=dash or None)


def _thin(curve: _Curve, xs: Scale, ys: Scale) -> Markup:
    name = element("title", curve.info.name)
    dots = [
        element("circle", name, cx=xs(x), cy=ys(interval.value), r=1.75, class_="others-dot")
        for x, interval in curve.points
    ]
    return Markup("").join([_polyline(curve, xs, ys, "curve others", "", name), *dots])


def _band(curve: _Curve, xs: Scale, ys: Scale) -> list[Markup]:
    if len(curve.points) < 2:
        return []
    above = [f"{xs(x):.1f},{ys(interval.high):.1f}" for x, interval in curve.points]
    below = [f"{xs(x):.1f},{ys(interval.low):.1f}" for x, interval in reversed(curve.points)]
    return [element("polygon", points=" ".join(above + below), class_=f"band {family(curve.info)}")]


def _full(curve: _Curve, xs: Scale, ys: Scale, dash: str, hollow: bool) -> Markup:
    kind = family(curve.info)
    marks = [mark(kind, xs(x), ys(interval.value), 3.5, hollow) for x, interval in curve.points]
    return Markup("").join([_polyline(curve, xs, ys, f"curve {kind}", dash), *marks])


def _labels(curves: Sequence[_Curve], xs: Scale, ys: Scale, styles: dict[str, str], room: float) -> list[Markup]:
    """Write each name at the height where its line ends, pushed apart, and lead from the end to the name."""
    order = sorted(curves, key=lambda curve: -curve.points[-1][1].value)
    heights = spread([ys(curve.points[-1][1].value) + 4 for curve in order], _LINE, _TOP, _BOTTOM + 18)
    parts = []
    for curve, y in zip(order, heights, strict=True):
        x, interval = curve.points[-1]
        start, end = xs(x) + 5, xs.end + 6 + _LEADER
        lead = f"{start:.1f},{ys(interval.value):.1f} {end - 8:.1f},{y - 4:.1f} {end - 2:.1f},{y - 4:.1f}"
        parts.append(element("polyline", points=lead, class_=f"leader {family(curve.info)}"))
        parts.append(text(end, y, fit(curve.info.name, room), f"label {family(curve.info)} hued"))
    return parts


def _said(curve: _Curve, shots: Sequence[str], places: Sequence[float]) -> str:
    names = dict(zip(places, shots, strict=True))
    return ", ".join(f"{percent(interval.value / 100)} with {names[x]}" for x, interval in curve.points)
