"""Rows 38 to 43: the feature store on full disks, after kills, in company, damaged, of other versions, read-only."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from fewshot import FewShotClassifier
from fewshot.features import extract_views
from fewshot.store import FeatureStore, default_store_path, feature_key
from fewshot.store.upkeep import inspect, verify
from tests.stress_store import stress_kills, stress_processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's file systems and limits")


@contextmanager
def caught_warnings():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A store of the test's own, where users have theirs."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEWSHOT_CACHE", str(folder))
    return folder


@pytest.fixture
def disk(cache):
    """The user's store on a disk of its own: call it with options of mount."""
    cache.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(cache)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a file system")
        return cache

    yield mount
    subprocess.run(["umount", str(cache)], capture_output=True, check=False)


@pytest.fixture
def classify(backbone, two_fruits):
    """Train on fruits and predict others, as a user does: probabilities."""
    train, test = two_fruits

    def run(**options):
        classifier = FewShotClassifier(backbone=backbone, augmentation=None, representation="plain", **options)
        return classifier.fit(train).predict_proba(test.sources)

    return run


@linux
def test_38_a_full_disk_costs_one_warning_with_size_and_path_and_no_result(disk, classify):
    expected = classify(cache=False)
    folder = disk("size=100k")
    with caught_warnings() as caught:
        found = classify()
    np.testing.assert_array_equal(found, expected)
    assert len(caught) <= 2  # of fit and of predict
    for warning in caught:
        text = str(warning.message)
        assert str(folder) in text
        assert "kB were to be stored" in text
        assert "B are free" in text
    assert caught
    # No partial entry: what is there is whole.
    assert verify().is_sound
    assert verify().intact == inspect().vectors


@linux
def test_38_after_room_is_made_features_are_stored_again(disk, classify):
    folder = disk("size=100k")
    with caught_warnings():
        classify()
    subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
    expected = classify()
    assert inspect().vectors == 8 + 12
    np.testing.assert_array_equal(classify(), expected)


LIMITED = """
import resource, sys, warnings
import numpy as np
from fewshot.store import FeatureStore

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
store = FeatureStore(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for number in range(20):
        store.put({bytes([number, i]): np.full(1280, number, np.float32) for i in range(4)})
print(len(caught), caught[0].message)
"""


@linux
def test_38_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path):
    path = tmp_path / "features.sqlite"
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 ")
    assert str(path) in done.stdout
    assert "20.5 kB were to be stored" in done.stdout
    store = FeatureStore(path)
    found = store.get([bytes([number, i]) for number in range(20) for i in range(4)])
    assert 0 < len(found) < 80
    assert len(found) % 4 == 0
    for key, vector in found.items():
        np.testing.assert_array_equal(vector, np.full(1280, key[0], np.float32))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_39_a_killed_writer_leaves_a_store_that_opens_and_a_rerun_that_is_the_same(tmp_path):
    result, ok = stress_kills(tmp_path, 4, n_vectors=256)
    assert ok, result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("limit", [None, 4 << 20])
def test_40_two_processes_on_one_store_lose_and_double_nothing(tmp_path, limit):
    result, ok = stress_processes(tmp_path, 2, 1.5, limit, False)
    assert ok, result
    assert result["wrong"] == result["doubled"] == 0
    if limit is None:
        assert result["lost"] == 0


@pytest.mark.parametrize("damage", ["flipped", "cut off"])
def test_41_a_damaged_feature_is_computed_again_with_one_warning(cache, classify, damage):
    expected = classify()
    path = default_store_path()
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        vector = extract_one(path)
        position = content.find(vector[-200:])
        assert position > 0
        content[position + 7] ^= 0x10
    else:
        del content[len(content) * 3 // 4 :]
    path.write_bytes(content)
    with caught_warnings() as caught:
        np.testing.assert_array_equal(classify(), expected)
    assert 1 <= len(caught) <= 2  # of fit and of predict
    assert all("damaged" in str(warning.message) for warning in caught)
    np.testing.assert_array_equal(classify(), expected)  # mended: a warning would be an error
    assert verify().is_sound


def extract_one(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT vector FROM features ORDER BY id LIMIT 1").fetchone()[0]


def small_network(seed=0, **config):
    """A network of random weights and a few kilobytes."""
    import timm
    import torch

    from fewshot.backbones.timm import TimmNetwork

    torch.manual_seed(seed)
    model = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=0)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64), **config}
    network = TimmNetwork("small", model, "cpu")
    network.use_runtime("pytorch")
    return network


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"mean": (0.4, 0.5, 0.5)},
        {"std": (0.3, 0.2, 0.2)},
        {"interpolation": "nearest"},
        {"crop_pct": 0.5},
        {"input_size": (3, 96, 96)},
    ],
    ids=str,
)
def test_42_other_weights_or_preprocessing_are_never_mixed(tmp_path, picture, other):
    store = FeatureStore(tmp_path / "features.sqlite")
    first, second = small_network(), small_network(**other)
    extract_views(first, [picture], augmentation="light", n_views=1, store=store)
    found = extract_views(second, [picture], augmentation="light", n_views=1, store=store)
    assert len(store) == 4
    np.testing.assert_array_equal(found, extract_views(second, [picture], augmentation="light", n_views=1))
    again = extract_views(first, [picture], augmentation="light", n_views=1, store=store)
    np.testing.assert_array_equal(again, extract_views(first, [picture], augmentation="light", n_views=1))
    assert not np.array_equal(again, found)


