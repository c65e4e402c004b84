"""Confusion matrices: which class was taken for which, one small picture per strategy."""

from __future__ import annotations

from markupsafe import Markup

from fewshot.report.model import Report
from fewshot.report.svg.base import WIDTH, clip, element, picture, text

_MOST_COUNTED = 15
"""Classes up to which names and counts fit; beyond, cells are shades with tooltips."""
_SHADE = 0.62
"""Opacity of a full cell: ink on top of it keeps its contrast."""


def confusion(report: Report, strategy: str) -> Markup:
    """Draw one strategy's matrix: rows are true classes, columns predictions, shades the share of the row."""
    counts = report.confusion(strategy)
    n = len(report.class_names)
    small = n <= _MOST_COUNTED
    names = [clip(name, 12) for name in report.class_names]
    longest = max(map(len, names)) if small else 0
    # Names over columns stand upright where they fit their column, and turn where they do not.
    left = 22.0 + 6.6 * longest
    side = min((WIDTH - left - 2) / n, 84.0)
    upright = 6.6 * longest <= side - 4
    top = 24.0 + (0.0 if not small else 14.0 if upright else 6.6 * longest)
    parts = [_frame(left, top, side * n)]
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            if count or small or i == j:
                x, y = left + side * j, top + side * i
                parts.append(_cell(report, (i, j), count, sum(row), (x, y, side)))
                if small:
                    style = f"count{' right' if i == j else ''}{' zero' if not count else ''}"
                    parts.append(
                        text(x + side / 2, y + side / 2 + 4, str(count) if count or n < 5 else "·", style, "middle")
                    )
    if small:
        parts += _names(names, left, top, side, upright)
    right, total = int(counts.trace()), int(counts.sum())
    title = f"Confusion matrix of {strategy}"
    said = f"{right} of {total} on the diagonal, where prediction and true class agree."
    parts.append(text(left, 12.0, "predicted →", "tick"))
    parts.append(text(12.0, top + side * n / 2, "true", "tick", "middle", transform=_turn(12.0, top + side * n / 2)))
    width = max(left + side * n + 2, left + 70)
    return picture(top + side * n + 4, title, said, *parts, width=width)


def _frame(left: float, top: float, side: float) -> Markup:
    return element("rect", x=left, y=top, width=side, height=side, class_="frame")


def _cell(report: Report, at: tuple[int, int], count: int, total: int, box: tuple[float, float, float]) -> Markup:
    x, y, side = box
    true, predicted = report.class_names[at[0]], report.class_names[at[1]]
    share = count / total if total else 0.0
    gap = 1.0 if side > 8 else 0.0
    return element(
        "rect",
        element(
            "title",
            f"{true} taken for {predicted}: {count} of {total}"
            if at[0] != at[1]
            else f"{true}: {count} of {total} right",
        ),
        x=x + gap / 2,
        y=y + gap / 2,
        width=side - gap,
        height=side - gap,
        class_="cell right" if at[0] == at[1] else "cell",
        fill_opacity=round(_SHADE * share, 3),
    )


def _names(names: list[str], left: float, top: float, side: float, upright: bool) -> list[Markup]:
    parts = []
    for k, name in enumerate(names):
        middle = side * (k + 0.5)
        parts.append(text(left - 6, top + middle + 4, name, "tick", "end"))
        if upright:
            parts.append(text(left + middle, top - 6, name, "tick", "middle"))
        else:
            x, y = left + middle + 4, top - 6
            parts.append(text(x, y, name, "tick", "start", transform=_turn(x, y)))
    return parts


def _turn(x: float, y: float) -> str:
    return f"rotate(-90 {x:.1f} {y:.1f})"
