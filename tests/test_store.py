"""FeatureStore: never a wrong vector, never the end of a run."""

import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing

import numpy as np
import pytest

from fewshot.errors import InvalidInputError
from fewshot.store import FeatureStore, database, default_store_path, feature_key
from fewshot.store import store as store_module
from fewshot.store.place import keep_limit, parse_size


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
    stored = vectors(60, size=200)
    FeatureStore(path).put(stored)
    good = path.read_bytes()
    lost = 0
    # Data pages are the file's end; the schema and the page heads are in the sample too.
    for position in range(0, len(good), 997):
        damaged = tmp_path / f"{position}.sqlite"
        damaged.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        store = FeatureStore(damaged)
        found = store.get(list(stored))
        lost += len(found) < 60
        for key, vector in found.items():
            assert vector.tobytes() == stored[key].tobytes()
        store.put(stored)
        len(store)
    assert lost > 30


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


def a_null_character(tmp_path):
    return f"{tmp_path}/\0/features.sqlite"


def nothing(tmp_path):
    return ""


def a_loop(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop" / "features.sqlite"


@pytest.mark.parametrize("make", [blocked_by_a_file, a_folder, too_long, a_null_character, nothing, a_loop])
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


def test_counting_says_so_where_the_store_cannot_be_read(tmp_path):
    store = FeatureStore(tmp_path)
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert len(store) == 0
    # And once only.
    assert len(store) == 0


def test_a_store_is_true_though_nothing_is_in_it(path):
    assert FeatureStore(path)
    assert len(FeatureStore(path)) == 0
    assert not path.exists()


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


def at(monkeypatch, hours):
    monkeypatch.setattr(database.time, "time", lambda: 1_700_000_000.0 + 3600 * hours)


def uses(path):
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT key, used FROM features"))


def test_what_was_read_last_stays_longest(path, monkeypatch):
    at(monkeypatch, 0)
    store = FeatureStore(path, limit_bytes=1 << 20)
    first, second = vectors(50, 1280, seed=1), vectors(50, 1280, seed=2)
    store.put(first)
    at(monkeypatch, 2)
    store.put(second)
    at(monkeypatch, 4)
    assert_same(store.get(list(first)), first)
    at(monkeypatch, 6)
    store.put(vectors(60, 1280, seed=3))
    assert store.size_bytes <= 1 << 20
    assert_same(store.get(list(first)), first)
    assert 0 < len(store.get(list(second))) < 50


def test_reading_writes_at_most_once_an_hour(path, monkeypatch):
    at(monkeypatch, 0)
    store, stored = FeatureStore(path), vectors(3)
    store.put(stored)
    at(monkeypatch, 0.9)
    before = path.read_bytes()
    store.get(list(stored))
    assert path.read_bytes() == before
    at(monkeypatch, 1.1)
    store.get(list(stored)[:2])
    first, second, third = (uses(path)[key] for key in stored)
    assert first == second == third + 3960


def test_a_time_of_use_in_the_future_is_put_right(path, monkeypatch):
    at(monkeypatch, 100)
    store, stored = FeatureStore(path), vectors(2)
    store.put(stored)
    at(monkeypatch, 0)
    store.get(list(stored))
    assert set(uses(path).values()) == {1_700_000_000}


def test_noting_a_use_never_delays_or_fails_a_read(path, monkeypatch):
    at(monkeypatch, 0)
    store, stored = FeatureStore(path), vectors(3)
    store.put(stored)
    at(monkeypatch, 9)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        start = time.perf_counter()
        assert_same(store.get(list(stored)), stored)
        assert time.perf_counter() - start < 5
        writer.execute("ROLLBACK")


def test_a_reader_that_does_not_end_costs_one_warning_and_no_room(path, monkeypatch):
    monkeypatch.setattr(store_module, "_CHECKPOINT_MS", 50)
    limit = 1 << 20
    store = FeatureStore(path, limit_bytes=limit)
    store.put(vectors(20, 1280))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM features").fetchall()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for seed in range(1, 12):
                store.put(vectors(20, 1280, seed=seed))
                assert store.size_bytes <= limit
        (warning,) = caught
        assert "log outgrows the limit" in str(warning.message)
    latest = vectors(20, 1280, seed=99)
    store.put(latest)
    assert_same(store.get(list(latest)), latest)
    assert store.size_bytes <= limit


def test_a_store_under_a_lower_limit_shrinks_as_it_is_used(path):
    FeatureStore(path).put(vectors(600, 1280))
    store = FeatureStore(path, limit_bytes=2 << 20)
    sizes = [store.size_bytes]
    for seed in range(1, 60):
        latest = vectors(5, 1280, seed=seed)
        store.put(latest)
        assert_same(store.get(list(latest)), latest)
        sizes.append(store.size_bytes)
    assert sizes[0] > 3 << 20
    assert sizes[1] > sizes[0] * 3 // 4  # not all at once
    assert sizes[-1] <= 2 << 20
    assert all(later <= earlier + 4096 for earlier, later in itertools.pairwise(sizes))


def test_one_large_put_is_cut_to_the_limit(path):
    store = FeatureStore(path, limit_bytes=1 << 20)
    store.put(vectors(1000, 1280))
    assert store.size_bytes <= 1 << 20
    assert len(store) > 50


def test_a_vector_larger_than_the_limit_is_not_stored(path):
    store = FeatureStore(path, limit_bytes=1 << 20)
    store.put({b"large": np.zeros(1 << 20, np.float32)})
    assert store.get([b"large"]) == {}
    assert store.size_bytes <= 1 << 20
    small = vectors(3)
    store.put(small)
    assert_same(store.get(list(small)), small)


def test_a_limit_of_nothing_keeps_nothing(path):
    FeatureStore(path, limit_bytes=0).put(vectors(2))
    assert not path.exists()
    FeatureStore(path).put(vectors(2))
    FeatureStore(path, limit_bytes=0).put(vectors(2, seed=1))
    assert len(FeatureStore(path)) == 0


def test_the_limit_comes_from_the_argument_the_environment_the_setting_or_the_default(path, monkeypatch):
    assert FeatureStore(path).limit_bytes == 2 << 30
    keep_limit(path, 300)
    assert FeatureStore(path).limit_bytes == 300
    monkeypatch.setenv("FEWSHOT_CACHE_LIMIT", "1.5MB")
    assert FeatureStore(path).limit_bytes == 1_500_000
    assert FeatureStore(path, limit_bytes=7).limit_bytes == 7
    monkeypatch.setenv("FEWSHOT_CACHE_LIMIT", "plenty")
    with pytest.raises(InvalidInputError, match=r"FEWSHOT_CACHE_LIMIT='plenty'.*5GB"):
        FeatureStore(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"limit_bytes": "5GB"}', '{"limit_bytes": -1}', "[" * 9999])
def test_a_damaged_setting_is_said_and_passed_over(path, text):
    keep_limit(path, 300)
    (setting,) = path.parent.iterdir()
    setting.write_text(text)
    with pytest.warns(RuntimeWarning, match="fewshot cache limit"):
        assert FeatureStore(path).limit_bytes == 2 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("5GB", 5_000_000_000),
        ("500 MiB", 500 << 20),
        (" 1.5tb ", 1_500_000_000_000),
        ("0.1kB", 100),
        ("12B", 12),
        ("5000000000", 5_000_000_000),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "-5GB", "5 G B", "5GBs", "GB", "1e9", "nan", "inf", "5,0GB", "٥GB", "0x10"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InvalidInputError, match="size="):
        parse_size(text)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_damaged_index_never_gives_a_wrong_vector_and_mends_as_it_is_used(path):
    stored = vectors(20)
    FeatureStore(path).put(stored)
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_features_1'"
        (page,) = connection.execute(query).fetchone()
    content = path.read_bytes()
    start, lost = 4096 * (page - 1), 0
    for position in [*range(start, start + 50, 2), *range(start + 4096 - 600, start + 4096, 31)]:
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        for _ in range(3):
            found = FeatureStore(path).get(list(stored))
            assert_same(found, {key: stored[key] for key in found})
            lost += len(found) < 20
            FeatureStore(path).put({key: vector for key, vector in stored.items() if key not in found})
        assert_same(FeatureStore(path).get(list(stored)), stored)
    assert lost > 10


