"""Orderly ways out: Ctrl-C, SIGTERM and a terminal that closes.

The first signal raises :class:`Stopped`, a ``KeyboardInterrupt``, in the main thread. What is finished has been kept by
then: journals, stored features and model folders outlive even SIGKILL. Waiting therefore saves nothing but tidiness: a
second signal ends the process at once, and so does a step that takes too long to end.

A thread watches besides, because Python runs signal handlers between two of its own instructions only: not while the
main thread is inside a matrix product or a download.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# Commands start with this module, so it imports nothing heavy.

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_SAY_AFTER, _LEAVE_AFTER = 2.0, 8.0
"""Seconds after which it is said what is waited for, and after which nothing is waited for any longer."""
_ECHO = 0.2
"""Seconds in which a second signal is the first one again: some wrappers pass on what the terminal has sent already."""

_SHOW_CURSOR = b"\x1b[?25h"

_received = 0
_raised = False
_explain: Callable[[], str] = str


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Turn the first signal into :class:`Stopped`, and let the second end the process, while the block runs.

    Signals that are ignored, as under ``nohup``, stay ignored.
    """
    global _received, _raised, _explain  # signals belong to the process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _raised, _explain = 0, False, str
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours,), name="fewshot-signals", daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, _stop)
        yield
    finally:
        for number, handler in before.items():
            # A handler that was not set from Python cannot be put back from it.
            if handler is not None:
                signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        theirs.close()
        watcher.join()
        ours.close()
        _received, _raised, _explain = 0, False, str


def explain(how: Callable[[], str]) -> None:
    """Set what is to be said after a stop: what is kept, and how to go on. Called in any thread."""
    global _explain  # signals belong to the process
    _explain = how


def received() -> int:
    """Number of the signal that asked the process to end; 0 where none did."""
    return _received


def check() -> None:
    """Stop here, in any thread, if the process was asked to end: long loops call this once a step.

    Raises:
        Stopped: it was.
    """
    if _received:
        raise Stopped(_received)


def farewell(number: int) -> str:
    """Say that a signal ended the work, what is kept, and how to go on."""
    said = "Interrupted." if number == signal.SIGINT else f"Stopped by {signal.Signals(number).name}."
    try:
        return f"{said} {_explain()}".rstrip()
    # Whatever is wrong with the explanation, the exit is to be orderly.
    except Exception:
        return said


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Put back the signal handlers that a library sets for itself in the block, as Ray does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    global _received, _raised  # signals belong to the process
    _received = _received or number
    # The watching thread sees to the others: raising again would tear the clean-up of the first.
    if not _raised:
        _raised = True
        raise Stopped(number)


def _watch(wakeups: socket.socket) -> None:
    """Read the numbers of signals as they arrive, and keep the time from the first one on."""
    global _received  # signals belong to the process
    first, said = 0.0, False
    while True:
        wakeups.settimeout(0.1 if first else None)
        try:
            numbers = wakeups.recv(64)
        except TimeoutError:
            numbers = b""
        else:
            if not numbers:
                return
        stops = [number for number in numbers if number in SIGNALS and _is_ours(number)]
        waited = time.monotonic() - first if first else 0.0
        if stops and not first:
            first = time.monotonic()
            _received = _received or stops[0]
        elif (stops and waited > _ECHO) or waited > _LEAVE_AFTER:
            leave(_received)
        elif waited > _SAY_AFTER and not said:
            said = True
            _write("Waiting for the step under way to end; Ctrl-C again ends at once.\n")


def _is_ours(number: int) -> bool:
    # An ignored signal never gets here; one that a library took over is still a request to end.
    return signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL)


def leave(number: int) -> None:
    """End the process now, without any clean-up but the terminal's, and its workers with it."""
    show_cursor()
    _write(f"\n{farewell(number)}\n")
    end_workers()
    os._exit(128 + number)


def end_workers() -> None:
    """Kill joblib's worker processes: they would go on with what nobody waits for, or sit idle for minutes."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    # Whatever another version of joblib calls them, the exit is to be orderly. No lock is taken on the way: the thread
    # that has it may never give it back.
    with contextlib.suppress(Exception):
        for number in list(loky._executor._processes):  # type: ignore[union-attr]
            os.kill(number, getattr(signal, "SIGKILL", signal.SIGTERM))


def show_cursor() -> None:
    """Undo what a progress bar may have left of a terminal."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            os.write(sys.__stderr__.fileno(), _SHOW_CURSOR)


def _write(text: str) -> None:
    """Write to standard error past all buffers: another thread may hold their locks for ever."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))
