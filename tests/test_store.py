"""FeatureStore: never a wrong vector, never the end of a run."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from fewshot.store import FeatureStore, database, default_store_path, feature_key


def vectors(count, size=16, seed=0):
    rng = np.random.default_rng(seed)
    return {feature_key(seed, i): rng.standard_normal(size).astype(np.float32) for i in range(count)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, vector in expected.items():
        assert found[key].dtype == np.float32
        assert found[key].tobytes() == vector.tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features.sqlite"


WORKER = """
import sys, time, warnings
warnings.simplefilter("error")
import numpy as np
from fewshot.store import FeatureStore, feature_key

path, worker, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for i in range(count):
    shared = np.full(64, i, np.float32)
    own = np.full(64, 1000 * worker + i, np.float32)
    FeatureStore(path).put({feature_key("shared", i): shared, feature_key(worker, i): own})
"""


def start_worker(path, worker, count):
    command = [sys.executable, "-c", WORKER, str(path), str(worker), str(count)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_vectors_come_back_bit_by_bit(path):
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38], np.float32)
    stored = vectors(5) | {feature_key("special"): special, feature_key("empty"): np.zeros(0, np.float32)}
    FeatureStore(path).put(stored)
    assert_same(FeatureStore(path).get(list(stored)), stored)
    assert len(FeatureStore(path)) == 7


def test_vectors_of_another_layout_are_stored_by_value(path):
    matrix = np.arange(12, dtype=np.float64).reshape(3, 4)
    FeatureStore(path).put({b"column": matrix[:, 1]})
    assert_same(FeatureStore(path).get([b"column"]), {b"column": np.array([1, 5, 9], np.float32)})


def test_unknown_keys_are_missing_from_the_answer(path):
    stored = vectors(2)
    store = FeatureStore(path)
    assert store.get(list(stored)) == {}
    store.put(stored)
    assert store.get([feature_key("other")]) == {}
    assert store.get([]) == {}
    assert_same(store.get([*stored, feature_key("other")]), stored)


def test_more_keys_than_a_query_holds(path):
    stored = vectors(1203, size=2)
    FeatureStore(path).put(stored)
    assert_same(FeatureStore(path).get(list(stored)), stored)


def test_a_vector_stored_twice_is_there_once(path):
    store = FeatureStore(path)
    store.put({b"key": np.zeros(3, np.float32)})
    store.put({b"key": np.ones(3, np.float32)})
    assert len(store) == 1
    assert_same(store.get([b"key"]), {b"key": np.ones(3, np.float32)})


def test_looking_up_makes_no_file(path):
    store = FeatureStore(path)
    assert store.get([b"key"]) == {}
    assert len(store) == store.size_bytes == 0
    store.put({})
    assert not path.exists()
    store.put(vectors(1))
    assert store.size_bytes == path.stat().st_size > 0


def test_folders_are_made(tmp_path):
    store = FeatureStore(tmp_path / "a" / "b" / "features.sqlite")
    stored = vectors(1)
    store.put(stored)
    assert_same(store.get(list(stored)), stored)


def test_the_default_path_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "mine"))
    assert default_store_path().parent == tmp_path / "mine"
    assert FeatureStore().path == default_store_path()
    monkeypatch.setenv("FEWSHOT_CACHE", "~/features")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store_path().parent == tmp_path / "features"
    monkeypatch.delenv("FEWSHOT_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert default_store_path().parent == tmp_path / "cache" / "fewshot"


def test_a_key_depends_on_every_part_and_where_they_are_cut():
    parts = [("a", "b"), ("ab",), ("ab", ""), ("", "ab"), ("a", "b", ""), ("b", "a"), ("a", 1), ("a", 11), ("a", 1, 1)]
    assert len({feature_key(*p) for p in parts}) == len(parts)
    assert feature_key("a", 1) == feature_key("a", 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_flipped_byte_anywhere_never_gives_a_wrong_vector(path, tmp_path):
    stored = vectors(12, size=24)
    FeatureStore(path).put(stored)
    good = path.read_bytes()
    lost = 0
    # Data pages are the file's end; the schema and the page heads are in the sample too.
    for position in range(0, len(good), 41):
        damaged = tmp_path / f"{position}.sqlite"
        damaged.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        store = FeatureStore(damaged)
        found = store.get(list(stored))
        lost += len(found) < 12
        for key, vector in found.items():
            assert vector.tobytes() == stored[key].tobytes()
        store.put(stored)
        len(store)
    assert lost > 10


def test_a_damaged_vector_is_missed_once_warned_about_and_replaced(path):
    stored = vectors(3)
    FeatureStore(path).put(stored)
    first = next(iter(stored))
    damaged = stored[first].copy()
    damaged[3] += 1
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE features SET vector = ? WHERE key = ?", (damaged.tobytes(), first))
    connection.close()
    store = FeatureStore(path)
    with pytest.warns(RuntimeWarning, match=r"1 of the features.*damaged"):
        found = store.get(list(stored))
    assert_same(store.get(list(stored)), found)  # a second warning would be an error here
    assert found.keys() == stored.keys() - {first}
    store.put({first: stored[first]})
    assert_same(FeatureStore(path).get(list(stored)), stored)


@pytest.mark.parametrize("value", [None, 3, 1.5, "text"])
def test_a_row_of_another_type_is_a_damaged_one(path, value):
    stored = vectors(2)
    FeatureStore(path).put(stored)
    first, second = stored
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM features")
        connection.execute("DROP TABLE features")
        connection.execute("ALTER TABLE loose RENAME TO features")
        connection.execute("UPDATE features SET vector = ? WHERE key = ?", (value, first))
    connection.close()
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert FeatureStore(path).get(list(stored)).keys() == {second}


def test_a_vector_under_another_key_is_not_believed(path):
    stored = vectors(2)
    FeatureStore(path).put(stored)
    first, second = stored
    with sqlite3.connect(path) as connection:
        vector, digest = connection.execute("SELECT vector, digest FROM features WHERE key = ?", (first,)).fetchone()
        connection.execute("UPDATE features SET vector = ?, digest = ? WHERE key = ?", (vector, digest, second))
    connection.close()
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert FeatureStore(path).get([second]) == {}


DAMAGES = {
    "garbage": lambda good: b"x" * 9000,
    "truncated": lambda good: good[: len(good) // 2],
    "header": lambda good: b"\0" * 100 + good[100:],
    "page": lambda good: good[:20_480] + b"\xff" * 4096 + good[24_576:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew_with_what_is_intact_in_it_and_one_warning(path, damage):
    stored = vectors(300)
    FeatureStore(path).put(stored)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    store = FeatureStore(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = store.get(list(stored))
        store.put({key: vector for key, vector in stored.items() if key not in found})
        assert_same(store.get(list(stored)), stored)
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(path) in str(warning.message)
    assert "damaged" in str(warning.message)
    assert_same(FeatureStore(path).get(list(stored)), stored)
    for key, vector in found.items():
        assert vector.tobytes() == stored[key].tobytes()
    if damage == "header":
        assert len(found) == 300
    elif damage != "garbage":
        assert 0 < len(found) < 300
    # What may not be a store at all is kept.
    assert path.with_name("features.sqlite.damaged").exists() == (damage == "garbage")


def test_an_empty_file_is_an_empty_store(path):
    path.touch()
    stored = vectors(2)
    store = FeatureStore(path)
    assert store.get(list(stored)) == {}
    assert len(store) == 0
    store.put(stored)
    assert_same(store.get(list(stored)), stored)


def blocked_by_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    return tmp_path / "file" / "features.sqlite"


def a_folder(tmp_path):
    return tmp_path


def too_long(tmp_path):
    return tmp_path / ("a" * 300) / "features.sqlite"


@pytest.mark.parametrize("make", [blocked_by_a_file, a_folder, too_long])
def test_a_place_that_cannot_be_written_costs_one_warning(tmp_path, make):
    store = FeatureStore(make(tmp_path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert store.get([b"key"]) == {}
            store.put(vectors(1))
        len(store)
        assert store.size_bytes >= 0
    assert [w.category for w in caught] == [RuntimeWarning]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_folder_costs_one_warning(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(RuntimeWarning, match="going on without"):
        FeatureStore(tmp_path / "features.sqlite").put(vectors(1))


def test_a_forbidden_folder_costs_one_warning(path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    store = FeatureStore(path)
    monkeypatch.setattr(type(path), "exists", refuse)
    with pytest.warns(RuntimeWarning, match="Permission denied"):
        assert store.get([b"key"]) == {}
    assert len(store) == 0


def test_a_full_disk_costs_one_warning_and_leaves_no_part(path, monkeypatch):
    stored = vectors(3)
    FeatureStore(path).put(stored)
    prepare = database.prepare

    def prepare_on_full_disk(connection):
        prepare(connection)
        connection.execute("PRAGMA max_page_count = 8")

    monkeypatch.setattr(database, "prepare", prepare_on_full_disk)
    with pytest.warns(RuntimeWarning, match="full") as caught:
        FeatureStore(path).put(vectors(100, size=500, seed=1))
    assert len(caught) == 1
    monkeypatch.undo()
    assert len(FeatureStore(path)) == 3
    assert_same(FeatureStore(path).get(list(stored)), stored)


@pytest.mark.parametrize("batch", [1, 40])
def test_the_file_stays_below_its_limit_and_the_newest_stay_in_it(path, monkeypatch, batch):
    now = iter(range(10_000))
    monkeypatch.setattr(database.time, "time", lambda: float(next(now)))
    limit = 200_000
    store = FeatureStore(path, limit_bytes=limit)
    for number in range(120 // batch):
        latest = vectors(batch, size=1280, seed=number)
        store.put(latest)
        assert store.size_bytes <= limit
    found = store.get([key for number in range(120 // batch) for key in vectors(batch, size=1, seed=number)])
    assert found
    if batch == 1:
        assert_same(store.get(list(latest)), latest)
        oldest = vectors(1, size=1)
        assert not store.get(list(oldest))
    assert store.size_bytes > limit // 2


def test_a_limit_that_nothing_fits_ends(path):
    store = FeatureStore(path, limit_bytes=1)
    store.put(vectors(20))
    assert len(store) == 0


def test_threads_share_a_new_file(tmp_path):
    for attempt in range(6):
        path = tmp_path / f"{attempt}.sqlite"
        barrier = threading.Barrier(6)
        problems = []

        def work(worker, path=path, barrier=barrier, problems=problems):
            barrier.wait()
            try:
                for i in range(3):
                    FeatureStore(path).put(vectors(2, seed=10 * worker + i))
            except Warning as warning:
                problems.append(warning)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        expected = {k: v for worker in range(6) for i in range(3) for k, v in vectors(2, seed=10 * worker + i).items()}
        assert len(FeatureStore(path)) == 36
        assert_same(FeatureStore(path).get(list(expected)), expected)


def test_who_loses_the_race_for_the_journal_mode_goes_on(path, monkeypatch):
    class Loser(sqlite3.Connection):
        def execute(self, query, *arguments):
            if "journal_mode" in query:
                raise sqlite3.OperationalError("database is locked")
            return super().execute(query, *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Loser, **k))
    stored = vectors(3)
    FeatureStore(path).put(stored)
    assert_same(FeatureStore(path).get(list(stored)), stored)


def test_one_store_serves_several_threads(path):
    store = FeatureStore(path)
    threads = [threading.Thread(target=store.put, args=(vectors(5, seed=i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 20


def test_processes_share_a_new_file(path):
    processes = [start_worker(path, worker, 15) for worker in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    expected = {feature_key("shared", i): np.full(64, i, np.float32) for i in range(15)}
    expected |= {feature_key(w, i): np.full(64, 1000 * w + i, np.float32) for w in range(2) for i in range(15)}
    assert len(FeatureStore(path)) == 45
    assert_same(FeatureStore(path).get(list(expected)), expected)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_writer_leaves_whole_entries(path):
    process = start_worker(path, 0, 1_000_000)
    process.stdin.write("go\n")
    process.stdin.flush()
    deadline = time.time() + 30
    while len(FeatureStore(path)) < 20 and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    store = FeatureStore(path)
    count = len(store)
    assert count >= 20
    assert count % 2 == 0  # both vectors of a put, or neither
    keys = {feature_key("shared", i): i for i in range(count)} | {feature_key(0, i): i for i in range(count)}
    found = store.get(list(keys))
    assert len(found) == count
    for key, vector in found.items():
        np.testing.assert_array_equal(vector, np.full(64, keys[key], np.float32))
    more = vectors(3)
    store.put(more)
    assert_same(store.get(list(more)), more)
