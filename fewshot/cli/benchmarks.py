"""Commands that evaluate strategies on hundreds of episodes: bench, report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fewshot import interrupts
from fewshot.cli import command_line, program
from fewshot.cli.early import check_engine, check_strategies
from fewshot.cli.options import Json, KeepNear, NoCache, Representation, Strict
from fewshot.cli.outputs import results_first


def bench(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(help="Folders with one folder per class, CSVs, fruits, leaves:FOLDER or torchvision:NAME."),
    ] = None,
    suite: Annotated[Path | None, typer.Option(help="TOML file that says all of this; options override it.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that a suite's {data} stands for.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="One more data set; can be given several times.")] = None,
    ways: Annotated[str | None, typer.Option(help="Classes per episode: 5, 2-10 or all. By default 5.")] = None,
    shots: Annotated[
        str | None, typer.Option(help="Training images per class: 1,5,10; or 1-10. By default 1,5.")
    ] = None,
    queries: Annotated[str | None, typer.Option(help="Queries per class: 15, or all others. By default 15.")] = None,
    imbalance: Annotated[
        float | None, typer.Option(help="Draw the classes' shares of the queries from Dirichlet(this).")
    ] = None,
    fixed_split: Annotated[
        bool | None, typer.Option("--fixed-split", help="Learn from the train split, ask about the test split.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes per data set and shots. By default 600.")] = None,
    trained_episodes: Annotated[
        int | None, typer.Option(help="At most so many for strategies that train networks. By default 30.")
    ] = None,
    strategies: Annotated[
        str | None, typer.Option(help="Strategies and heads, separated by commas; 'default' is five heads, or 'all'.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="One or several, separated by commas; + joins.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="Policy in the place of heavy.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented views per support image. By default 16.")] = None,
    representation: Representation = None,
    reference: Annotated[str | None, typer.Option(help="Strategy that differences are taken to.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. By default fewshot-bench, or the suite's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = None,
    engine: Annotated[str, typer.Option(help="local, joblib or ray.")] = "local",
    jobs: Annotated[int | None, typer.Option(help="Threads, processes or actors. By default one per core.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; by default one on this machine.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    strict: Strict = False,
    keep_near_duplicates: KeepNear = False,
    no_cache: NoCache = False,
    json: Json = False,
) -> None:
    """Evaluate strategies on hundreds of episodes drawn from data sets."""
    check_engine(engine)
    check_strategies(strategies)
    from fewshot.suites import run_suite, suite_from_options

    options = {
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "imbalance": imbalance,
        "fixed_split": fixed_split,
        "episodes": episodes,
        "trained_episodes": trained_episodes,
        "strategies": strategies,
        "backbones": backbone,
        "augmentation": augmentation,
        "views": views,
        "representation": representation,
        "reference": reference,
        "out": None if out is None else str(out),
        "seed": seed,
    }
    chosen = suite_from_options(suite, data, [*(datasets or []), *(dataset or [])], options)
    interrupts.explain(lambda: _how_to_go_on(Path(chosen.out), resume, features=not no_cache))
    from fewshot.console import Watcher, print_benchmark, print_json, say
    from fewshot.results import write_reports

    with Watcher(quiet=json) as watcher:
        report = run_suite(
            chosen,
            engine=engine,
            n_jobs=jobs,
            address=address,
            resume=resume,
            strict=strict,
            keep_near_duplicates=keep_near_duplicates,
            cache=not no_cache,
            on_event=watcher,
        )
    again = shlex.join([*program(), "report", chosen.out])
    with results_first(f"All cells are kept in {chosen.out}: write the report with\n  {again}") as written:
        written(write_reports, report, chosen.out)
        if json:
            print_json(report.to_dict())
        else:
            print_benchmark(report)
    if not json:
        say(f"Report: {Path(chosen.out) / 'report.html'}, report.json and report.md beside it")


def _how_to_go_on(out: Path, resumed: bool, *, features: bool) -> str:
    begun = (out / "journal.jsonl").exists()
    if begun or resumed:
        return (
            f"Finished cells are kept in {out}: see them with `{shlex.join([*program(), 'report', str(out)])}`, go on "
            f"with\n  {command_line('--resume')}"
        )
    kept = "Features that were extracted are kept; begin" if features else "Nothing is finished; begin"
    return f"{kept} again with\n  {command_line()}"


def report(
    run: Annotated[Path, typer.Argument(help="Folder that `fewshot bench` wrote.")],
    reference: Annotated[str | None, typer.Option(help="Strategy that differences are taken to.")] = None,
    json: Json = False,
) -> None:
    """Build a benchmark's report again from its journal, as far as the run has come."""
    from fewshot.console import print_benchmark, print_json, say
    from fewshot.results import load_run, write_reports

    found = load_run(run)
    if reference is not None:
        found = found.with_reference(reference)
    with results_first() as written:
        written(write_reports, found, run)
        if json:
            print_json(found.to_dict())
        else:
            print_benchmark(found)
    if not json:
        say(f"Report: {run / 'report.html'}, report.json and report.md beside it")
