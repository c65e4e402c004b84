"""A benchmark as Markdown: a table of accuracies, of differences and of everything else for each number of shots."""

from __future__ import annotations

from fewshot.report.benchmark import BenchmarkReport, BenchmarkRow
from fewshot.report.benchmark_findings import Findings
from fewshot.report.benchmark_words import (
    caption,
    differences_note,
    facts,
    headline,
    per_class,
    population,
    ranks_note,
    ranks_words,
    show_across,
    show_counts,
    show_mean,
    show_p,
    show_share,
    show_test,
    show_time,
)
from fewshot.report.markdown import escape, table
from fewshot.report.model import percent


def render(report: BenchmarkReport) -> str:
    """Give the benchmark as Markdown: headline, protocol, tables, notes, environment."""
    findings = Findings(report)
    parts = [f"# {escape(report.title)}", escape(" ".join(headline(findings)))]
    parts += [escape(report.protocol), f"{escape(facts(findings))}.", escape(population(findings))]
    for k_shot in findings.shots:
        parts += _at(findings, k_shot)
    if report.notes:
        parts += ["## What was understood and left out", "\n".join(f"- {escape(note)}" for note in report.notes)]
    parts += ["## Data sets", _datasets(report), "## Versions, settings and seed", _environment(report)]
    # Names of files may hold bytes that are no UTF-8; they are escaped rather than lost.
    return ("\n\n".join(part for part in parts if part) + "\n").encode("utf-8", "backslashreplace").decode("utf-8")


def _at(findings: Findings, k_shot: str) -> list[str]:
    parts = [f"## {escape(per_class(k_shot))}", escape(caption(findings, k_shot)), _accuracies(findings, k_shot)]
    if any(row.difference for row in findings.of(k_shot)):
        parts += [
            f"### Difference to {escape(findings.report.reference)}",
            escape(differences_note(findings)),
            _differences(findings, k_shot),
        ]
    if k_shot in findings.ranks:
        parts.append(escape(f"{ranks_words(findings)} {ranks_note(findings, k_shot)}"))
    parts += ["### Further figures", _further(findings, k_shot)]
    return parts


def _accuracies(findings: Findings, k_shot: str) -> str:
    sets = findings.sets(k_shot)
    header = ["strategy", "setting", *sets]
    if len(sets) > 1:
        header += ["mean", "mean on other data sets like these"]
    rows = []
    for info in findings.ran(k_shot):
        cells = [cell(findings, name, info.name, k_shot) for name in sets]
        if len(sets) > 1:
            cells.append(show_mean(findings.overall.get((info.name, k_shot))))
            cells.append(show_across(findings.report.across_datasets(info.name, k_shot)))
        rows.append([info.name, info.setting, *cells])
    return table(header, rows, numbers_from=2)


def cell(findings: Findings, dataset: str, strategy: str, k_shot: str, *, counted: bool = True) -> str:
    """Show an accuracy, with its number of episodes where others have another; a dash where it was not run."""
    row = findings.rows.get((dataset, strategy, k_shot))
    if row is None:
        return "–"
    usual = not counted or row.n_episodes == findings.usual_episodes(k_shot)
    return show_mean(row.accuracy, n=None if usual else row.n_episodes)


def _differences(findings: Findings, k_shot: str) -> str:
    report, sets = findings.report, findings.sets(k_shot)
    several = len(sets) > 1
    header = ["strategy"]
    for name in sets:
        header += [name, "p"]
    header += ["mean", "p", "win / tie / loss"] if several else []
    header += ["mean rank"] if k_shot in findings.ranks else []
    rows = []
    for info in findings.ran(k_shot):
        found = [findings.rows.get((name, info.name, k_shot)) for name in sets]
        cells = [shown for row in found for shown in _difference(row)]
        if several:
            test, p = findings.leads.get((info.name, k_shot), (None, None))
            apart = info.name != report.reference
            cells += [show_test(test), show_p(p)]
            cells.append(show_counts(report.win_tie_loss(info.name, report.reference, k_shot)) if apart else "–")
        if k_shot in findings.ranks:
            rank = findings.mean_rank(info.name, k_shot)
            cells.append("–" if rank is None else f"{rank:.2f}")
        rows.append([info.name, *cells])
    return table(header, rows)


def _difference(row: BenchmarkRow | None) -> list[str]:
    return ["–", "–"] if row is None else [show_test(row.difference), show_p(row.p_holm)]


def _further(findings: Findings, k_shot: str) -> str:
    header = ["strategy", "data set", "episodes", "balanced accuracy, %", "log-loss", "Brier", "ECE"]
    header += ["features of the data set, s", "training an episode, s", "prediction of an episode, s"]
    rows = [
        [row.strategy, row.dataset, str(row.n_episodes), *further(row)]
        for info in findings.ran(k_shot)
        for row in findings.of(k_shot, info.name)
    ]
    return table(header, rows, numbers_from=2)


def further(row: BenchmarkRow) -> list[str]:
    """Show what a row holds beside its accuracy and difference."""
    return [
        percent(row.balanced_accuracy),
        show_share(row.log_loss),
        show_share(row.brier),
        show_share(row.ece),
        show_time(row.extract_seconds),
        show_time(row.fit_seconds),
        show_time(row.predict_seconds),
    ]


def _datasets(report: BenchmarkReport) -> str:
    rows = [
        [one.name, one.source, str(one.n_images), str(one.n_classes), str(one.smallest_class), str(one.largest_class)]
        for one in report.datasets
    ]
    return table(["data set", "source", "images", "classes", "smallest class", "largest class"], rows, numbers_from=2)


def _environment(report: BenchmarkReport) -> str:
    pairs = [*report.environment.items(), ("seed", report.seed)]
    return "\n".join(f"- {escape(key)}: {escape(value)}" for key, value in pairs)
