"""A benchmark as one HTML page that needs nothing but itself: no network, no script, no font."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fewshot.report import svg
from fewshot.report.benchmark import BenchmarkReport, BenchmarkRow, EpisodeExample
from fewshot.report.benchmark_findings import Findings
from fewshot.report.benchmark_markdown import cell, further
from fewshot.report.benchmark_words import (
    COST,
    best_note,
    caption,
    count,
    facts,
    headline,
    mean_title,
    per_class,
    population,
    ranks_note,
    ranks_words,
    show_across,
    show_counts,
    show_mean,
    show_p,
    show_test,
)
from fewshot.report.html import page_environment, safe_json
from fewshot.report.model import ImageInfo, StrategyInfo
from fewshot.report.svg.cost import cost_accuracy
from fewshot.report.svg.forest import accuracy_rows, difference_rows
from fewshot.report.svg.heat import heat_map, heat_width
from fewshot.report.svg.ranks import rank_diagram
from fewshot.report.svg.reliability import reliability
from fewshot.report.svg.shots import accuracy_over_shots, drawn_in_full

MOST_EMBEDDED = 2_000_000
"""Characters of JSON that a page carries; of a longer report it carries all but the values of single episodes."""
MOST_SCALED = 400.0
"""Width up to which a heat map is scaled to its column; a wider one is scrolled."""
MOST_LINES = 60
"""Lines up to which the tables of all numbers of shots stand open."""
PER_EPISODE = ("episodes", "accuracy", "balanced_accuracy", "log_loss", "brier", "seconds")


@dataclass(frozen=True)
class Grid:
    """A table of strategies: headings, and for each strategy its cells, the best of a column marked."""

    columns: tuple[str, ...]
    lines: tuple[tuple[StrategyInfo, tuple[tuple[str, bool], ...]], ...]


def render(report: BenchmarkReport) -> str:
    """Give the benchmark as one self-contained HTML page."""
    findings = Findings(report)
    data, whole = embedded_json(report)
    page = page_environment().get_template("benchmark.html.jinja")
    text = page.render(
        report=report,
        findings=findings,
        headline=headline(findings),
        facts=facts(findings),
        population=population(findings),
        families=_families(report),
        grids=[(k, results(findings, k)) for k in findings.shots],
        many_lines=len(findings.shots) > 1 and len(findings.shots) * len(findings.infos) > MOST_LINES,
        over_shots=_over_shots(findings),
        some_thin=len(drawn_in_full(findings)) < len(report.strategies),
        heat=_by_shots(findings, lambda k: heat_map(findings, k) if findings.several_sets else None),
        wide_heat=any(heat_width(findings, k) > MOST_SCALED for k in findings.shots),
        differences=_per_set(findings, difference_rows),
        ranks=_by_shots(findings, lambda k: rank_diagram(findings, k) if k in findings.ranks else None),
        costs=_by_shots(findings, lambda k: cost_accuracy(findings, k)),
        reliability=[(k, drawn) for k in findings.shots if (drawn := _reliability(findings, k))],
        examples=_examples(report),
        everything=[(name, _everything(findings, name)) for name in findings.datasets],
        best_note=best_note(findings),
        caption=caption,
        ranks_note=ranks_note,
        ranks_words=ranks_words,
        per_class=per_class,
        number=count,
        classes=_classes,
        cost_words=COST,
        few=any(map(findings.thin, findings.shots)),
        svg=svg,
        data=data,
        whole=whole,
    )
    # Names of files may hold bytes that are no UTF-8; they are escaped rather than lost.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def embedded_json(report: BenchmarkReport) -> tuple[str, bool]:
    """Give the report as JSON for a script element, and whether it is whole or too long for the values of episodes."""
    data = report.to_dict()
    text = safe_json(data)
    if len(text) <= MOST_EMBEDDED:
        return text, True
    # Of another kind, so that nobody takes it for a report that can be read back.
    return safe_json(data | {"kind": "benchmark without episodes", "series": _without_episodes(data)}), False


def _without_episodes(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in PER_EPISODE} for row in data["series"]]


def results(findings: Findings, k_shot: str) -> Grid:
    """Make the table of a number of shots: accuracies, means, differences to the reference, ranks."""
    report, sets, reference = findings.report, findings.sets(k_shot), findings.report.reference
    several = len(sets) > 1
    compared = any(row.difference for row in findings.of(k_shot))
    uneven = len({row.n_episodes for row in findings.of(k_shot)}) > 1
    # What is asked first stands first: a telephone shows no more than three columns.
    columns = ["mean"] if several else [sets[0]]
    columns += [f"points over {reference}", "p (Holm)"] if compared else []
    columns += ["win / tie / loss"] if compared and several else []
    columns += ["mean rank"] if k_shot in findings.ranks else []
    columns += ["episodes"] if uneven else []
    columns += [*sets, "other data sets like these"] if several else []
    tops = {name: findings.best_on(name, k_shot) for name in sets}
    lines = []
    for info in findings.ran(k_shot):
        counts = sorted({row.n_episodes for row in findings.of(k_shot, info.name)})
        each = [
            (cell(findings, name, info.name, k_shot, counted=len(counts) > 1), tops[name] == info.name) for name in sets
        ]
        mean = (show_mean(findings.overall.get((info.name, k_shot))), findings.best(k_shot) == info.name)
        cells = [mean] if several else each
        test, p = findings.leads.get((info.name, k_shot), (None, None))
        cells += [(show_test(test), False), (show_p(p), False)] if compared else []
        if compared and several:
            won = report.win_tie_loss(info.name, reference, k_shot)
            cells.append((show_counts(won) if info.name != reference and any(won) else "–", False))
        if k_shot in findings.ranks:
            rank = findings.mean_rank(info.name, k_shot)
            cells.append(("–" if rank is None else f"{rank:.2f}", False))
        cells += [(f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}", False)] if uneven else []
        if several:
            cells += [*each, (show_across(report.across_datasets(info.name, k_shot)), False)]
        lines.append((info, tuple(cells)))
    return Grid(tuple(columns), tuple(lines))


def _everything(findings: Findings, dataset: str) -> list[tuple[str, list[tuple[BenchmarkRow, tuple[str, ...]]]]]:
    """Give every figure of a data set, by number of shots."""
    return [
        (
            k,
            [
                (row, (show_mean(row.accuracy), show_test(row.difference), show_p(row.p_holm), *further(row)))
                for row in findings.of(k)
                if row.dataset == dataset
            ],
        )
        for k in findings.shots
    ]


def _over_shots(findings: Findings) -> list[tuple[str, Markup]]:
    """Draw accuracies over numbers of shots; of a single number there is no line, but a row per strategy."""
    if not findings.shots:
        return []
    names = [None, *findings.datasets] if findings.several_sets else list(findings.datasets)
    if len(findings.shots) > 1:
        return [(_set_title(findings, name), accuracy_over_shots(findings, name)) for name in names]
    drawn = [(_set_title(findings, name), accuracy_rows(findings, findings.shots[0], name)) for name in names]
    return [(title, picture) for title, picture in drawn if picture is not None]


def _set_title(findings: Findings, dataset: str | None) -> str:
    return dataset if dataset is not None else mean_title(findings, findings.shots)


def _by_shots(findings: Findings, draw: Callable[[str], Markup | None]) -> list[tuple[str, Markup]]:
    drawn = [(k, draw(k)) for k in findings.shots]
    return [(k, picture) for k, picture in drawn if picture is not None]


def _per_set(
    findings: Findings, draw: Callable[[Findings, str, str | None], Markup | None]
) -> list[tuple[str, Markup | None, list[tuple[str, Markup]]]]:
    """Draw by number of shots: over all data sets, and on each of them."""
    found = []
    for k in findings.shots:
        each = [(name, picture) for name in findings.datasets if (picture := draw(findings, k, name)) is not None]
        mean = draw(findings, k, None) if findings.several_sets else None
        if mean is not None or each:
            found.append((k, mean, each))
    return found


def _reliability(findings: Findings, k_shot: str) -> list[tuple[str, Markup]]:
    drawn = [(info.name, reliability(findings, info.name, k_shot)) for info in findings.ran(k_shot)]
    return [(name, picture) for name, picture in drawn if picture is not None]


def _families(report: BenchmarkReport) -> list[tuple[str, str]]:
    """The families that occur, in the order of the legend, with their meaning."""
    present = {svg.family(info) for info in report.strategies}
    return [(name, meaning) for name, meaning in svg.FAMILIES.items() if name in present]


def _examples(report: BenchmarkReport) -> list[tuple[str, list[EpisodeExample]]]:
    """Group episodes by what makes them worth looking at."""
    titles = {"worst": "Lowest accuracy", "slowest": "Longest time"}
    kinds = dict.fromkeys([*titles, *(one.kind for one in report.examples)])
    grouped = [(titles.get(kind, kind), [one for one in report.examples if one.kind == kind]) for kind in kinds]
    return [(title, found) for title, found in grouped if found]


def _classes(example: EpisodeExample) -> list[tuple[str, list[tuple[ImageInfo, bytes | None]]]]:
    """Give the training images of an episode by class, with their pictures."""
    by_class: dict[str, list[tuple[ImageInfo, bytes | None]]] = {}
    for i, image in enumerate(example.support):
        by_class.setdefault(image.label or "", []).append((image, example.support_pictures.get(i)))
    return list(by_class.items())
