"""A rank diagram after Demšar (2006): mean ranks over data sets, with bars over what they do not tell apart.

It stands upright: one line per strategy and bars beside them, so that twenty long names fit a telephone.
"""

from __future__ import annotations

from markupsafe import Markup

from fewshot.report.benchmark_findings import Findings
from fewshot.report.benchmark_words import per_class
from fewshot.report.svg.base import WIDTH, Scale, element, family, fit, line, mark, number, picture, text, width_of

_TOP, _ROW, _AXIS, _NAMES, _BARS, _FIGURES = 40.0, 21.0, 38.0, 132.0, 8.0, 38.0
_MOST_BARS = 8


def rank_diagram(findings: Findings, k_shot: str) -> Markup:
    """Draw the mean ranks at a number of shots."""
    ranks = findings.ranks[k_shot]
    by_rank = sorted(zip(ranks.mean_ranks, ranks.names, strict=True))
    order = [name for _, name in by_rank]
    bottom = _TOP + _ROW * len(order)
    heights = {name: _TOP + _ROW * (i + 0.5) for i, name in enumerate(order)}
    names = min(max(map(width_of, order)), _NAMES)
    cliques = ranks.groups[:_MOST_BARS]
    room = _BARS * len(cliques) + (8 if cliques else 0)
    scale = Scale(1.0, float(max(len(order), 2)), names + 16, WIDTH - _FIGURES - room - 8)
    ticks = [float(tick) for tick in range(1, max(len(order), 2) + 1, max(1, round(len(order) / 5)))]
    parts = [line(scale(tick), _TOP, scale(tick), bottom, "grid") for tick in ticks]
    parts += _distance(ranks.critical_difference, scale)
    for rank, name in by_rank:
        info, y = findings.infos[name], heights[name]
        kind = family(info)
        parts.append(element("text", fit(name, names), element("title", name), x=0.0, y=y + 4, class_="label"))
        parts.append(line(scale.start, y, scale(rank), y, f"stem {kind}"))
        parts.append(mark(kind, scale(rank), y, 4.0, hollow=name == findings.report.reference))
        parts.append(text(WIDTH - room, y + 4, f"{rank:.2f}", "value", "end"))
    for position, clique in enumerate(cliques):
        x = WIDTH - _BARS * (len(cliques) - position) + 4
        inside = [heights[name] for name in clique]
        said = element("title", f"Not told apart: {', '.join(clique)}")
        parts.append(
            element(
                "rect", said, x=x, y=min(inside) - 7, width=4.0, height=max(inside) - min(inside) + 14, class_="clique"
            )
        )
    parts.append(line(scale.start, bottom, scale.end, bottom, "axis"))
    parts += [text(scale(tick), bottom + 15, number(tick), "tick", "middle") for tick in ticks]
    parts.append(text(scale.start, bottom + 31, "← better, mean rank", "tick"))
    groups = "; ".join(", ".join(clique) for clique in ranks.groups) or "none"
    listing = ", ".join(f"{name} {rank:.2f}" for rank, name in by_rank)
    title = f"Mean ranks with {per_class(k_shot)}"
    return picture(bottom + _AXIS, title, f"{listing}. Groups not told apart: {groups}.", *parts)


def _distance(critical: float, scale: Scale) -> list[Markup]:
    """Draw the critical difference as a measuring rod above the ranks; longer than the axis it is only written."""
    label = f"critical difference {critical:.2f}"
    if not 0 < critical < scale.high - scale.low:
        return [text(scale.start, 14.0, f"{label}: more than all ranks span", "note")]
    end = scale(scale.low + critical)
    rod = [line(scale.start, 26.0, end, 26.0, "rod"), *(line(x, 22.0, x, 30.0, "rod") for x in (scale.start, end))]
    return [text(scale.start, 14.0, label, "note"), *rod]
