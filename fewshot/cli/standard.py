"""Standard output and standard error: closed ones, full ones, and readers that went away."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from fewshot.errors import OutputError
from fewshot.interrupts import show_cursor

READER_GONE = 141
"""Exit code of a command whose output nobody reads any longer: that of other tools, which SIGPIPE ends."""


class _Stream:
    """A standard file whose failures say whose they are: a command's other files fail with the same errors.

    Args:
        stream: the file.
        what: its name; ``None`` where failures are passed over, since there is nowhere left to tell of them.
    """

    def __init__(self, stream: TextIO, what: str | None) -> None:
        self._stream, self._what = stream, what

    def write(self, text: str) -> int:
        with self._told():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._discard()
            raise SystemExit(READER_GONE) from None
        except OSError as error:
            self._discard()
            if self._what is not None:
                raise OutputError(f"{self._what} cannot be written: {error.strerror}.") from None

    def _discard(self) -> None:
        """Let the rest go nowhere: Python would try again at the exit, and complain."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """Let a command write to standard files of any condition.

    Raises:
        OutputError: in the block, where standard output cannot be written.
        SystemExit: in the block, where its reader has gone.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    # They are files in all that is used of them.
    sys.stdout = _Stream(sys.stdout, "Standard output")
    sys.stderr = _Stream(sys.stderr, None)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def say_last(text: str) -> None:
    """Print the last line that a person gets, whatever state the terminal is in."""
    show_cursor()
    from fewshot.console import say

    say(text)


def _open_missing() -> None:
    """Open standard files that are closed: a journal that gets the number of one would get what others write to it."""
    with contextlib.suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
