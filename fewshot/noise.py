"""What C libraries print, kept out of progress bars and shown once, afterwards.

Libraries such as libtiff write to file descriptor 2 as they please, past Python and everything that draws on the
terminal. While bars are shown, that descriptor leads into a temporary file, and the bars are drawn on a copy of the
real one. Python's own warnings and tracebacks are not concerned: they go through ``sys.stderr``, which whoever draws
bars looks after. A pipe would be read while it fills, but a library that holds the interpreter's lock would then wait
for a reader that waits for the lock.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, TextIO

_STDERR = 2
_READ = 1 << 20
_LINES, _TRACEBACK_LINES, _WIDTH = 5, 60, 200


@dataclass
class _State:
    """The one diversion of this process; as many as want it share it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    real: TextIO | None = None
    kept: BinaryIO | None = None


_state = _State()


@contextlib.contextmanager
def kept_off_terminal() -> Iterator[TextIO | None]:
    """Keep what is written to file descriptor 2 until the block ends, and then show it, shortened.

    May be nested and used by several threads: the last one to leave puts the descriptor back. Processes that are
    started meanwhile write into the temporary file for as long as they live.

    Yields:
        A stream to the real standard error; ``None`` where it is closed or replaced, and nothing was changed.
    """
    with _state.lock:
        if _state.users == 0:
            _divert()
        _state.users += 1
        real = _state.real
    try:
        yield real
    finally:
        with _state.lock:
            _state.users -= 1
            noise = _restore() if _state.users == 0 else b""
        if noise:
            with contextlib.suppress(OSError, ValueError):
                os.write(_STDERR, summary(noise).encode("utf-8", "backslashreplace"))


def summary(noise: bytes) -> str:
    """Say what was printed: lines that differ in numbers alone once, with their count, and only the first few.

    A traceback, which a worker process may have written, is shown as it is. Control characters are escaped: what a
    library prints may come from the file that it complains of.
    """
    lines = [_printable(line) for line in noise.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return ""
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return "\n".join(lines[-_TRACEBACK_LINES:]) + "\n"
    counts: dict[str, int] = {}
    shown: dict[str, str] = {}
    for line in lines:
        kind = re.sub(r"\d+", "0", line)
        shown.setdefault(kind, line[:_WIDTH])
        counts[kind] = counts.get(kind, 0) + 1
    said = ["Libraries said meanwhile:"]
    said += [f"  {shown[kind]}" + (f" (and {n - 1} alike)" if n > 1 else "") for kind, n in counts.items()][:_LINES]
    if len(counts) > _LINES:
        said.append(f"  and {len(counts) - _LINES} other messages")
    return "\n".join(said) + "\n"


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


def _divert() -> None:
    """Lead the descriptor into a file, if it is there and Python's own stream still stands for it."""
    try:
        if sys.stderr.fileno() != _STDERR:
            return
        sys.stderr.flush()
        copy = os.dup(_STDERR)
    except (AttributeError, OSError, ValueError):
        return
    try:
        kept = tempfile.TemporaryFile()  # noqa: SIM115
        os.dup2(kept.fileno(), _STDERR)
    except OSError:
        os.close(copy)
        return
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    _state.real = os.fdopen(copy, "w", encoding=encoding, errors="backslashreplace", buffering=1)
    _state.kept = kept
    # A crash must be seen at once: nobody is left to show the file.
    if faulthandler.is_enabled():
        faulthandler.enable(_state.real)


def _restore() -> bytes:
    """Put the descriptor back; give what was written to it."""
    real, kept = _state.real, _state.kept
    _state.real = _state.kept = None
    if real is None or kept is None:
        return b""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    with contextlib.suppress(OSError, ValueError):
        real.flush()
    os.dup2(real.fileno(), _STDERR)
    if faulthandler.is_enabled():
        faulthandler.enable(_STDERR)
    # The place in the file is shared with processes that write to it, so that it must not be moved.
    noise = os.pread(kept.fileno(), _READ, 0)
    kept.close()
    with contextlib.suppress(OSError, ValueError):
        real.close()
    return noise
