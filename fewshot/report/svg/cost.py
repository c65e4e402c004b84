"""Accuracy against cost: what a strategy takes per episode, on a logarithmic axis, and who gets most for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewshot.report.benchmark_findings import Findings
from fewshot.report.benchmark_words import per_class, show_time
from fewshot.report.model import StrategyInfo, percent
from fewshot.report.svg.base import WIDTH, Scale, element, family, fit, line, mark, number, picture, text, width_of

_HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 340.0, 26.0, 296.0, 34.0, 350.0
_LABEL = 130.0


@dataclass(frozen=True)
class _Point:
    """A strategy's cost in seconds and accuracy in percent, where they are in the picture, and what is unusual."""

    info: StrategyInfo
    cost: float
    accuracy: float
    x: float
    y: float
    aside: str


def cost_accuracy(findings: Findings, k_shot: str) -> Markup | None:
    """Draw the strategies that were run on all data sets; ``None`` for fewer than two."""
    thin = findings.thin(k_shot)
    names = [*findings.order(k_shot), *thin]
    if len(names) < 2:
        return None
    costs = {name: findings.cost(name, k_shot) for name in names}
    values = {name: 100 * findings.overall[name, k_shot].value for name in names}
    low, high = (math.log10(pick(costs.values())) for pick in (min, max))
    xs = Scale(low - 0.3, max(high, low + 1) + 0.15, _LEFT, _RIGHT)
    floor = min(10 * math.floor(min(values.values()) / 10), 90)
    ys = Scale(float(floor), float(max(10 * math.ceil(max(values.values()) / 10), floor + 10)), _BOTTOM, _TOP)
    asides = {name: f" (n = {findings.episodes(k_shot, name)[0]})" for name in thin}
    marked = [
        _Point(findings.infos[n], costs[n], values[n], xs(math.log10(costs[n])), ys(values[n]), asides.get(n, ""))
        for n in names
    ]
    # A mean over fewer episodes than others' may be high by chance.
    front = _front([point for point in marked if not point.aside])
    parts = [*_axes(xs, ys), _steps(front)]
    for point in marked:
        shown = mark(
            family(point.info),
            point.x,
            point.y,
            5.0 if point in front else 3.5,
            hollow=point.info.name == findings.report.reference,
        )
        said = f"{point.info.name}: {show_time(point.cost)} s, {point.accuracy:.1f} %{point.aside}"
        parts.append(element("g", element("title", said), shown))
    others = [point for point in marked if point not in front]
    others.sort(key=lambda point: point.info.name != findings.report.reference)
    parts += _labels([*front, *others], marked)
    said = "; ".join(f"{p.info.name}: {show_time(p.cost)} s, {percent(p.accuracy / 100)} %{p.aside}" for p in marked)
    return picture(_HEIGHT, f"Accuracy against cost with {per_class(k_shot)}", f"{said}.", *parts)


def _front(marked: Sequence[_Point]) -> list[_Point]:
    """Those that nothing cheaper equals, from the cheapest on."""
    front: list[_Point] = []
    for point in sorted(marked, key=lambda p: (p.cost, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def _steps(front: Sequence[_Point]) -> Markup:
    points = []
    for point, after in zip(front, [*front[1:], None], strict=True):
        points += [f"{point.x:.1f},{point.y:.1f}", f"{after.x if after else _RIGHT:.1f},{point.y:.1f}"]
    return element("polyline", points=" ".join(points), class_="front")


def _axes(xs: Scale, ys: Scale) -> list[Markup]:
    parts = [line(_LEFT, ys(tick), _RIGHT, ys(tick), "grid") for tick in ys.ticks(7)]
    parts += [text(_LEFT - 6, ys(tick) + 4, number(tick), "tick", "end") for tick in ys.ticks(7)]
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    decades = range(math.ceil(xs.low), math.floor(xs.high) + 1)
    # Less than a decade or so needs steps between its ends.
    ticks = [float(10**d) for d in decades] if len(decades) > 2 else []
    if not ticks:
        span = range(math.floor(xs.low), math.ceil(xs.high) + 1)
        ticks = [f * 10.0**d for d in span for f in (1, 2, 5) if xs.low <= math.log10(f * 10.0**d) <= xs.high]
    for tick in ticks:
        x = xs(math.log10(tick))
        parts.append(line(x, _TOP, x, _BOTTOM, "grid"))
        parts.append(text(x, _BOTTOM + 16, f"{tick:g}", "tick", "middle"))
    parts.append(text(_RIGHT + 6, _BOTTOM + 34, "seconds per episode, ← cheaper", "tick", "end"))
    parts.append(text(2.0, 12.0, "accuracy, %", "tick"))
    return parts


def _labels(wanted: Sequence[_Point], marked: Sequence[_Point]) -> list[Markup]:
    """Name points where there is room, the most important first; the others keep their tooltips."""
    taken = [(p.x - 5, p.y - 5, p.x + 5, p.y + 5) for p in marked]
    parts = []
    for point in wanted:
        name = fit(point.info.name, _LABEL)
        width = width_of(name)
        for dx, dy in _offsets(width):
            x, y = point.x + dx, point.y + dy
            box = (x - 1, y - 9, x + width + 1, y + 3)
            inside = box[0] >= _LEFT + 2 and box[2] <= WIDTH - 1 and box[1] >= 14 and box[3] <= _BOTTOM + 2
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(text(x, y, name, f"label {family(point.info)} hued"))
                break
    return parts


def _offsets(width: float) -> list[tuple[float, float]]:
    """Where a name of this width may begin, from its mark: beside it, over and under it, then at its corners."""
    beside = [(8.0, 4.0), (-8.0 - width, 4.0)]
    over = [(-width / 2, -8.0), (-width / 2, 16.0)]
    corners = [(6.0, -7.0), (6.0, 15.0), (-6.0 - width, -7.0), (-6.0 - width, 15.0)]
    return beside + over + corners


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