def test_two_who_find_the_file_damaged_make_it_anew_once(path):
    for attempt in range(5):
        stored, fresh = vectors(200, 64), vectors(8, 64, seed=9)
        file = path.with_name(f"{attempt}.sqlite")
        FeatureStore(file).put(stored)
        data = bytearray(file.read_bytes())
        data[20_480:24_576] = b"\xff" * 4096
        file.write_bytes(data)
        barrier = threading.Barrier(4)

        def work(seed, file=file, barrier=barrier, stored=stored, fresh=fresh):
            store = FeatureStore(file)
            barrier.wait()
            store.get(list(stored))
            store.put(dict(list(fresh.items())[2 * seed : 2 * seed + 2]))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run_threads(work, range(4))
        assert len([w for w in caught if "made anew" in str(w.message)]) == 1
        assert_same(FeatureStore(file).get(list(fresh)), fresh)
        kept = FeatureStore(file).get(list(stored))
        assert len(kept) > 50
        assert_same(kept, {key: stored[key] for key in kept})
        assert not list(path.parent.glob("*.damaged*"))


def run_threads(work, arguments):
    threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_joblib_processes_share_a_store(path):
    joblib = pytest.importorskip("joblib")
    store = FeatureStore(path)
    jobs = [joblib.delayed(store.put)(vectors(5, seed=seed)) for seed in range(4)]
    joblib.Parallel(n_jobs=2)(jobs)
    expected = {key: vector for seed in range(4) for key, vector in vectors(5, seed=seed).items()}
    assert_same(store.get(list(expected)), expected)


