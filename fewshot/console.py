"""What the command line shows: tables, progress and errors, in colour on a terminal and plain elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fewshot.noise import kept_off_terminal

if TYPE_CHECKING:
    from fewshot.events import Event
    from fewshot.report.benchmark import BenchmarkReport
    from fewshot.report.benchmark_findings import Findings
    from fewshot.report.model import Report
    from fewshot.stats import Interval

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_NAMES, _SHOTS_WIDTH, _BALANCED_WIDTH = 30, 20, 9
"""Columns for a benchmark's names at most, for an accuracy and a difference beside each other, for a balanced one."""

_SECONDS_PER_LINE = 15.0
"""A log gets no more lines of progress than that."""


def escape(text: str) -> str:
    """Keep names from being read as markup; a lone surrogate in a file name has no UTF-8 and is escaped."""
    return escape_markup(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def say(text: str) -> None:
    """Print a line of text to people, on standard error, so that standard output stays data."""
    err.print(escape(text), soft_wrap=True)


def print_json(data: Any) -> None:
    """Print data as JSON on standard output."""
    # A lone surrogate in a file name has no UTF-8; ASCII escapes keep it.
    print(json.dumps(data, indent=1))


def print_names(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print a list of names with a sentence each."""
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, description in rows:
        table.add_row(escape(name), escape(description))
    out.print(table)


def print_report(report: Report) -> None:
    """Print a report's table, notes and draws."""
    from fewshot.report.markdown import headline, population

    out.print(f"\n[bold]{escape(report.title)}[/bold]")
    if report.has_accuracy:
        out.print(_accuracy_table(report))
        joint = ", ".join(info.name for info in report.strategies if info.setting == "transductive")
        how = (
            f"each on its own (inductive), but jointly by {escape(joint)} (transductive)"
            if joint
            else ("each on its own (inductive)")
        )
        out.print(
            f"{len(report.test_images)} images predicted, {how}. {escape(population(report))} "
            f"{'Differences are paired. ' if len(report.strategies) > 1 else ''}Seconds: from images to a trained "
            "classifier.",
            style="dim",
        )
    for info in report.summary():
        if info.note:
            out.print(f"{escape(info.strategy)}: {escape(info.note)}")
    if report.protocol == "unlabelled":
        out.print(_agreement_table(report))
    if report.draws:
        out.print(_draws_table(report))
        out.print(escape(report.draws_note), style="dim")
        out.print(f"\n{escape(' '.join(headline(report)))}")
    for note in report.notes:
        out.print(f"- {escape(note)}", soft_wrap=True)


def _accuracy_table(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("strategy", no_wrap=True)
    rows, baseline, alone = report.summary(), report.baselines[-1], len(report.strategies) == 1
    # Numbers may wrap: on a narrow terminal that is better than losing digits.
    # Where each class has as many images, the balanced accuracy is the accuracy.
    unequal = any(row.accuracy and abs(row.accuracy.value - (row.balanced_accuracy or 0)) > 5e-4 for row in rows)
    balanced = ["balanced %"] if unequal else []
    for name in ("accuracy %", *balanced, *([] if alone else [f"minus {baseline}"]), "log-loss", "fit s"):
        table.add_column(escape(name), justify="right", overflow="fold")
    best = max((row.accuracy.value for row in rows if row.accuracy), default=0.0)
    for row in rows:
        if row.accuracy is None or row.log_loss is None:
            continue
        table.add_row(
            escape(row.strategy),
            _interval(row.accuracy),
            *([f"{100 * (row.balanced_accuracy or 0):.1f}"] if unequal else []),
            *([] if alone else [_difference(row.differences, baseline)]),
            f"{row.log_loss:.2f}",
            f"{row.training_seconds:.1f}",
            style="bold" if row.accuracy.value == best else None,
        )
    return table


def _draws_table(report: Report) -> Table:
    from fewshot.report.markdown import MIN_FOR_RANGE

    table = Table(
        title="\nHow much depends on which photos were drawn", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    baseline = report.baselines[-1]
    table.add_column("strategy", no_wrap=True)
    for name in ("draws", "mean accuracy %", "5-95 %", f"minus {baseline}"):
        table.add_column(escape(name), justify="right", overflow="fold")
    for strategy, count, mean, low, high, differences in report.draws_summary():
        table.add_row(
            escape(strategy),
            str(count),
            _interval(mean),
            f"{100 * low:.0f}-{100 * high:.0f}" if count >= MIN_FOR_RANGE else "",
            _difference(differences, baseline),
        )
    return table


def _agreement_table(report: Report) -> Table:
    names = [strategy.name for strategy in report.strategies]
    table = Table(title=f"Agreement on {len(report.test_images)} unlabelled images, %", title_justify="left", box=None)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(escape(name), justify="right", overflow="fold")
    for a in names:
        table.add_row(escape(a), *(f"{100 * report.agreement(a, b):.0f}" for b in names))
    return table


def _difference(differences: Mapping[str, Interval], baseline: str) -> str:
    return _interval(differences[baseline], sign=True) if baseline in differences else ""


def _interval(interval: Interval, *, sign: bool = False) -> str:
    # A single draw has no interval.
    form = "+.1f" if sign else ".1f"
    value = format(100 * interval.value, form)
    if abs(interval.low) == float("inf"):
        return value
    return f"{value} \\[{format(100 * interval.low, form)}, {format(100 * interval.high, form)}]"


def print_benchmark(report: BenchmarkReport) -> None:
    """Print a benchmark's headline, a table for each data set and one for their mean, and the notes."""
    from fewshot.report.benchmark_findings import Findings
    from fewshot.report.benchmark_words import best_note, facts, headline, population

    findings = Findings(report)
    out.print(f"\n[bold]{escape(report.title)}[/bold]")
    for dataset in [*findings.datasets, *([None] if findings.several_sets else [])]:
        for shots in _columns(findings):
            out.print(_benchmark_table(findings, dataset, shots))
    compared = any(row.difference for row in findings.rows.values())
    said = ["Accuracy in % ± half of its 95 % interval, with k training images per class.", f"{facts(findings)}."]
    said += [best_note(findings), population(findings)]
    if compared:
        said.append(f"Minus: difference to {report.reference} in points, on the same episodes; * p < 0.05 (Holm).")
    out.print(f"\n{escape(' '.join(said))}", style="dim")
    out.print(f"\n{escape(' '.join(headline(findings)))}")
    for note in report.notes:
        out.print(f"- {escape(note)}", soft_wrap=True)


def _columns(findings: Findings) -> list[tuple[str, ...]]:
    """Split the numbers of shots so that each table fits the terminal."""
    longest = max((len(_labelled(findings, name, findings.shots)) for name in findings.infos), default=0)
    # The last column needs no gap after it.
    most = max(1, (out.width - longest) // (_SHOTS_WIDTH + _BALANCED_WIDTH * _is_unequal(findings)))
    return [findings.shots[i : i + most] for i in range(0, len(findings.shots), most)]


def _benchmark_table(findings: Findings, dataset: str | None, shots: Sequence[str]) -> Table:
    from fewshot.report.benchmark_words import mean_title, show_mean
    from fewshot.report.markdown import points

    title = dataset if dataset is not None else mean_title(findings, shots)
    table = Table(title=f"\n{escape(title)}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    compared = any(row.difference for row in findings.rows.values())
    balanced = dataset is not None and _is_unequal(findings)
    for k in shots:
        table.add_column(f"k = {escape(k)}", justify="right", overflow="fold")
        if balanced:
            table.add_column("balanced", justify="right", no_wrap=True)
        if compared:
            table.add_column("minus", justify="right", no_wrap=True)
    for name in findings.infos:
        cells, some = [], False
        for k in shots:
            row = findings.rows.get((dataset or "", name, k))
            accuracy = findings.overall.get((name, k)) if dataset is None else row.accuracy if row else None
            best = findings.best(k) if dataset is None else findings.best_on(dataset, k)
            some = some or accuracy is not None
            shown = show_mean(accuracy)
            cells.append(f"[bold]{shown}[/bold]" if name == best else shown)
            if balanced:
                cells.append(f"{100 * row.balanced_accuracy:.1f}" if row else "")
            if compared:
                test, p = (row.difference, row.p_holm) if row else findings.leads.get((name, k), (None, None))
                # A row of a single data set that was not run has no mean to be compared either.
                told = test is not None and (dataset is None or row is not None)
                star = "*" if p is not None and p < 0.05 else " "
                cells.append(f"{points(test.difference.value, sign=True)}{star}" if test and told else "")
        if some:
            table.add_row(escape(_labelled(findings, name, shots, dataset)), *cells)
    return table


def _is_unequal(findings: Findings) -> bool:
    """Whether some class has more queries than another: else the balanced accuracy is the accuracy."""
    return any(abs(row.accuracy.value - row.balanced_accuracy) > 5e-4 for row in findings.rows.values())


def _labelled(findings: Findings, strategy: str, shots: Sequence[str], dataset: str | None = None) -> str:
    """Give a strategy's name, cut to its room, with the number of its episodes where others have more."""
    from fewshot.report.svg.base import clip

    rows = [row for k in shots for row in findings.of(k, strategy) if dataset in (None, row.dataset)]
    counts = sorted({row.n_episodes for row in rows if not findings.full_on(row)})
    if not counts:
        return clip(strategy, _NAMES)
    aside = f" (n = {counts[0]})" if len(counts) == 1 else f" (n = {counts[0]}-{counts[-1]})"
    return f"{clip(strategy, _NAMES - len(aside))}{aside}"


class _Rate(ProgressColumn):
    """How many are done in a second, or how long each takes where that is longer."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed) if speed else "", style="progress.data.speed")


def _rate(speed: float) -> str:
    return f"{speed:.0f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


class Watcher:
    """Shows a comparison's events: bars on a terminal; elsewhere how far it is, and a line per finished strategy.

    Args:
        quiet: show nothing at all.
        epochs_of: strategies whose every epoch is printed.
    """

    def __init__(self, *, quiet: bool = False, epochs_of: Sequence[str] = ("simple-cnn",)) -> None:
        self.quiet = quiet
        self.epochs_of = epochs_of
        self._tasks: dict[str, TaskID] = {}
        # Strategies that say how far their training is: their curves come when it has ended.
        self._counted: set[str] = set()
        self._shown = ExitStack()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            # Blocks of episodes may be minutes apart, and a rate needs two of them.
            speed_estimate_period=120.0,
            disable=quiet or not err.is_terminal,
        )
        # Where no bars are shown, their tasks still reckon the time that is left.
        self._last_line = self._progress.get_time()

    def __enter__(self) -> Watcher:
        # Bars that are drawn elsewhere are in nobody's way.
        if not self._progress.disable and err.file is sys.stderr:
            real = self._shown.enter_context(kept_off_terminal())
            # None stands for the stream that it has anyway.
            err.file = real  # type: ignore[assignment]
            self._shown.callback(setattr, err, "file", None)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._progress.stop()
        finally:
            self._shown.close()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self.quiet:
            return
        if event.kind == "progress":
            self._counted.add(event.strategy)
            self._bar(event.subject, event.done, event.total or None)
        elif event.kind == "history" and event.row is not None:
            if event.subject in self.epochs_of and "epoch" in event.row:
                say(f"{event.subject}  epoch {event.row['epoch']}  loss {event.row['loss']:.4f}")
            elif "step" in event.row and event.subject not in self._counted:
                self._bar(f"{event.subject} {event.row['phase']}", int(event.row["step"]), None)
        elif event.kind == "note":
            say(event.subject)
        elif event.kind == "finished":
            for subject in [subject for subject in self._tasks if subject.startswith(event.subject)]:
                self._progress.remove_task(self._tasks.pop(subject))
            say(f"{event.subject}  done")

    def _bar(self, subject: str, done: int, total: int | None) -> None:
        if subject not in self._tasks:
            self._tasks[subject] = self._progress.add_task(escape(subject), total=total)
        self._progress.update(self._tasks[subject], completed=done, total=total)
        if self._progress.disable and self._progress.get_time() - self._last_line >= _SECONDS_PER_LINE:
            self._last_line = self._progress.get_time()
            say(self._line(subject, done, total))
        if total is not None and done >= total:
            self._progress.remove_task(self._tasks.pop(subject))

    def _line(self, subject: str, done: int, total: int | None) -> str:
        task = next(task for task in self._progress.tasks if task.id == self._tasks[subject])
        speed, left = task.speed, task.time_remaining
        parts = [f"{subject}  {done}" if total is None else f"{subject}  {done}/{total}"]
        parts += [_rate(speed)] if speed else []
        parts += [f"{timedelta(seconds=round(left))} left"] if total is not None and left is not None else []
        return ", ".join(parts)
