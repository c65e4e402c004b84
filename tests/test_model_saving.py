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
from fewshot.modelfile import check_target, replacing
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
    classifier.save(tmp_path / "model")
    away = replacing._beside(tmp_path / "model", ".old")
    (tmp_path / "model").rename(away)
    replacing._beside(tmp_path / "model", ".saving").mkdir()
    before = sorted(tmp_path.iterdir())
    fewshot.load(tmp_path / "model")
    # Reading changes nothing.
    assert sorted(tmp_path.iterdir()) == before
    classifier.save(tmp_path / "model")
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
    classifier = fewshot.FewShotClassifier(head="knn", augmentation="light", n_views=3, representation="plain")
    classifier.fit(two_fruits[0]).save(tmp_path / "source")
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
    assert "kB are free" in done.stdout
    assert f"The model needs {size / 1e3:.1f} kB" in done.stdout


def test_a_full_disk_is_seen_in_whatever_step(two_fruits, tmp_path, monkeypatch):
    classifier = fewshot.FewShotClassifier(augmentation="none").fit(two_fruits[0])
    classifier.save(tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((os, "fsync"), (replacing, "sync"), (replacing, "_move"), (Path, "mkdir")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(ModelFileError, match=r"the disk is full.*The model needs \d+\.\d kB\."):
                classifier.save(tmp_path / "model")
        assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["model"]


def refuse_renames(path):
    """Make a folder one that cannot be renamed, as a mount point is."""

    def refuse(fresh, target):
        assert target == path
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))

    return refuse


def test_a_folder_that_cannot_be_replaced_gets_its_files_replaced(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setattr(replacing, "_move", refuse_renames(model))
    inode = model.stat().st_ino
    for word in "xy":
        replace_folder(model, files(word))
        assert holds(model) == word
    assert model.stat().st_ino == inode
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("old", [None, "x"])
@pytest.mark.parametrize("failing", [1, 2])
def test_files_that_cannot_all_be_replaced_are_put_back(old, failing, tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setattr(replacing, "_move", refuse_renames(model))
    if old:
        replace_folder(model, files(old))
    replace, calls = os.replace, []

    def fail(source, target):
        calls.append(Path(target).name)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            replace_folder(model, files("y"))
    # The configuration comes last.
    assert calls[:failing] == ["model.safetensors", "config.json"][:failing]
    if old:
        assert holds(model) == old
    else:
        assert list(model.iterdir()) == []


def test_what_a_killed_save_left_in_a_folder_is_no_obstacle(two_fruits, tmp_path, monkeypatch):
    model = tmp_path / "model"
    classifier = fewshot.FewShotClassifier(augmentation="none").fit(two_fruits[0])
    classifier.save(model)
    (model / "config.json").unlink()
    with pytest.raises(ModelFileError, match="not overwritten"):
        check_target(model)
    replacing._beside(model / "files", ".saving").mkdir()
    check_target(model)
    monkeypatch.setattr(replacing, "_move", refuse_renames(model))
    classifier.save(model)
    assert sorted(p.name for p in model.iterdir()) == ["README.md", "config.json", "model.safetensors"]


MOUNTED = """
import os, pathlib, sys, fewshot
model = pathlib.Path(sys.argv[1])
extra = ["lost+found"] if os.path.ismount(model) else []
for name in extra:
    (model / name).mkdir()
classifier = fewshot.load(sys.argv[2])
for _ in range(2):
    classifier.save(model)
    names = sorted(p.name for p in model.iterdir())
    assert names == sorted(["README.md", "config.json", "model.safetensors", *extra]), names
    fewshot.load(model)
assert [p.name for p in model.parent.iterdir()] == [model.name]
"""


@pytest.mark.parametrize(
    "mount", ['mount -t tmpfs none "$1"', 'mount --bind "$1" "$1"'], ids=["other disk", "same disk"]
)
def test_a_model_is_saved_into_a_mount_point(mount, two_fruits, tmp_path):
    fewshot.FewShotClassifier(augmentation="none").fit(two_fruits[0]).save(tmp_path / "source")
    model = tmp_path / "place/model"
    model.mkdir(parents=True)
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && shift && exec "$@"', "sh", str(model)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare -rm and mount")
    program = [sys.executable, "-W", "ignore", "-c", MOUNTED, str(model), str(tmp_path / "source")]
    done = subprocess.run([*command, *program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CLOSED = """
import os, pathlib, sys
from fewshot.modelfile import check_target
from fewshot.modelfile.replacing import replace_folder
model = pathlib.Path(sys.argv[1])
check_target(model)
replace_folder(model, {"config.json": b"{}", "README.md": b"x"})
assert sorted(os.listdir(model)) == ["README.md", "config.json"]
try:
    check_target(model.parent / "other")
except Exception as error:
    print(error)
"""


def test_a_folder_in_one_that_cannot_be_written_to_is_written_to(tmp_path):
    place = tmp_path / "place"
    (place / "model").mkdir(parents=True)
    mount = 'mount --bind "$1" "$1" && mount -t tmpfs none "$1/model" && mount -o remount,bind,ro "$1" && shift'
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", str(place)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare -rm and mount")
    program = [sys.executable, "-W", "ignore", "-c", CLOSED, str(place / "model")]
    done = subprocess.run([*command, *program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{place} is no folder that can be written to" in done.stdout


def test_a_folder_whose_parent_is_closed_by_permissions_is_written_to(tmp_path, monkeypatch):
    model = tmp_path / "place/model"
    model.mkdir(parents=True)
    mkdir = Path.mkdir

    def closed(path, *args, **options):
        if path.parent == model.parent and path != model:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", closed)
    check_target(model)
    replace_folder(model, files("x"))
    assert holds(model) == "x"
