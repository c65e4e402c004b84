"""Runs the reader over a folder of hostile files, each with limits of memory and time.

::

    python -m tests.sweep DIR [DIR ...]

Every file below the folders is read, whatever its name, in processes that may take only so much memory and time for
each. A crash, a hang or a wrong result is pinned to its file, and the sweep goes on with the next. It ends with a count
of what was decoded, refused with a reason, and anything else; with 0 only where there is nothing else. Linux only.
"""

import argparse
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_EXPECTED = ("decoded", "refused")
_START_SECONDS = 60
_PATIENCE = 6
"""So many times a file's limit may pass while its process does not compute."""
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        path: of the file.
        kind: ``decoded`` or ``refused``; anything else is a fault.
        detail: format and mode, the reason code, or what went wrong.
        seconds: it took.
        mib: MiB of memory it took at most.
        noise: what libraries printed to standard error.
    """

    path: str
    kind: str
    detail: str
    seconds: float = 0.0
    mib: int = 0
    noise: str = ""

    @property
    def expected(self) -> bool:
        return self.kind in _EXPECTED


class Worker:
    """A process that reads files, started when it is needed and anew after it has died."""

    def __init__(self, memory: int, seconds: float, reader: str | None) -> None:
        self.seconds = seconds
        self._command = [sys.executable, "-m", "tests.sweep_worker", "--memory", str(memory)]
        self._command += ["--reader", reader] if reader else []
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: str) -> Outcome:
        fresh = self._process is None
        process = self._process = self._process or self._start()
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
        # A new process has to import everything first.
        answer = _answer(process, self.seconds + (_START_SECONDS if fresh else 0))
        if answer is not None:
            return Outcome(path, **answer)
        seconds = time.monotonic() - start
        died = process.poll() is not None
        self.stop()
        if not died:
            return Outcome(path, "hang", f"took more than {self.seconds:g} s", seconds)
        return Outcome(path, "crash", _death(process.returncode), seconds)

    def stop(self) -> None:
        if self._process is not None:
            # With the processes that it may have started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # One thread each: thread pools take address space, and the limit is one of that.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd=_ROOT,
            start_new_session=True,
        )


def _answer(process: subprocess.Popen[bytes], seconds: float) -> dict | None:
    """Wait for a worker's line; ``None`` once it has computed, or slept, for too long, or is dead."""
    line, start, computed = b"", time.monotonic(), _computed([process.pid])
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], seconds / 4)[0]:
            # On a busy machine a process may wait for its turn: that is no fault of the file.
            worked = _computed(_session(process.pid)) - computed
            if worked > seconds or time.monotonic() - start > _PATIENCE * seconds:
                return None
            continue
        block = os.read(process.stdout.fileno(), 1 << 16)
        if not block:
            process.wait()
            return None
        line += block
    return json.loads(line)


def _computed(pids: Iterable[int]) -> float:
    """Seconds of processor time that processes, and the children that they have waited for, have used."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _session(leader: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(_stat(int(name))[3]) == leader:
                yield int(name)


def _stat(pid: int) -> list[str]:
    """The fields of a process's status from the third on: the second, its name, may have spaces in it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def files_in(folders: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """List all files below the folders, in order, but those that a symbolic link leads out to."""
    for folder in folders:
        root = os.path.realpath(folder)
        for where, inner, names in os.walk(root):
            inner.sort()
            for name in sorted(names):
                path = os.path.join(where, name)
                if not os.path.islink(path) or os.path.realpath(path).startswith(root + os.sep):
                    yield path


def sweep(
    paths: Iterable[str],
    *,
    jobs: int = 2,
    memory: int = 2048,
    seconds: float = 20.0,
    reader: str | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Read files in processes with limits.

    Args:
        paths: of the files.
        jobs: processes at a time.
        memory: MiB that a file may take.
        seconds: of processor time that a file may take; six times as many on the clock.
        reader: ``module:function`` that is given a path instead of the package's reader.
        progress: say on standard error how far it is.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for path in paths:
        waiting.put(path)
    total = waiting.qsize()
    outcomes: list[Outcome] = []
    workers = [Worker(memory, seconds, reader) for _ in range(max(1, min(jobs, total)))]

    def run(worker: Worker) -> None:
        try:
            while True:
                outcomes.append(worker.read(waiting.get_nowait()))
                if progress and len(outcomes) % 100 == 0:
                    print(f"{len(outcomes)} of {total}", file=sys.stderr)
        except queue.Empty:
            pass
        finally:
            worker.stop()

    threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.stop()
    return sorted(outcomes, key=lambda outcome: outcome.path)


def report(outcomes: list[Outcome], *, listed: int = 20) -> str:
    """Write the counts by outcome, the files at fault, and which were slow, large or noisy."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        groups[outcome.kind][outcome.detail if outcome.expected else outcome.kind] += 1
    lines = []
    for kind in _EXPECTED:
        lines.append(f"{kind:<34}{sum(groups[kind].values()):>7}")
        lines += [f"  {detail:<32}{count:>7}" for detail, count in groups[kind].most_common()]
    faults = [outcome for outcome in outcomes if not outcome.expected]
    lines.append(f"{'anything else':<34}{len(faults):>7}")
    lines += [f"  {kind:<32}{sum(counts.values()):>7}" for kind, counts in groups.items() if kind not in _EXPECTED]
    lines += [f"    {_shown(outcome.path)}: {outcome.kind}, {outcome.detail}" for outcome in faults[:listed]]
    if len(faults) > listed:
        lines.append(f"    and {len(faults) - listed} more; --json lists all of them")
    lines.append("\nslowest")
    slow = sorted(outcomes, key=lambda outcome: -outcome.seconds)[:3]
    lines += [f"  {outcome.seconds:6.2f} s    {_shown(outcome.path)} ({outcome.detail})" for outcome in slow]
    lines.append("most memory")
    large = sorted(outcomes, key=lambda outcome: -outcome.mib)[:3]
    lines += [f"  {outcome.mib:6} MiB  {_shown(outcome.path)} ({outcome.detail})" for outcome in large]
    noisy = [outcome for outcome in outcomes if outcome.noise]
    lines.append(f"printed to standard error by libraries: {len(noisy)} files")
    lines += [f"  {_shown(outcome.path)}: {' '.join(outcome.noise.split())[:100]}" for outcome in noisy[:3]]
    return "\n".join(lines)


def _shown(path: str) -> str:
    return ascii(path)[1:-1]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="+", help="every file below it is read")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB", help="limit for each file (2048)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of processor time for each file (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome there")
    parser.add_argument("--list", type=int, default=20, metavar="N", help="faults to name (20)")
    parser.add_argument("--reader", metavar="MODULE:FUNCTION", help="try this instead of the package's reader")
    options = parser.parse_args(arguments)
    paths = list(files_in(options.folder))
    if not paths:
        parser.error(f"no files in {', '.join(options.folder)}")
    start = time.monotonic()
    outcomes = sweep(
        paths,
        jobs=options.jobs,
        memory=options.memory,
        seconds=options.seconds,
        reader=options.reader,
        progress=sys.stderr.isatty(),
    )
    took = time.monotonic() - start
    print(f"{len(outcomes)} files in {took:.0f} s, at most {options.memory} MiB and {options.seconds:g} s each\n")
    print(report(outcomes, listed=options.list))
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 0 if len(outcomes) == len(paths) and all(outcome.expected for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
