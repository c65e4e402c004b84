"""Saving a model replaces the old one in one step: whatever happens, what is there is the old one or the new one."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fewshot
from fewshot.errors import ModelFileError
from fewshot.modelfile import replacing
from fewshot.modelfile.replacing import exchange, recover, replace_folder

FORKS = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def files(word, size=200_000):
    """Make the contents of a folder that says one word everywhere."""
    return {"config.json": f'{{"schema": "{word}"}}'.encode(), "model.safetensors": word.encode() * size}


def holds(folder):
    """Which word a folder holds; it fails on a mixture."""
    found = {file.name: file.read_bytes() for file in folder.iterdir()}
    word = found["config.json"].decode().split('"')[3]
    assert found == files(word)
    return word


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """Both ways: with and without a system that exchanges two folders."""
    if request.param == "renames":
        monkeypatch.setattr(replacing, "exchange", lambda first, second: False)
    return request.param


def test_a_folder_is_made_and_replaced_and_nothing_else_is_left(way, tmp_path):
    replace_folder(tmp_path / "a/b/model", files("x"))
    replace_folder(tmp_path / "a/b/model", files("y"))
    assert holds(tmp_path / "a/b/model") == "y"
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["model"]


def test_a_name_of_255_bytes_works(way, tmp_path):
    path = tmp_path / ("é" * 127 + "a")
    replace_folder(path, files("x"))
    replace_folder(path, files("y"))
    assert holds(path) == "y"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the system cannot exchange two names")
def test_two_folders_are_exchanged(tmp_path):
    for word in "xy":
        replace_folder(tmp_path / word, files(word))
    if not exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("this file system cannot exchange two names")
    assert (holds(tmp_path / "x"), holds(tmp_path / "y")) == ("y", "x")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "x", tmp_path / "nothing")


def test_what_a_killed_save_left_is_removed_by_the_next_and_other_folders_stay(way, tmp_path):
    replace_folder(tmp_path / "model", files("x"))
    for name in ("model", "other"):
        for ending in (".saving", ".old"):
            left = replacing._beside(tmp_path / name, ending)
            left.mkdir()
            (left / "config.json").write_bytes(b"half")
    (tmp_path / ".fewshot-mine").mkdir()
    replace_folder(tmp_path / "model", files("y"))
    assert holds(tmp_path / "model") == "y"
    left = sorted(p.name for p in tmp_path.iterdir())
    prefix = replacing._prefix(tmp_path / "other")
    assert [name.startswith(prefix) for name in left] == [name not in (".fewshot-mine", "model") for name in left]
    assert len(left) == 4


def test_an_old_folder_whose_successor_never_came_is_moved_back(tmp_path):
    replace_folder(tmp_path / "model", files("x"))
    # Killed between the two renames.
    (tmp_path / "model").rename(replacing._beside(tmp_path / "model", ".old"))
    replacing._beside(tmp_path / "model", ".saving").mkdir()
    recover(tmp_path / "model")
    assert holds(tmp_path / "model") == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_loading_and_saving_find_an_old_model_that_was_moved_away(two_fruits, tmp_path):
    classifier = fewshot.FewShotClassifier(augmentation="none").fit(two_fruits[0])
    for use in (lambda: fewshot.load(tmp_path / "model"), lambda: classifier.save(tmp_path / "model")):
        classifier.save(tmp_path / "model")
        (tmp_path / "model").rename(replacing._beside(tmp_path / "model", ".old"))
        use()
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
        fewshot.load(tmp_path / "model")


def test_a_failure_half_way_leaves_the_old_folder_and_nothing_else(way, tmp_path, monkeypatch):
    replace_folder(tmp_path / "model", files("x"))

    def fail(*_):
        raise OSError(errno.EIO, "broken")

    for name in ("_move", "sync"):
        with monkeypatch.context() as patch:
            patch.setattr(replacing, name, fail)
            with pytest.raises(OSError, match="broken"):
                replace_folder(tmp_path / "model", files("y"))
        assert holds(tmp_path / "model") == "x"
        assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_waits_for_another_and_gives_up_in_the_end(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(replacing, "_PATIENCE", 0.2)
    with replacing._locked(tmp_path) as alone:
        assert alone
        with pytest.raises(TimeoutError, match="another process"):
            replace_folder(tmp_path / "model", files("x"))
    replace_folder(tmp_path / "model", files("x"))


def test_without_locks_what_is_young_may_be_anothers_work(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing, "fcntl", None)
    young, old = (replacing._beside(tmp_path / "model", ".saving") for _ in range(2))
    for place in (young, old):
        place.mkdir()
    os.utime(old, (0, 0))
    replace_folder(tmp_path / "model", files("x"))
    assert young.is_dir()
    assert not old.exists()


def test_a_system_without_an_exchange_of_names_is_told_by_its_answer(tmp_path, monkeypatch):
    codes = [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EBUSY]

    def refuse(first, second):
        replacing.ctypes.set_errno(codes.pop(0))
        return -1

    monkeypatch.setattr(replacing, "_exchange_call", lambda: refuse)
    for _ in range(3):
        assert exchange(tmp_path, tmp_path) is False
    with pytest.raises(OSError, match="busy"):
        exchange(tmp_path, tmp_path)
    monkeypatch.setattr(replacing, "_exchange_call", lambda: None)
    assert exchange(tmp_path, tmp_path) is False


def save_often(path, word, times, barrier):
    barrier.wait()
    for _ in range(times):
        replace_folder(path, files(word))


@FORKS
def test_two_processes_save_to_one_place_and_the_last_one_wins(way, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=save_often, args=(tmp_path / "model", w, 15, barrier)) for w in "xy"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert holds(tmp_path / "model") in "xy"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_reader_never_gets_a_mixture_of_two_models(two_fruits, tmp_path):
    first, second = (
        fewshot.FewShotClassifier(head="prototypical", augmentation="none").fit(data) for data in two_fruits
    )
    first.save(tmp_path / "model")
    contents = []
    for classifier in (second, first):
        classifier.save(tmp_path / "model")
        contents.append({file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()})
    done = threading.Event()

    def swap():
        while not done.is_set():
            for content in contents:
                replace_folder(tmp_path / "model", content)

    writer = threading.Thread(target=swap)
    writer.start()
    try:
        known = [c.head_.state_["prototypes"].numpy() for c in (first, second)]
        until, loads = time.monotonic() + 1.5, 0
        while time.monotonic() < until or loads < 5:
            found = fewshot.load(tmp_path / "model").head_.state_["prototypes"].numpy()
            assert any(np.array_equal(found, one) for one in known)
            loads += 1
    finally:
        done.set()
        writer.join()


@FORKS
def test_a_save_killed_at_any_moment_leaves_the_old_folder_or_the_new_one(way, tmp_path):
    replace_folder(tmp_path / "model", files("x"))
    rng = np.random.default_rng(0)
    for turn in range(15):
        child = os.fork()
        if child == 0:
            try:
                replace_folder(tmp_path / "model", files("y" if turn % 2 else "x"))
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        recover(tmp_path / "model")
        assert holds(tmp_path / "model") in "xy"
    replace_folder(tmp_path / "model", files("x"))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


FULL = """
import sys, pathlib, fewshot
from fewshot.errors import ModelFileError
place = pathlib.Path(sys.argv[1])
classifier = fewshot.load(sys.argv[2])
classifier.save(place / "model")
before = {p.name: p.read_bytes() for p in (place / "model").iterdir()}
(place / "ballast").write_bytes(b"x" * (int(sys.argv[3]) - sum(map(len, before.values())) - 60_000))
try:
    classifier.save(place / "model")
