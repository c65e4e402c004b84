"""The feature store under stress: many processes, flipped bytes, SIGKILL, a full disk.

    python -m tests.stress_store --processes 2 --seconds 60                  nothing lost, doubled or wrong
    python -m tests.stress_store --processes 8 --seconds 60 --limit 16MiB    the same while vectors are evicted
    python -m tests.stress_store --processes 8 --seconds 60 --clear          the same while others clear the store
    python -m tests.stress_store --flips 200                                 one byte flipped at 200 places
    python -m tests.stress_store --kills 100                                 SIGKILL at 100 random moments
    python -m tests.stress_store --full                                      a disk of 1 MiB

Prints one line of JSON per check; exit code 1 where something is wrong. The right vector of a key is a function of the
key, so that every process can check every vector.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from fewshot.store import FeatureStore, feature_key
from fewshot.store.place import parse_size
from fewshot.store.upkeep import clear, verify

ROOT = Path(__file__).parents[1]
N_FEATURES = 1280
N_KEYS = 20_000
BLOCK = 32


def right_vector(number, size=N_FEATURES):
    """The only vector that may ever come back for a number's key."""
    return np.random.default_rng(number).standard_normal(size, dtype=np.float32)


def key_of(number):
    return feature_key("stress", number)


def count_wrong(found, numbers):
    expected = {key_of(number): number for number in numbers}
    return sum(vector.tobytes() != right_vector(expected[key]).tobytes() for key, vector in found.items())


def store_missing(store, numbers):
    """What extraction does with a block: look up, compute what is missing, store it. Returns (stored, wrong)."""
    found = store.get([key_of(number) for number in numbers])
    missing = [number for number in numbers if key_of(number) not in found]
    store.put({key_of(number): right_vector(number) for number in missing})
    return missing, count_wrong(found, numbers)


# Processes ------------------------------------------------------------------------------------------------------------


def work(path, worker, seconds, limit):
    """What one process does: threads look up and store blocks until the time is over."""
    stored, wrong, lost, problems = set(), [], [], []

    def loop(thread):
        rng = random.Random(1000 * worker + thread)
        store, mine = FeatureStore(path, limit_bytes=limit), []
        while time.time() < deadline:
            missing, bad = store_missing(store, rng.sample(range(N_KEYS), BLOCK))
            again = rng.sample(mine, min(BLOCK, len(mine)))
            found = store.get([key_of(number) for number in again])
            wrong.append(bad + count_wrong(found, again))
            lost.append(len(again) - len(found))
            mine += missing
        stored.update(mine)

    def guarded(thread):
        try:
            loop(thread)
        except BaseException as error:  # a warning is an error here
            problems.append(f"{type(error).__name__}: {error}")

    deadline = time.time() + seconds
    threads = [threading.Thread(target=guarded, args=(thread,)) for thread in range(2)]
    # Before the threads: a fork while another thread is inside SQLite would leave its mutexes locked in the child.
    check_fork(path, limit)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "stored": sorted(stored),
        "wrong": sum(wrong),
        "lost": sum(lost),
        "rounds": len(wrong),
        "problems": problems,
    }


def check_fork(path, limit):
    """A forked child goes on with the store that its parent has used."""
    store = FeatureStore(path, limit_bytes=limit)
    store_missing(store, range(BLOCK))
    child = os.fork()
    if child == 0:
        _, wrong = store_missing(store, range(BLOCK, 2 * BLOCK))
        os._exit(1 if wrong else 0)
    if os.waitpid(child, 0)[1]:
        raise AssertionError("a forked child found wrong vectors")


