"""Training curves: the loss over steps or epochs, one small picture per strategy, one line per phase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from fewshot.report.model import Report, StrategyInfo
from fewshot.report.svg.base import WIDTH, Scale, clip, element, family, line, number, picture, spread, text

_HEIGHT, _TOP, _BOTTOM, _LEFT = 220.0, 24.0, 180.0, 34.0
_LINE = 14.0
_DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 5", "4 6")
_SMOOTH_FROM = 50
"""A curve of this many points or more is noise to the eye: it is drawn faintly, with its running mean on top."""


@dataclass
class _Phase:
    """(x, loss) points of a line, and of what was measured on held-out evidence."""

    name: str
    loss: list[tuple[float, float]] = field(default_factory=list)
    validation: list[tuple[float, float]] = field(default_factory=list)

    @property
    def end(self) -> tuple[float, float]:
        return self.loss[-1] if self.loss else self.validation[-1]

    @property
    def labels(self) -> list[tuple[float, str]]:
        """What to write at the right, and the loss it belongs to."""
        name = clip(self.name, 14)
        return [
            (points[-1][1], f"{sign}{name}") for sign, points in (("", self.loss), ("○ ", self.validation)) if points
        ]


def training_curves(report: Report) -> list[tuple[str, Markup]]:
    """Draw the curve of the first result of each strategy that has one: (strategy, picture)."""
    drawn = []
    for info in report.strategies:
        history = next((r.history for r in report.results if r.strategy == info.name and r.history), ())
        phases = _phases(history)
        if phases:
            drawn.append((info.name, _draw(info, phases, "epoch" if "epoch" in history[0] else "step")))
    return drawn


def _phases(history: Sequence[Mapping[str, Any]]) -> list[_Phase]:
    found: dict[str, _Phase] = {}
    for position, row in enumerate(history):
        phase = found.setdefault(str(row.get("phase", "")), _Phase(str(row.get("phase", ""))))
        x = row.get("epoch", row.get("step", position))
        for key, points in (("loss", phase.loss), ("validation_loss", phase.validation)):
            # A diverged training has losses that are no numbers, and JSON turns them into null.
            if isinstance(row.get(key), (int, float)) and math.isfinite(row[key]):
                points.append((float(x), float(row[key])))
    return [phase for phase in found.values() if phase.loss or phase.validation]


def _draw(info: StrategyInfo, phases: list[_Phase], unit: str) -> Markup:
    points = [point for phase in phases for point in phase.loss + phase.validation]
    labels = [label for phase in phases for label in phase.labels] if len(phases) > 1 else []
    right = WIDTH - max((18.0 + 6.6 * len(label) for _, label in labels), default=12.0)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    xs = Scale(first, max(last, first + 1), _LEFT, right)
    ys = Scale(0.0, 1.05 * max(*(y for _, y in points), 0.01), _BOTTOM, _TOP)
    parts = [line(_LEFT, ys(tick), right, ys(tick), "grid") for tick in ys.ticks(5)]
    parts += [text(_LEFT - 6, ys(tick) + 4, number(tick), "tick", "end") for tick in ys.ticks(5)]
    parts.append(line(_LEFT, _BOTTOM, right, _BOTTOM, "axis"))
    for tick in xs.ticks(6):
        # Half a step or epoch does not exist.
        if tick == int(tick):
            parts.append(text(xs(tick), _BOTTOM + 16, number(tick), "tick", "middle"))
    parts.append(text(right, _BOTTOM + 33, unit, "tick", "end"))
    parts.append(text(2.0, 12.0, "loss", "tick"))
    for position, phase in enumerate(phases):
        parts.append(_curve(phase, xs, ys, family(info), _DASHES[(len(phases) - 1 - position) % len(_DASHES)]))
    parts += _labels(labels, ys, right)
    ends = ", ".join(f"{phase.name or 'loss'} ends at {phase.end[1]:.3f}" for phase in phases)
    return picture(_HEIGHT, f"Training curve of {info.name}", f"Loss over {unit}s: {ends}.", *parts)


def _curve(phase: _Phase, xs: Scale, ys: Scale, kind: str, dash: str) -> Markup:
    parts = []
    if len(phase.loss) >= _SMOOTH_FROM:
        parts.append(_path(phase.loss, xs, ys, f"curve raw {kind}", ""))
    if phase.loss:
        parts.append(_path(_smooth(phase.loss), xs, ys, f"curve {kind}", dash))
    for x, y in phase.validation:
        if not phase.loss:
            # The untrained candidate has a level rather than a curve: what the others are measured against.
            parts.append(_path([(x, y), (xs.high, y)], xs, ys, f"curve {kind}", dash))
        parts.append(element("circle", cx=min(xs(x), xs.end), cy=ys(y), r=4.0, class_=f"mark {kind} hollow"))
    return Markup("").join(parts)


def _path(points: Sequence[tuple[float, float]], xs: Scale, ys: Scale, kind: str, dash: str) -> Markup:
    shown = " ".join(f"{xs(x):.1f},{ys(y):.1f}" for x, y in points)
    return element("polyline", points=shown, class_=kind, stroke_dasharray=dash or None)


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) < _SMOOTH_FROM:
        return points
    half = max(1, len(points) // 40)
    losses = np.array([y for _, y in points])
    return [(x, float(losses[max(0, i - half) : i + half + 1].mean())) for i, (x, _) in enumerate(points)]


def _labels(labels: list[tuple[float, str]], ys: Scale, right: float) -> list[Markup]:
    """Write labels at the height of their losses, pushed apart where these are close together."""
    order = sorted(labels, reverse=True)
    heights = spread([ys(loss) + 4 for loss, _ in order], _LINE, _TOP, _BOTTOM + 18 - _LINE)
    return [text(right + 9, y, label, "label") for (_, label), y in zip(order, heights, strict=True)]