except ModelFileError as error:
    print(error)
assert {p.name: p.read_bytes() for p in (place / "model").iterdir()} == before
assert sorted(p.name for p in place.iterdir()) == ["ballast", "model"]
(place / "ballast").unlink()
classifier.save(place / "model")
"""


def test_a_full_disk_is_an_error_with_the_size_and_the_old_model_stays(two_fruits, tmp_path):
    fewshot.FewShotClassifier(head="knn", augmentation="light", n_views=3).fit(two_fruits[0]).save(tmp_path / "source")
    size = sum(file.stat().st_size for file in (tmp_path / "source").iterdir())
    place, limit = tmp_path / "place", int(2.3 * size + 65536) // 4096 * 4096
    place.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size={limit} none "$1" && shift && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*mount, str(place), "true"], capture_output=True).returncode:
        pytest.skip("needs unshare -rm and tmpfs")
    command = [sys.executable, "-W", "ignore", "-c", FULL, str(place), str(tmp_path / "source"), str(limit)]
    done = subprocess.run([*mount, str(place), *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{place}/model cannot be written: the disk is full" in done.stdout
    assert "MB are free" in done.stdout
    assert f"The model needs {size / 1e6:.1f} MB" in done.stdout


def test_a_full_disk_is_seen_in_whatever_step(two_fruits, tmp_path, monkeypatch):
    classifier = fewshot.FewShotClassifier(augmentation="none").fit(two_fruits[0])
    classifier.save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((os, "fsync"), (replacing, "sync"), (replacing, "_move"), (Path, "mkdir")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(ModelFileError, match=r"the disk is full.*The model needs 0\.0 MB"):
                classifier.save(tmp_path / "model")
        assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
