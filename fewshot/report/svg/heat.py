"""A heat map: strategies by data sets, every accuracy written into its cell."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fewshot.report.benchmark_findings import Findings
from fewshot.report.benchmark_words import per_class
from fewshot.report.model import percent
from fewshot.report.svg.base import element, fit, picture, text, width_of

_ROW, _COLUMN, _NAMES, _HEADS, _GAP = 22.0, 42.0, 176.0, 120.0, 8.0
_SHADE = 0.62
"""Opacity of the best cell: ink on top of it keeps its contrast."""


@dataclass(frozen=True)
class _Frame:
    """Where the cells begin, how wide the picture is, and whether names over columns stand upright."""

    left: float
    top: float
    width: float
    upright: bool


def heat_width(findings: Findings, k_shot: str) -> float:
    """Tell how wide the picture is in its own units."""
    return _frame(findings, k_shot).width


def heat_map(findings: Findings, k_shot: str) -> Markup:
    """Draw the accuracies at a number of shots; the shade compares strategies within a column."""
    names = [info.name for info in findings.ran(k_shot)]
    sets = findings.sets(k_shot)
    columns = [(name, [_at(findings, name, strategy, k_shot) for strategy in names]) for name in sets]
    fair = [{name for name in names if _is_full(findings, one, name, k_shot)} for one in sets]
    fair.append(set(names) - set(findings.thin(k_shot)))
    if len(sets) > 1:
        overall = [findings.overall.get((strategy, k_shot)) for strategy in names]
        columns.append(("mean", [None if interval is None else interval.value for interval in overall]))
    frame = _frame(findings, k_shot)
    left, top = frame.left, frame.top
    parts: list[Markup] = []
    for row, name in enumerate(names):
        label = element("title", name)
        y = top + _ROW * row + _ROW / 2 + 4
        parts.append(element("text", fit(name, left - 10), label, x=left - 8, y=y, class_="label", text_anchor="end"))
    for column, (name, values) in enumerate(columns):
        # The mean stands a little apart from what it is the mean of.
        x = left + _COLUMN * column + (_GAP if len(sets) > 1 and column == len(columns) - 1 else 0.0)
        parts.append(_head(x + _COLUMN / 2, top - 7, name, frame.upright))
        parts += _cells(names, name, values, fair[column], x, top)
    ordered = [
        (name, [v if strategy in some else None for strategy, v in zip(names, values, strict=True)])
        for (name, values), some in zip(columns, fair, strict=False)
    ]
    best = [_said(names, *column) for column in ordered if any(value is not None for value in column[1])]
    said = f"In percent. Best of each column: {'; '.join(best)}."
    height = top + _ROW * len(names) + 2
    return picture(height, f"Accuracies with {per_class(k_shot)}", said, *parts, width=frame.width)


def _frame(findings: Findings, k_shot: str) -> _Frame:
    sets = findings.sets(k_shot)
    heads = [*sets, *(["mean"] if len(sets) > 1 else [])]
    left = min(max(width_of(info.name) for info in findings.ran(k_shot)), _NAMES) + 10
    longest = min(max(map(width_of, heads)), _HEADS)
    # Names over columns stand upright where they fit their column, and lean where they do not.
    upright = longest <= _COLUMN - 4
    right = left + _COLUMN * len(heads) + _GAP
    # Only the last names can reach beyond the cells.
    reach = [
        right - _GAP - _COLUMN * (i + 0.5) + 0.75 * min(width_of(name), _HEADS) for i, name in enumerate(heads[::-1])
    ]
    return _Frame(left, 20.0 if upright else 14 + 0.75 * longest, right if upright else max(right, *reach) + 8, upright)


def _at(findings: Findings, dataset: str, strategy: str, k_shot: str) -> float | None:
    row = findings.rows.get((dataset, strategy, k_shot))
    return None if row is None else row.accuracy.value


def _is_full(findings: Findings, dataset: str, strategy: str, k_shot: str) -> bool:
    row = findings.rows.get((dataset, strategy, k_shot))
    return row is not None and findings.full_on(row)


def _best(values: Sequence[float | None]) -> int:
    return max(range(len(values)), key=lambda i: -1.0 if (v := values[i]) is None else v)


def _said(names: Sequence[str], column: str, values: Sequence[float | None]) -> str:
    best = _best(values)
    return f"{column}: {names[best]} {percent(values[best] or 0.0)}"


def _head(x: float, y: float, name: str, upright: bool) -> Markup:
    if upright:
        return text(x, y, name, "tick", "middle")
    label = element("title", name)
    shown = fit(name, _HEADS)
    return element("text", shown, label, x=x, y=y, class_="tick", transform=f"rotate(-45 {x:.1f} {y:.1f})")


def _cells(
    names: Sequence[str], dataset: str, values: Sequence[float | None], fair: Collection[str], x: float, top: float
) -> list[Markup]:
    """Write a column's accuracies; the highest of ``fair``, those with the full number of episodes, is marked."""
    known = [value for value in values if value is not None]
    if not known:
        return []
    high = max(known)
    highest = max((v for name, v in zip(names, values, strict=True) if v is not None and name in fair), default=None)
    # One hopeless strategy must not make all others look alike.
    low = max(min(known), high - 2.5 * sorted(high - value for value in known)[len(known) // 2])
    parts = []
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        y = top + _ROW * row
        if value is None:
            parts.append(text(x + _COLUMN / 2, y + _ROW / 2 + 4, "–", "count zero", "middle"))
            continue
        share = max(0.0, (value - low) / (high - low)) if high > low else float(value == high)
        best = value == highest and name in fair
        parts.append(
            element(
                "rect",
                element("title", f"{name}, {dataset}: {percent(value)} %"),
                x=x + 1,
                y=y + 1,
                width=_COLUMN - 2,
                height=_ROW - 2,
                class_="cell",
                fill_opacity=round(_SHADE * share, 3),
            )
        )
        style = "count right" if best else "count"
        parts.append(text(x + _COLUMN / 2, y + _ROW / 2 + 4, percent(value), style, "middle"))
    return parts
