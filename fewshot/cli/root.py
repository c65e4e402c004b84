"""All commands, by name."""

from __future__ import annotations

from typing import Annotated

import typer

from fewshot import __version__
from fewshot.cli import benchmarks, cache, check, lists, training

# Nothing here imports torch or timm: `fewshot --help` must answer at once. Commands import what they need.

app = typer.Typer(
    name="fewshot",
    help="From two images to a classifier that can be trusted, and honest comparisons of strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fewshot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From two images to a classifier that can be trusted, and honest comparisons of strategies."""


for _command in (
    training.demo,
    check.check,
    training.compare,
    benchmarks.bench,
    benchmarks.report,
    training.fit,
    training.predict,
    training.suggest,
    training.augment,
    lists.backbones,
    lists.heads,
    lists.augmentations,
    lists.strategies,
    lists.doctor,
):
    app.command()(_command)
app.add_typer(cache.app)
