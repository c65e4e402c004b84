"""A journal that is killed while it is written: python -m tests.kill_journal --times 100

A process appends records of many sizes and tells of each once ``append`` has returned. It is killed with SIGKILL at a
random moment, also while it opens the journal, and started again on what is left, until the run is complete; then a
new run begins. After every kill: the journal opens, each record that was told of is there, none is half there or
wrong, and what a complete run holds is what an uninterrupted one holds.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fewshot.journal import FILE_NAME, Journal, canonical, read_journal

N_RECORDS = 200
SETTINGS = {"seed": 0, "records": N_RECORDS}


def record(index):
    """Record number ``index``, from a few bytes to 200 kB: the same in every process."""
    rng = random.Random(index)
    size = rng.choice([0, 3, 40, 700, 9_000, 30_000])
    return {"cell": f"cell {index}", "values": [rng.random() for _ in range(size // 3)], "seconds": {"fit": 0.5}}


def write(folder, told):
    """Append what is missing, and tell of each record when it is on the disk."""
    with Journal(folder, SETTINGS, {"about": "it"}, resume=True) as journal:
        told.write("open\n")
        told.flush()
        for index in range(N_RECORDS):
            if f"cell {index}" not in journal.records:
                journal.append(record(index))
                told.write(f"{index}\n")
                told.flush()


def kill_once(folder, rng):
    """Start a writer, kill it at a random moment; give what it told of, and whether it was killed before its end."""
    command = [sys.executable, "-m", "tests.kill_journal", "--write", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    # Half of the kills meet it while it opens what the last one left, or just after.
    if rng.random() < 0.5:
        process.stdout.readline()
    time.sleep(rng.random() * 0.25)
    process.send_signal(signal.SIGKILL)
    told = process.stdout.read().split()
    process.stdout.close()
    return [int(word) for word in told if word.isdigit()], process.wait() == -signal.SIGKILL


def check(folder, told):
    """Open what is left, compare every record with what it should be, and give the number of them."""
    if not (folder / FILE_NAME).exists():
        assert not told, "the journal is gone"
        return 0
    with Journal(folder, SETTINGS, {"about": "it"}, resume=True) as journal:
        for cell, found in journal.records.items():
            expected = record(int(cell.split()[1]))
            assert {key: found[key] for key in expected} == expected, f"{cell} is not what was appended"
        missing = [index for index in told if f"cell {index}" not in journal.records]
        assert not missing, f"records that were told of are lost: {missing}"
        return len(journal.records)


def run(times, seed=0):
    """Kill so many times; give the number of kills, of complete runs, and of records that were told of."""
    rng = random.Random(seed)
    expected = canonical({f"cell {index}": record(index) for index in range(N_RECORDS)})
    kills = complete = records = 0
    while kills < times:
        with tempfile.TemporaryDirectory() as name:
            folder, told, done = Path(name), [], False
            while not done and kills < times:
                heard, killed = kill_once(folder, rng)
                told += heard
                kills += killed
                done = check(folder, told) == N_RECORDS
            with open(folder / "rest", "w") as rest:
                write(folder, rest)
            found = read_journal(folder / FILE_NAME)[1]
            assert canonical(found) == expected, "the rerun differs from an uninterrupted run"
            complete += 1
            records += len(told)
    return kills, complete, records


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, sys.stdout)
        return
    start = time.perf_counter()
    kills, complete, records = run(arguments.times, arguments.seed)
    print(
        f"{kills} kills over {complete} runs of {N_RECORDS} records, {records} told of before a kill: none lost, none "
        f"half there, all runs equal to an uninterrupted one. {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
