"""Writing what a command has computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from fewshot.errors import OutputError


@contextlib.contextmanager
def results_first(otherwise: str = "The results above are complete.") -> Iterator[Callable[..., None]]:
    """Let a command print its results before a file that could not be written ends it.

    Args:
        otherwise: what is kept, and how the file can still be written.

    Yields:
        A function that calls a writing function with arguments.

    Raises:
        OutputError: at the end, where something could not be written.
    """
    failures: list[OutputError] = []

    def written(write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except OutputError as error:
            failures.append(error)

    yield written
    if failures:
        raise OutputError(f"{failures[0]} {otherwise}") from failures[0]
