"""The report as Markdown, and the words and number formats that both renderings use."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from fewshot.report.model import Report, SummaryRow, percent
from fewshot.stats import Interval

MIN_FOR_RANGE = 20
"""Draws from which on a 5th and a 95th percentile mean something."""


def render(report: Report) -> str:
    """Give the report as Markdown: headline, tables, what the intervals mean, environment."""
    parts = [f"# {escape(report.title)}", escape(" ".join(headline(report)))]
    if report.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in report.notes))
    parts.append(_summary_table(report))
    if report.has_accuracy:
        parts.append(escape(population(report)))
    if report.draws:
        parts += ["## Other draws of the training images", escape(report.draws_note), _draws_table(report)]
    parts += ["## Versions, settings and seed", "\n".join(_environment(report))]
    # Names of files may hold bytes that are no UTF-8; they are escaped rather than lost.
    return ("\n\n".join(part for part in parts if part) + "\n").encode("utf-8", "backslashreplace").decode("utf-8")


def headline(report: Report) -> list[str]:
    """Say in plain sentences what was found: the best strategy and how sure that is."""
    if not report.has_accuracy:
        return _headline_without_accuracy(report)
    best = best_row(report)
    assert best.accuracy is not None  # noqa: S101 - has_accuracy says so
    what = "training images, each held out in turn," if report.protocol == "cross-validation" else "test images"
    found = (
        f"{best.strategy} labels {percent(best.accuracy.value)} % of {best.n_test} {what} correctly "
        f"(95 % interval {percent(best.accuracy.low)} to {percent(best.accuracy.high)})"
    )
    against = [f"{_compared(difference)} {base}" for base, difference in best.differences.items()]
    sentences = [f"{found}: {listed(against)}." if against else f"{found}."]
    near = [
        strategy.name
        for strategy in report.strategies
        if strategy.name != best.strategy and report.compare(best.strategy, strategy.name).low <= 0
    ]
    if near:
        sentences.append(f"These images do not separate it from {listed(near)}.")
    for name, count, mean, low, high, _ in report.draws_summary():
        if name == best.strategy and count >= MIN_FOR_RANGE:
            sentences.append(
                f"Over {count} draws of other training images {name} averages {percent(mean.value)} % "
                f"({percent(low, 0)} to {percent(high, 0)} % in nine of ten): much depends on which images one has."
            )
    return sentences


def best_row(report: Report) -> SummaryRow:
    """Give the line of the most accurate strategy; of equals the one with the lower log-loss."""
    return max(report.summary(), key=lambda row: (row.accuracy or (0.0,), -(row.log_loss or 0.0)))


def population(report: Report) -> str:
    """Say which images the intervals speak of."""
    if report.protocol == "cross-validation":
        sentence = (
            "The 95 % intervals speak of images drawn like these. Every image is predicted by models trained "
            "without it; the folds share training images, so the intervals are approximate."
        )
    else:
        sentence = (
            "The 95 % intervals speak of test images drawn like these, for exactly these training images. "
            "Other training images give other answers."
        )
    if len(report.strategies) > 2:
        sentence += " The best of several was picked on these very images, which flatters it a little."
    return sentence + (" How much other draws differ is shown under the draws." if report.draws else "")


def show_accuracy(interval: Interval | None) -> str:
    """Show an accuracy as ``63.6 [55.1, 71.3] %``."""
    return "" if interval is None else f"{percent(interval.value)}{_ends(interval)} %"


def show_difference(interval: Interval | None) -> str:
    """Show a difference of accuracies in points, as ``+23.1 [12.0, 34.0]``."""
    return "" if interval is None else f"{points(interval.value, sign=True)}{_ends(interval)}"


def show_seconds(seconds: float) -> str:
    """Show a time in seconds, with fewer digits the longer it is."""
    return f"{seconds:.{3 if seconds < 0.9995 else 1 if seconds < 9.95 else 0}f}"


def _ends(interval: Interval) -> str:
    # A single draw has a value and no interval.
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f" [{points(interval.low)}, {points(interval.high)}]"


def points(share: float, *, sign: bool = False) -> str:
    """Show a share in percent or a difference in points, with a real minus sign."""
    rounded = round(100 * share, 1) + 0.0
    return f"{rounded:+.1f}".replace("-", "−") if sign else f"{rounded:.1f}".replace("-", "−")


def _compared(difference: Interval) -> str:
    ends = f"({points(difference.low)} to {points(difference.high)})"
    size = points(abs(difference.value))
    if size == "0.0":
        return f"as many {ends} as"
    return f"{size} points {'more' if difference.value > 0 else 'less'} {ends} than"


def _headline_without_accuracy(report: Report) -> list[str]:
    sentences = ["Accuracy cannot be estimated from these images."]
    if report.test_images and report.results and len(report.strategies) > 1:
        total = len(report.test_images)
        sentences.append(
            f"All {len(report.strategies)} strategies give the same class to {total - len(report.disagreements())} "
            f"of {total} unlabelled images; that is agreement, not accuracy."
        )
    return sentences


def listed(items: Sequence[str]) -> str:
    """Write a list as ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def _summary_table(report: Report) -> str:
    if not report.has_accuracy:
        rows = [[row.strategy, row.setting, show_seconds(row.training_seconds)] for row in report.summary()]
        return table(["strategy", "setting", "training, s"], rows, numbers_from=2)
    header = ["strategy", "accuracy", "n", "balanced accuracy", "log-loss"]
    header += [f"points over {base}" for base in report.baselines] + ["setting", "training, s"]
    rows = []
    for row in report.summary():
        figures = [show_accuracy(row.accuracy), str(row.n_test)]
        figures.append("" if row.balanced_accuracy is None else f"{percent(row.balanced_accuracy)} %")
        figures.append("" if row.log_loss is None else f"{row.log_loss:.3f}")
        figures += [show_difference(row.differences.get(base)) or "–" for base in report.baselines]
        rows.append([row.strategy, *figures, row.setting, show_seconds(row.training_seconds)])
    return table(header, rows)


def _draws_table(report: Report) -> str:
    header = ["strategy", "draws", "mean accuracy", "5 to 95 % of draws"]
    header += [f"points over {base}" for base in report.baselines]
    rows = []
    for name, count, mean, low, high, differences in report.draws_summary():
        shown = [show_difference(differences.get(base)) or "–" for base in report.baselines]
        spread = f"{percent(low)} to {percent(high)} %" if count >= MIN_FOR_RANGE else "–"
        rows.append([name, str(count), show_accuracy(mean), spread, *shown])
    return table(header, rows)


def _environment(report: Report) -> list[str]:
    return [f"- {escape(key)}: {escape(value)}" for key, value in [*report.environment.items(), ("seed", report.seed)]]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> str:
    """Write a table; columns of numbers are aligned right, and cells are escaped."""
    rule = ["---" if i < numbers_from or name == "setting" else "---:" for i, name in enumerate(header)]
    lines = [[escape(cell) for cell in header], rule, *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape(content: object) -> str:
    """Keep names and notes from being read as markup, and on one line."""
    flat = " ".join(str(content).split())
    return re.sub(r"([\\`*_<>|#~]|&(?=[#\w])|\[(?=[^\]]*\](?:\(|\[|:)))", r"\\\1", flat)
