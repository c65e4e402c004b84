"""The command line: parses, calls the Python interface, prints.

Exit codes: 0 done, 1 it could not be done, 2 the command was used wrongly.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fewshot import __version__
from fewshot.cli import benchmarks, lists, training
from fewshot.errors import FewshotError, InvalidInputError, UnknownNameError

# Nothing here imports torch or timm: `fewshot --help` must answer at once. Commands import what they need.

app = typer.Typer(
    name="fewshot",
    help="From two images to a classifier that can be trusted, and honest comparisons of strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and exit with its code."""
    # Spinning threads collapse when a core is busy; this must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except FewshotError as error:
        from fewshot.console import say

        say(f"Error: {error}")
        raise SystemExit(2 if isinstance(error, (UnknownNameError, InvalidInputError)) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


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
    training.compare,
    benchmarks.bench,
    benchmarks.report,
    training.fit,
    training.predict,
    training.augment,
    lists.backbones,
    lists.heads,
    lists.augmentations,
    lists.strategies,
    lists.doctor,
):
    app.command()(_command)