def test_a_file_system_without_locks_costs_one_warning(path, monkeypatch):
    class NoLocks(sqlite3.Connection):
        def execute(self, query, *arguments):
            if query.startswith(("SELECT", "BEGIN", "PRAGMA journal_mode")):
                error = sqlite3.OperationalError("locking protocol")
                error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
                raise error
            return super().execute(query, *arguments)

    stored = vectors(2)
    FeatureStore(path).put(stored)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=NoLocks, **k))
    store = FeatureStore(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert store.get(list(stored)) == {}
            store.put(vectors(2, seed=1))
    (warning,) = caught
    assert "locking protocol" in str(warning.message)
    monkeypatch.undo()
    assert_same(FeatureStore(path).get(list(stored)), stored)


def test_where_the_gate_cannot_be_locked_the_store_works_and_nothing_is_moved(path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    stored = vectors(200)
    FeatureStore(path).put(stored)
    assert_same(FeatureStore(path).get(list(stored)), stored)
    path.write_bytes(b"x" * 9000)
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert FeatureStore(path).get(list(stored)) == {}
    assert path.read_bytes() == b"x" * 9000


@pytest.mark.skipif(sys.platform != "linux", reason="XDG folders are Linux's")
def test_without_a_usable_xdg_folder_the_home_folder_holds_the_store(tmp_path, monkeypatch):
    monkeypatch.delenv("FEWSHOT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/folder", None):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_store_path().parent == tmp_path / ".cache" / "fewshot"


def test_a_relative_folder_stays_the_same_after_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", "mine")
    monkeypatch.chdir(tmp_path)
    store = FeatureStore()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put(vectors(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "mine"]
    assert len(store) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know the home folder otherwise")
def test_without_a_home_folder_work_goes_on(tmp_path, monkeypatch):
    import pwd

    def nobody(_):
        raise KeyError("no such user")

    monkeypatch.delenv("FEWSHOT_CACHE")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    store = FeatureStore()
    with pytest.warns(RuntimeWarning, match=r"no home folder is known.*FEWSHOT_CACHE"):
        store.put(vectors(1))
    assert store.get([b"key"]) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_given_as_the_store_gets_no_files_beside_it(tmp_path, monkeypatch):
    inside = tmp_path / "here"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for path in (".", inside):
        with pytest.warns(RuntimeWarning, match="cannot be used|FEWSHOT_CACHE"):
            FeatureStore(path).put({b"a": np.ones(3, np.float32)})
    assert list(inside.iterdir()) == []
    assert list(tmp_path.iterdir()) == [inside]