def stress_processes(folder, processes, seconds, limit, clearing):
    path = folder / "features.sqlite"
    bytes_limit = 8 << 30 if limit is None else limit
    command = [sys.executable, "-W", "error", "-m", "tests.stress_store", "--worker"]
    workers = [
        subprocess.Popen(
            [*command, f"{path}|{number}|{seconds}|{bytes_limit}"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for number in range(processes)
    ]
    largest, clears, deadline = 0, 0, time.time() + seconds
    while time.time() < deadline:
        store = FeatureStore(path, limit_bytes=bytes_limit)
        largest = max(largest, store.size_bytes)
        if clearing and random.random() < 0.01:
            clear(path)
            clears += 1
        time.sleep(0.005)
    answers = [json.loads(worker.communicate()[0]) for worker in workers]
    stored = set().union(*(answer["stored"] for answer in answers))
    found = read_all(path, stored, bytes_limit)
    verified = verify(path)
    total, distinct = count_rows(path)
    result = {
        "processes": processes,
        "seconds": seconds,
        "limit": limit,
        "rounds": sum(answer["rounds"] for answer in answers),
        "stored": len(stored),
        "lost": len(stored) - len(found) + sum(answer["lost"] for answer in answers),
        "doubled": total - distinct,
        "wrong": count_wrong(found, stored) + sum(answer["wrong"] for answer in answers),
        "sound": verified.is_sound,
        "largest_bytes": largest,
        "clears": clears,
        "problems": [problem for answer in answers for problem in answer["problems"]],
    }
    kept = limit is None and not clearing
    ok = not (result["wrong"] or result["doubled"] or result["problems"] or (kept and result["lost"]))
    return result, ok and verified.is_sound and largest <= bytes_limit and bool(stored)


def read_all(path, numbers, limit=8 << 30):
    return FeatureStore(path, limit_bytes=limit).get([key_of(number) for number in sorted(numbers)])


def count_rows(path):
    with closing(sqlite3.connect(path)) as database:
        keys = [key for (key,) in database.execute("SELECT key FROM features NOT INDEXED")]
    return len(keys), len(set(keys))


# Flipped bytes --------------------------------------------------------------------------------------------------------


def stress_flips(folder, flips, n_vectors=300, seed=0):
    """Flip one byte of a copy; look everything up; store what is missing, until everything is there."""
    rng, numbers = random.Random(seed), range(n_vectors)
    kinds = {"file": 3, "wal": 2, "shm": 1}
    counts = collections.Counter()
    templates = folder / "plain.sqlite", folder / "logged.sqlite"
    store_missing(FeatureStore(templates[0]), numbers)
    with logged(templates[1], numbers):
        for flip in range(flips):
            (kind,) = rng.choices(list(kinds), kinds.values())
            path = folder / f"flip-{flip}.sqlite"
            copy_store(templates[kind != "file"], path)
            with held(path) if kind == "shm" else nothing():
                flip_byte(f"{path}{'' if kind == 'file' else '-' + kind}", rng)
                counts[f"flips_in_{kind}"] += 1
                counts.update(check_flipped(path, numbers))
            for file in folder.glob(f"{path.name}*"):
                file.unlink()
    return dict(counts), not (counts["wrong"] or counts["not_healed"] or counts["more_than_one_warning_of_a_kind"])


def check_flipped(path, numbers):
    counts = collections.Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = FeatureStore(path)
        found = store.get([key_of(number) for number in numbers])
        counts["wrong"] += count_wrong(found, numbers)
        counts["right"] += len(found)
        counts["missing"] += len(numbers) - len(found)
        missing = numbers
        # What is put into a damaged index can hide a neighbour, which is missed and put at the next look-up.
        for _ in range(4):
            missing, wrong = store_missing(store, numbers)
            counts["wrong"] += wrong
        counts["not_healed"] += bool(missing)
    texts = [str(warning.message) for warning in caught]
    counts["flips_noticed"] += bool(texts) or len(found) < len(numbers)
    counts["files_made_anew"] += any("made anew" in text for text in texts)
    counts["more_than_one_warning_of_a_kind"] += len(texts) != len({text.split("(")[0][:60] for text in texts})
    counts["flips_left_for_verify"] += not verify(path).is_sound
    final = read_all(path, numbers)
    counts["wrong"] += count_wrong(final, numbers)
    counts["not_healed"] += not verify(path).is_sound
    return counts


@contextmanager
def logged(path, numbers):
    """A store whose newer half is still in its write-ahead log, as a running process has it."""
    numbers = list(numbers)
    store_missing(FeatureStore(path), numbers[: len(numbers) // 2])
    with held(path):
        for start in range(len(numbers) // 2, len(numbers), BLOCK):
            store_missing(FeatureStore(path), numbers[start : start + BLOCK])
        yield


@contextmanager
def held(path):
    """Somebody else reads the store, so that its log stays."""
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); d.execute('BEGIN'); "
        "d.execute('SELECT COUNT(*) FROM features').fetchall(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


@contextmanager
def nothing():
    yield


def copy_store(source, target):
    for ending in ("", "-wal"):
        if os.path.exists(f"{source}{ending}"):
            shutil.copyfile(f"{source}{ending}", f"{target}{ending}")


def flip_byte(path, rng):
    # In another process: closing a file that SQLite has open takes its locks away.
    position = rng.randrange(os.path.getsize(path))
    program = (
        "import sys; f = open(sys.argv[1], 'r+b'); p = int(sys.argv[2]); f.seek(p); b = f.read(1)[0]; f.seek(p); "
        "f.write(bytes([b ^ int(sys.argv[3])])); f.close()"
    )
    subprocess.run([sys.executable, "-S", "-c", program, path, str(position), str(rng.randrange(1, 256))], check=True)


# SIGKILL --------------------------------------------------------------------------------------------------------------


def store_all(path, n_vectors):
    """What is killed: storing in blocks, what is there already is left."""
    store = FeatureStore(path)
    for start in range(0, n_vectors, BLOCK):
        store_missing(store, range(start, min(start + BLOCK, n_vectors)))


def stress_kills(folder, kills, n_vectors=1024, seed=0):
    """Kill; open; check that every block is there or not; go on; compare with a run that nobody killed."""
    rng, counts = random.Random(seed), collections.Counter()
    whole = folder / "whole.sqlite"
    start = time.time()
    store_all(whole, n_vectors)
    duration, expected = time.time() - start, contents(whole)
    kill = 0
    while kill < kills:
        path = folder / f"kill-{kill}.sqlite"
        damaged = kill % 4 == 3
        if damaged:
            # A damaged file, which is being made anew when it is killed.
            store_all(path, n_vectors // 2)
            damage_page(path, rng)
        in_time = kill_while_storing(path, n_vectors, rng.uniform(0, (0.2 if damaged else 1) * duration))
        counts["too_late"] += not in_time
        kill += in_time
        counts.update(check_killed(path, n_vectors, damaged))
        counts["kills"] += in_time
        counts["kills_of_repairs"] += damaged and in_time
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if damaged else "error")
            store_all(path, n_vectors)
        counts["reruns_that_differ"] += contents(path) != expected
        for file in folder.glob(f"{path.name}*"):
            file.unlink()
    bad = ("wrong", "partial_blocks", "unsound", "reruns_that_differ")
    names = ("kills", "kills_of_repairs", "too_late", *bad)
    return {name: counts[name] for name in names}, not any(counts[name] for name in bad)


def kill_while_storing(path, n_vectors, delay):
    command = [sys.executable, "-W", "ignore", "-m", "tests.stress_store", "--store", f"{path}|{n_vectors}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        time.sleep(delay)
        running = process.poll() is None
        process.kill()
    return running


def check_killed(path, n_vectors, damaged):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if damaged else "error")
        found = read_all(path, range(n_vectors))
    counts = collections.Counter(wrong=count_wrong(found, range(n_vectors)))
    if not damaged:
        present = [key_of(number) in found for number in range(n_vectors)]
        blocks = [present[start : start + BLOCK] for start in range(0, n_vectors, BLOCK)]
        counts["partial_blocks"] = sum(any(block) and not all(block) for block in blocks)
        counts["unsound"] = not verify(path).is_sound
    return counts


def damage_page(path, rng):
    page = rng.randrange(3, os.path.getsize(path) // 4096)
    with open(path, "r+b") as file:
        file.seek(4096 * page)
        file.write(b"\xff" * 64)


def contents(path):
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute("SELECT key, digest, vector FROM features"))


# Full disk ------------------------------------------------------------------------------------------------------------


def stress_full(folder):
    """Store onto a disk of 1 MiB until it is full, then make room."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        path = place / "features.sqlite"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store_all(path, 1024)
        texts = [str(warning.message) for warning in caught]
        kept = read_all(path, range(1024))
        result = {"warnings": texts, "kept": len(kept), "wrong": count_wrong(kept, range(1024))}
        result["partial_blocks"] = len(kept) % BLOCK
        result["sound_when_full"] = verify(path).is_sound
        subprocess.run(["mount", "-o", "remount,size=32m", place], check=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store_all(path, 1024)
        result["stored_after_making_room"] = len(read_all(path, range(1024)))
    finally:
        subprocess.run(["umount", place], check=True)
    ok = len(texts) == 1 and str(path) in texts[0] and "MB" in texts[0] and result["kept"] and result["sound_when_full"]
    ok = ok and not (result["wrong"] or result["partial_blocks"]) and result["stored_after_making_room"] == 1024
    return result, bool(ok)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--limit", type=parse_size, help="evict beyond this size")
    parser.add_argument("--clear", action="store_true", help="clear the store now and then")
    parser.add_argument("--flips", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        path, number, seconds, limit = options.worker.split("|")
        print(json.dumps(work(Path(path), int(number), float(seconds), int(limit))))
        return 0
    if options.store:
        path, count = options.store.split("|")
        print("ready", flush=True)
        store_all(Path(path), int(count))
        return 0
    checks = {}
    if options.processes:
        checks["processes"] = lambda folder: stress_processes(
            folder, options.processes, options.seconds, options.limit, options.clear
        )
    if options.flips:
        checks["flips"] = lambda folder: stress_flips(folder, options.flips, seed=options.seed)
    if options.kills:
        checks["kills"] = lambda folder: stress_kills(folder, options.kills, seed=options.seed)
    if options.full:
        checks["full"] = stress_full
    if not checks:
        parser.error("nothing to do")
    good = True
    for name, check in checks.items():
        with tempfile.TemporaryDirectory() as folder:
            result, ok = check(Path(folder))
        print(json.dumps({"check": name, "ok": ok, **result}), flush=True)
        good = good and ok
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
