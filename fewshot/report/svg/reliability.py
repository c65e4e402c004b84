"""Reliability: how often answers are right against how sure they were, one small picture per strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fewshot.metrics import expected_calibration_error
from fewshot.report.benchmark_findings import Findings
from fewshot.report.svg.base import Scale, element, family, line, number, picture, text

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 176.0, 196.0, 26.0, 170.0, 10.0, 154.0
_FEWEST = 20
"""Answers below which a bin's share of right ones is chance."""


def pooled(findings: Findings, strategy: str, k_shot: str) -> NDArray[np.float64] | None:
    """Add the (bins, 3) calibration of a strategy over data sets; ``None`` where there is none."""
    found = [
        np.array(one.calibration, dtype=np.float64)
        for name in findings.datasets
        if (one := findings.report.find(name, strategy, k_shot)) is not None and one.calibration
    ]
    return sum(found[1:], start=found[0]) if found and len({len(one) for one in found}) == 1 else None


def reliability(findings: Findings, strategy: str, k_shot: str) -> Markup | None:
    """Draw a strategy at a number of shots over all data sets; ``None`` where nothing is known."""
    bins = pooled(findings, strategy, k_shot)
    if bins is None or bins[:, 0].sum() == 0:
        return None
    xs, ys = Scale(0.0, 1.0, _LEFT, _RIGHT), Scale(0.0, 1.0, _BOTTOM, _TOP)
    parts = [line(_LEFT, ys(tick), _RIGHT, ys(tick), "grid") for tick in (0.5, 1.0)]
    parts += [text(_LEFT - 5, ys(tick) + 4, number(100 * tick), "tick", "end") for tick in (0.0, 0.5, 1.0)]
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    parts += [text(xs(tick), _BOTTOM + 15, number(100 * tick), "tick", "middle") for tick in (0.0, 0.5)]
    parts.append(text(_RIGHT, _BOTTOM + 15, "100", "tick", "end"))
    parts.append(line(xs(0), ys(0), xs(1), ys(1), "ideal"))
    parts.append(_bins(bins, family(findings.infos[strategy]), xs, ys))
    error = expected_calibration_error(bins)
    parts.append(text(_LEFT, _BOTTOM + 34, f"ECE {100 * error:.1f} points", "note"))
    title = f"Reliability of {strategy}"
    return picture(_HEIGHT, title, f"Expected calibration error {error:.3f}; {_said(bins)}.", *parts, width=_WIDTH)


def _bins(bins: NDArray[np.float64], kind: str, xs: Scale, ys: Scale) -> Markup:
    total, points, marks = float(bins[:, 0].sum()), [], []
    for count, confidence, right in bins.tolist():
        if count < 1:
            continue
        x, y = xs(confidence / count), ys(right / count)
        few = count < _FEWEST
        if not few:
            points.append(f"{x:.1f},{y:.1f}")
        said = element("title", f"{count:.0f} answers, {confidence / count:.2f} sure, {right / count:.2f} right")
        radius = 2 + 6 * math.sqrt(count / total)
        cx, cy = min(max(x, radius), _WIDTH - radius), min(max(y, radius), _HEIGHT - radius)
        marks.append(element("circle", said, cx=cx, cy=cy, r=radius, class_=f"mark {kind}{' hollow' if few else ''}"))
    joined = element("polyline", points=" ".join(points), class_=f"curve {kind}") if len(points) > 1 else Markup("")
    return Markup("").join([joined, *marks])


def _said(bins: NDArray[np.float64]) -> str:
    rows: Sequence[Sequence[float]] = bins.tolist()
    return "; ".join(f"{100 * c / n:.0f} % sure: {100 * r / n:.0f} % right" for n, c, r in rows if n >= 1)
