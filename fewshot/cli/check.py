"""The command that looks at data and trains nothing: check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fewshot.cli.options import Json, KeepNear

if TYPE_CHECKING:
    from fewshot.images.data_report import DataReport, SetReport
    from fewshot.images.findings import Severity

_MOST_CLASSES = 12
"""Classes that a table shows; of more, the smallest and the largest say enough."""

_USES = {
    "fit": "training a classifier",
    "test-set": "accuracy on a test set",
    "cross-validation": "accuracy by cross-validation",
    "episodes": "episodes of a benchmark",
}
_HEADINGS: tuple[tuple[Severity, str, str], ...] = (
    ("error", "Problems", "red"),
    ("warning", "Warnings", "yellow"),
    ("info", "Understood", "dim"),
)


def check(
    directory: Annotated[
        str, typer.Argument(help="Folder, archive or CSV; fruits, leaves:FOLDER or torchvision:NAME.")
    ],
    test: Annotated[str | None, typer.Option(help="The same, with test images.")] = None,
    keep_near_duplicates: KeepNear = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings, too.")] = False,
    json: Json = False,
) -> None:
    """Look at images as training would, and report everything that is wrong with them at once.

    Exit codes: 0 fine, or warnings only; 1 training would stop, or with --strict any warning.
    """
    from fewshot.console import Watcher, print_json
    from fewshot.events import Event
    from fewshot.images.check import check as run

    with Watcher(quiet=json) as watcher:
        report = run(
            directory,
            test,
            keep_near_duplicates=keep_near_duplicates,
            progress=lambda done, total: watcher(Event("progress", "images looked at", done, total)),
        )
    if json:
        print_json(report.to_dict())
    else:
        print_data(report)
    raise typer.Exit(report.exit_code(strict=strict))


def print_data(report: DataReport) -> None:
    """Print what was understood, what was found and what the images can be used for."""
    from fewshot.console import escape, out
    from fewshot.images.findings import summarised

    for name, part in (("train", report.train), ("test", report.test)):
        if part is not None:
            out.print(f"[bold]{name}[/bold]  {escape(_in_words(part))}", soft_wrap=True)
    _print_classes(report)
    for severity, heading, style in _HEADINGS:
        found = [one for one in summarised(report.findings) if one.severity == severity]
        if found:
            out.print(f"\n[bold {style}]{heading}[/bold {style}]")
        for one in found:
            said = one.message.replace(f" [{one.code}]", "")
            # Notes elsewhere begin with the code's word, which stands before the sentence here.
            begins = said.lower().startswith(f"{one.code.lower()}: ")
            said = said[len(one.code) + 2 :].lstrip() if begins else said
            out.print(f"  [{style}]{one.code}[/{style}]  {escape(said)}", soft_wrap=True)
    if report.uses:
        out.print("\n[bold]Can be used for[/bold]")
        width = max(map(len, _USES.values()))
        for use in report.uses:
            mark = "[green]yes[/green]" if use.possible else "[red]no [/red]"
            out.print(f"  {mark}  {_USES[use.name].ljust(width)}  [dim]{escape(use.reason)}[/dim]", soft_wrap=True)
    out.print(f"\n{_conclusion(report)}")


def _in_words(part: SetReport) -> str:
    lost = part.n_given - part.n_used
    left_out = f", {lost} of {part.n_given} left out" if lost else ""
    classes = f"{len(part.classes)} class{'' if len(part.classes) == 1 else 'es'}"
    counts = sorted(part.classes.values())
    if len(counts) > _MOST_CLASSES:
        classes += f" with {f'{counts[0]} to ' if counts[0] < counts[-1] else ''}{counts[-1]} images each"
    return f"{part.n_used} image{'' if part.n_used == 1 else 's'} of {classes}{left_out}: {part.source}"


def _print_classes(report: DataReport) -> None:
    from rich.table import Table

    from fewshot.console import escape, out

    if report.train is None:
        return
    parts = [part for part in (report.train, report.test) if part is not None]
    names = sorted({name for part in parts for name in part.classes})
    if len(names) > _MOST_CLASSES:
        return
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("class", overflow="fold")
    for title in ("train", "test")[: len(parts)]:
        table.add_column(title, justify="right")
    for name in names:
        table.add_row(escape(name), *(str(part.classes.get(name, 0)) for part in parts))
    if names:
        out.print(table)


def _conclusion(report: DataReport) -> str:
    counts = {severity: sum(f.severity == severity for f in report.findings) for severity, _, _ in _HEADINGS}
    if counts["error"]:
        some = f"{counts['error']} problem{'s' if counts['error'] > 1 else ''}"
        return f"[bold red]{some}[/bold red] to mend before anything can be trained on this. --json lists every image."
    if counts["warning"]:
        some = f"{counts['warning']} warning{'s' if counts['warning'] > 1 else ''}"
        return f"[bold yellow]{some}[/bold yellow], nothing that stops training. --json lists every image."
    return "[bold green]Good[/bold green]: nothing is wrong with these images that a look at them can tell."
