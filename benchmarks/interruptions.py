"""Benchmarks that are killed and resumed, on every engine, and how engines scale from one worker to two.

pip install 'fewshot[demo,ray]' && python benchmarks/interruptions.py FOLDER

A suite runs once undisturbed on one thread. On joblib and Ray it is then started in a process of its own; one of its
workers is killed with SIGKILL, then the process itself, then it is resumed. The journals must hold the same records.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fewshot.benchmarking import Costs, make_task
from fewshot.engines import make_engine
from fewshot.journal import canonical, read_journal
from fewshot.planning import Settings, make_plan

STRATEGIES = ["tim", "laplacian-shot", "bd-cspn"]
OPTIONS = f"--shots 1,5 --episodes 8192 --strategies {','.join(STRATEGIES)}".split()


def start(folder: str, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "fewshot", "bench", folder, *OPTIONS, "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(out: Path) -> int:
    """Finished cells, and the header."""
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(out: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many lines are in the journal, or the process has ended."""
    while lines(out) < count and process.poll() is None:
        time.sleep(0.01)


def workers_of(process: subprocess.Popen[bytes], engine: str) -> list[int]:
    """Process numbers of the engine's workers among the descendants of a process."""
    word = b"ray::_Worker" if engine == "ray" else b"LokyProcess"
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue

    def descends(number: int) -> bool:
        return number == process.pid or (number in parents and descends(parents[number]))

    return [number for number, name in names.items() if word in name and descends(number)]


def text(out: Path) -> str:
    """What the journal holds, in order and without times."""
    return canonical(read_journal(out / "journal.jsonl")[1])


def disturb(folder: str, out: Path, engine: str) -> str:
    """Kill a worker, then the driver, then resume; say what happened on the way."""
    options = ["--engine", engine, "--jobs", "2"]
    process = start(folder, out, *options)
    wait_for(out, 6, process)
    os.kill(workers_of(process, engine)[0], signal.SIGKILL)
    killed_at = lines(out)
    wait_for(out, 16, process)
    went_on = process.poll() is None
    if went_on:
        process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = lines(out)
    resumed = start(folder, out, *options, "--resume")
    _, errors = resumed.communicate()
    if resumed.returncode:
        raise RuntimeError(errors.decode())
    what = "went on by itself" if went_on else "stopped and said how to go on"
    return f"worker killed after {killed_at - 1} cells ({what}), driver gone after {stopped_at - 1}"


def scaling(folder: str, engine: str) -> tuple[float, float]:
    """Seconds for all cells but the first ones, with one worker and with two."""
    seconds = []
    for n_jobs in (1, 2):
        settings = Settings(k_shots=(5,), n_episodes=16 * 1024)
        plan = make_plan([folder], STRATEGIES, "efficientnet_lite0", "heavy", settings, None, False)
        task = make_task(plan.tasks[0], settings, Costs())
        runner = make_engine(engine, n_jobs=n_jobs)
        # The first cell of each worker waits for the process, its imports and the features.
        cells = list(plan.tasks[0].cells)
        list(runner.run(task, cells[: 2 * n_jobs]))
        start = time.perf_counter()
        list(runner.run(task, cells[4:]))
        seconds.append(time.perf_counter() - start)
        runner.close()
    return seconds[0], seconds[1]


def main() -> None:
    """Print a row per engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="one folder per class")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        serial = Path(temporary) / "serial"
        process = start(folder, serial, "--jobs", "1")
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors.decode())
        expected = text(serial)
        print(f"{lines(serial) - 1} cells of 1,024 episodes.\n")
        print("| engine | what happened | equal to the serial run | 1 worker, s | 2 workers, s | ratio |")
        print("|---|---|---|---|---|---|", flush=True)
        for engine in ("joblib", "ray"):
            out = Path(temporary) / engine
            happened = disturb(folder, out, engine)
            equal = "yes, byte for byte" if text(out) == expected else "NO"
            one, two = scaling(folder, engine)
            print(f"| {engine} | {happened} | {equal} | {one:.1f} | {two:.1f} | {one / two:.2f} |", flush=True)


if __name__ == "__main__":
    main()