@pytest.mark.parametrize("other", [{"seed": 1}, {"augmentation": "heavy"}, {"image": 1}], ids=str)
def test_42_other_images_views_or_seeds_are_never_mixed(tmp_path, picture, other):
    store, network = FeatureStore(tmp_path / "features.sqlite"), small_network()
    settings = {"augmentation": "light", "n_views": 2, "seed": 0}
    images = [picture + np.uint8(other.pop("image", 0))]
    extract_views(network, [picture], store=store, **settings)
    found = extract_views(network, images, store=store, **settings | other)
    np.testing.assert_array_equal(found, extract_views(network, images, **settings | other))


@pytest.mark.parametrize(("what", "n_new"), [("READER_VERSION", 4), ("VIEWS_VERSION", 3), ("pillow", 4), ("cv2", 3)])
def test_42_other_versions_of_what_reads_and_draws_are_never_mixed(tmp_path, picture, monkeypatch, what, n_new):
    from fewshot import features, versions

    store, network = FeatureStore(tmp_path / "features.sqlite"), small_network()
    extract_views(network, [picture], augmentation="light", n_views=3, store=store)
    before = versions.package_version
    if what == "cv2":
        monkeypatch.setattr("cv2.__version__", "0")
    elif what == "pillow":
        monkeypatch.setattr(versions, "package_version", lambda name: "0" if name == what else before(name))
    else:
        monkeypatch.setattr(features, what, 0)
    for kept in (features._versions, features._view_versions):
        kept.cache_clear()
    try:
        extract_views(network, [picture], augmentation="light", n_views=3, store=store)
    finally:
        monkeypatch.undo()
        for kept in (features._versions, features._view_versions):
            kept.cache_clear()
    assert len(store) == 4 + n_new


def test_42_a_store_of_another_version_is_left_alone(cache, classify):
    expected = classify()
    path = default_store_path()
    older = path.with_name("features-1.sqlite")
    path.rename(older)
    content = older.read_bytes()
    np.testing.assert_array_equal(classify(), expected)
    assert inspect().vectors == 8 + 12
    assert older.read_bytes() == content
    assert older in inspect().others


def test_42_keys_differ_where_any_part_does():
    parts = ("picture", "weights", "pytorch", "policy", 1, 0)
    keys = {feature_key(*parts[:i], "other", *parts[i + 1 :]) for i in range(len(parts))}
    assert len(keys | {feature_key(*parts)}) == 7


@linux
def test_43_a_read_only_folder_costs_one_warning_and_no_result(disk, classify):
    expected = classify(cache=False)
    disk("size=4m,ro")
    with caught_warnings() as caught:
        np.testing.assert_array_equal(classify(), expected)
    assert 1 <= len(caught) <= 2  # of fit and of predict
    assert all("FEWSHOT_CACHE" in str(warning.message) for warning in caught)


@linux
def test_43_what_a_read_only_folder_holds_is_used_without_a_warning(disk, classify, backbone, monkeypatch):
    folder = disk("size=4m")
    expected = classify()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    monkeypatch.setattr(type(backbone), "forward", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(classify(), expected)
    assert inspect().vectors == len(FeatureStore()) == 8 + 12


AS_NOBODY = """
import sys, warnings
import numpy as np
from fewshot.store import FeatureStore

store = FeatureStore(sys.argv[1])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = store.get([b"a", b"b"])
    for _ in range(2):
        store.put({b"c": np.ones(3, np.float32)})
    found = store.get([b"a", b"b"])
print(sorted(found), len(caught), caught[0].message if caught else "")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to be another user")
@pytest.mark.parametrize("rights", [0o755, 0o700])
def test_43_a_folder_of_another_user_costs_one_warning(rights):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.sqlite"
        FeatureStore(path).put({b"a": np.zeros(3, np.float32)})
        os.chmod(folder, rights)
        # The package may lie where only this user can read: the other one is given what was imported.
        program = "import os, numpy, sqlite3, fewshot.store, fewshot.files\nos.setuid(65534)\n" + AS_NOBODY
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    readable = "[b'a'] 1 " if rights == 0o755 else "[] 1 "
    assert done.stdout.startswith(readable), done.stdout
    assert str(path) in done.stdout
