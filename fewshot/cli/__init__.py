"""The command line: parses, calls the Python interface, prints.

Exit codes: 0 done, 1 it could not be done, 2 the command was used wrongly, 128 and a signal's number where one ended
it: 130 after Ctrl-C, 143 after SIGTERM, 141 where nobody reads the output any longer.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import sys
import warnings
from typing import Any, NoReturn

from fewshot import interrupts

# Nothing here takes noticeable time to import: signals are in order before anything else begins.


def main() -> None:
    """Run the command line and exit with its code."""
    # Spinning threads collapse when a core is busy; this must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    plain = warnings.formatwarning
    warnings.formatwarning = _in_words
    try:
        with interrupts.orderly():
            code = _run_to_the_end()
    finally:
        warnings.formatwarning = plain
    raise SystemExit(code)


def _in_words(message: Warning | str, *_: Any, **__: Any) -> str:
    """Show a warning; what libraries say of work that was cut off is of no use to who asked for that."""
    return "" if interrupts.received() else f"Warning: {message}\n"


def program() -> list[str]:
    """Give what starts the program as it was started this time."""
    started = sys.argv[0]
    if os.path.splitext(os.path.basename(started))[0] != "fewshot":
        return [sys.executable, "-m", "fewshot"]
    # A script of an environment that is not active is found by its path only.
    found = shutil.which("fewshot")
    same = found is not None and os.path.exists(started) and os.path.samefile(found, started)
    return ["fewshot" if same or os.path.basename(started) == started else started]


def command_line(*more: str) -> str:
    """Give the command that is running, to be run again, with further options."""
    fresh = [option for option in more if option not in sys.argv[2:]]
    return shlex.join([*program(), *sys.argv[1:2], *fresh, *sys.argv[2:]])


def _run_to_the_end() -> int:
    """Run the command and say the last word; give the exit code."""
    from fewshot.cli import standard

    with standard.streams():
        code = _run()
        try:
            number = interrupts.received()
            if number:
                standard.say_last(interrupts.farewell(number))
            sys.stdout.flush()
            if number:
                _leave(128 + number)
        except SystemExit:
            # Which went first, the work or the reader, makes no difference to the work.
            code = code or standard.READER_GONE
    return code


def _leave(code: int) -> NoReturn:
    """End after a signal: libraries tidy up, but nobody waits for seconds while Python gives memory back bit by bit."""
    interrupts.end_workers()
    atexit._run_exitfuncs()
    os._exit(code)


def _run() -> int:
    """Run the command and give its exit code; an error that follows from a signal is not worth telling."""
    from fewshot.errors import FewshotError, InvalidInputError, UnknownNameError

    try:
        _call()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except FewshotError as error:
        from fewshot.console import say

        if not interrupts.received():
            say(f"Error: {error}")
        return 2 if isinstance(error, (UnknownNameError, InvalidInputError)) else 1
    except BaseException:
        if not interrupts.received():
            raise
        return 1
    return 0


def _call() -> None:
    from fewshot.cli.root import app

    try:
        app()
    except SystemExit:
        # Output that cannot be written is an error of the command, not of the exit.
        sys.stdout.flush()
        raise


def __getattr__(name: str) -> Any:
    if name == "app":
        from fewshot.cli.root import app

        return app
    raise AttributeError(f"module 'fewshot.cli' has no attribute {name!r}")
