"""Looking after the store: info, verify, clear, limit, from Python and from the command line."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fewshot.cli import main
from fewshot.errors import OutputError
from fewshot.store import FeatureStore, default_store_path, feature_key, gate
from fewshot.store.place import Place, keep_limit
from fewshot.store.upkeep import clear, inspect, set_limit, verify


def vectors(count, size=1280, seed=0):
    rng = np.random.default_rng(seed)
    return {feature_key(seed, i): rng.standard_normal(size).astype(np.float32) for i in range(count)}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The user's own store."""
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return default_store_path()


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `fewshot cache ...` in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fewshot", "cache", *arguments])
        capsys.readouterr()
        try:
            code = main() or 0
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


def spoil_page(path, number):
    data = bytearray(path.read_bytes())
    data[4096 * number : 4096 * (number + 1)] = b"\xff" * 4096
    path.write_bytes(data)


def test_info_of_no_store(path, run):
    found = inspect()
    assert (found.path, found.origin, found.vectors, found.size_bytes) == (path, "FEWSHOT_CACHE", 0, 0)
    assert (found.limit_bytes, found.limit_origin, found.makers, found.others) == (2 << 30, "default", (), {})
    assert not path.parent.exists()
    code, printed, _ = run("info")
    assert code == 0
    assert "vectors  0" in printed


def test_info_counts_by_backbone(path, run):
    store = FeatureStore()
    store.put(vectors(5), made_by="small 1234 pytorch")
    store.put(vectors(9, seed=1), made_by="large 5678 openvino")
    store.put(vectors(1, seed=2))
    older = path.with_name("features-1.sqlite")
    older.write_bytes(b"x" * 70_000)
    found = inspect()
    assert [(maker.name, maker.vectors) for maker in found.makers] == [
        ("large 5678 openvino", 9),
        ("small 1234 pytorch", 5),
        ("", 1),
    ]
    assert found.vectors == 15
    assert found.others == {older: 70_000}
    code, printed, _ = run("info", "--json")
    data = json.loads(printed)
    assert code == 0
    assert data["path"] == str(path)
    assert data["vectors"] == 15
    assert data["size_bytes"] == path.stat().st_size
    assert data["others"] == {str(older): 70_000}
    assert data["oldest_use"] <= data["newest_use"]
    _, printed, _ = run("info")
    assert "large 5678 openvino" in printed
    assert "features-1.sqlite" in printed


def test_info_of_a_damaged_file_says_so_and_changes_nothing(path, run):
    FeatureStore().put(vectors(2))
    path.write_bytes(b"x" * 9000)
    code, printed, _ = run("info", "--json")
    assert code == 1
    assert "not a database" in json.loads(printed)["problem"]
    assert path.read_bytes() == b"x" * 9000


def test_a_sound_store_is_verified(path, run):
    FeatureStore().put(vectors(600, size=8))
    code, printed, _ = run("verify", "--json")
    assert code == 0
    assert json.loads(printed) == {"intact": 600, "damaged": 0, "rebuilt": False, "rescued": 0, "sound": True}
    assert verify(path.with_name("none.sqlite")).is_sound


def test_verify_removes_damaged_rows_and_says_how_many(path, run):
    stored = vectors(600, size=8)
    FeatureStore().put(stored)
    first, second, third, *_ = stored
    change(path, "UPDATE features SET vector = ? WHERE key = ?", b"\0" * 32, first)
    change(path, "UPDATE features SET key = ? WHERE key = ?", b"other", second)
    change(path, "UPDATE features SET digest = 7 WHERE key = ?", third)
    code, printed, _ = run("verify")
    assert code == 1
    assert "597 vectors are intact" in printed
    assert "3 were damaged" in printed
    assert run("verify")[0] == 0
    assert FeatureStore().get(list(stored)).keys() == stored.keys() - {first, second, third}


def test_verify_rebuilds_a_damaged_file_from_what_is_intact(path, run):
    stored = vectors(300)
    FeatureStore().put(stored)
    pages = path.stat().st_size // 4096
    for number in (pages // 3, pages // 2, pages - 2):
        spoil_page(path, number)
    code, printed, _ = run("verify", "--json")
    found = json.loads(printed)
    assert code == 1
    assert found["rebuilt"]
    assert 285 <= found["intact"] == found["rescued"] < 300
    assert verify().is_sound
    for key, vector in FeatureStore().get(list(stored)).items():
        assert vector.tobytes() == stored[key].tobytes()
    assert not list(path.parent.glob("*.damaged*"))


def test_verify_rebuilds_a_file_without_its_first_page(path):
    stored = vectors(300)
    FeatureStore().put(stored)
    data = bytearray(path.read_bytes())
    data[:1000] = bytes(1000)
    path.write_bytes(data)
    assert verify().rescued == 300
    assert len(FeatureStore().get(list(stored))) == 300


def test_what_was_put_aside_earlier_is_rescued_without_harm_to_what_is_newer(path):
    stored = vectors(20)
    FeatureStore().put(stored)
    path.rename(path.with_name(f"{path.name}.damaged"))  # as a kill in the middle of a repair leaves it
    newer = dict.fromkeys(list(stored)[:3], np.ones(2, np.float32)) | vectors(2, seed=1)
    FeatureStore().put(newer)
    found = verify()
    assert found.is_sound
    assert (found.intact, found.rescued) == (22, 20)
    assert {key: v.tobytes() for key, v in FeatureStore().get(list(newer)).items()} == {
        key: v.tobytes() for key, v in newer.items()
    }
    assert not list(path.parent.glob("*.damaged*"))


def test_clear_removes_every_version_and_keeps_the_limit(path, run):
    keep_limit(path, 1 << 30)
    FeatureStore().put(vectors(3))
    for name in (
        "features-1.sqlite",
        "features-1.sqlite-wal",
        f"{path.name}.damaged",
        "other.sqlite",
        "features-x.sqlite",
    ):
        path.with_name(name).write_bytes(b"x" * 1000)
    size = inspect().size_bytes
    code, printed, _ = run("clear", "--yes", "--json")
    assert code == 0
    assert json.loads(printed) == {"path": str(path), "freed_bytes": size + 3000}
    kept = {file.name for file in path.parent.iterdir() if not file.name.endswith(".lock")}
    assert kept == {"other.sqlite", "features-x.sqlite", "fewshot-cache.json"}
    assert inspect().limit_bytes == 1 << 30
    assert clear() == 0


def test_clear_asks(path, run, monkeypatch):
    FeatureStore().put(vectors(3))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert run("clear")[0] == 1
    assert len(FeatureStore()) == 3
    assert run("clear", "--json")[0] == 2
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert run("clear")[0] == 0
    assert len(FeatureStore()) == 0


def test_clear_while_others_use_the_store(path):
    stored = vectors(40, size=64)
    problems, done = [], threading.Event()

    def use():
        store = FeatureStore()
        while not done.is_set():
            try:
                store.put(stored)
                for key, vector in store.get(list(stored)).items():
                    assert vector.tobytes() == stored[key].tobytes()
            except BaseException as error:
                problems.append(error)
                return

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        clear()
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_clear_does_not_wait_for_ever(path, monkeypatch):
    FeatureStore().put(vectors(3))
    monkeypatch.setattr(gate, "_PATIENCE", 0.05)
    with gate.gate(path), pytest.raises(OutputError, match="other processes have kept it"):
        clear()
    assert len(FeatureStore()) == 3


def test_limit_is_shown_kept_and_kept_to(path, run, monkeypatch):
    store = FeatureStore()
    store.put(vectors(600))
    assert "2.1 GB (default)" in run("limit")[1]
    code, printed, _ = run("limit", "1 MiB", "--json")
    data = json.loads(printed)
    assert code == 0
    assert (data["limit_bytes"], data["origin"]) == (1 << 20, "setting")
    assert path.stat().st_size <= 1 << 20
    assert data["removed"] == 600 - len(store) > 400
    assert verify().is_sound
    assert FeatureStore().limit_bytes == 1 << 20
    monkeypatch.setenv("FEWSHOT_CACHE_LIMIT", "3GB")
    _, printed, errors = run("limit", "2GB")
    assert "3.0 GB (FEWSHOT_CACHE_LIMIT)" in printed
    assert "FEWSHOT_CACHE_LIMIT is set" in errors
    assert run("limit", "much")[0] == 2
    monkeypatch.setenv("FEWSHOT_CACHE_LIMIT", "much")
    assert run("limit")[0] == 2


def test_a_limit_of_nothing_removes_everything(path):
    FeatureStore().put(vectors(4))
    assert set_limit(0) == 4
    assert not path.exists()
    assert set_limit(1 << 30) == 0


def test_what_cannot_be_changed_is_an_error_that_says_why(tmp_path, run, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "file"))
    for command in (["limit", "1GB"], ["clear", "--yes"]):
        code, _, errors = run(*command)
        assert code == 1, command
        assert str(tmp_path / "file") in errors
    assert run("verify")[0] == 0


def test_the_commands_need_neither_torch_nor_numpy_to_start():
    program = (
        "import sys, fewshot.cli.cache; print([m for m in ('torch', 'timm', 'numpy', 'sqlite3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_place_can_be_given(tmp_path):
    path = tmp_path / "mine.sqlite"
    FeatureStore(path).put(vectors(2), made_by="me")
    found = inspect(Place(path, "argument"))
    assert (found.vectors, found.origin, found.others) == (2, "argument", {})


@pytest.mark.skipif(gate.fcntl is None, reason="without locks no gate")
def test_the_gate_lets_in_many_or_one(tmp_path):
    path, order = tmp_path / "store", []
    with gate.gate(path) as first, gate.gate(path) as second:
        assert first
        assert second

        def alone():
            with gate.gate(path, alone=True):
                order.append("alone")

        thread = threading.Thread(target=alone)
        thread.start()
        thread.join(0.1)
        order.append("shared")
    thread.join()
    assert order == ["shared", "alone"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with gate.gate(Path(os.devnull) / "nowhere") as held:
            assert not held
