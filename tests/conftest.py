"""Shared fixtures. Tests use no network, and leave the user's feature store alone."""

import os
import signal
import subprocess

# Before torch is imported: spinning threads collapse when a core is busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
# Started in the background, tests and what they start would ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True, scope="session")
def _own_store(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("store")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def backbone():
    from fewshot import load_backbone

    return load_backbone("efficientnet_lite0")


@pytest.fixture(scope="session")
def fruits():
    """Real photographs: the demo's data sets."""
    from fewshot.images.fruits import load_fruits

    return load_fruits()


@pytest.fixture(scope="session")
def two_fruits(fruits):
    """(train, test) of two fruits: 4 and 6 photos of each."""
    return tuple(_some(fruits[split], ("Granny-Smith", "Orange"), n) for split, n in (("train", 4), ("test", 6)))


@pytest.fixture
def fruit_folder(two_fruits, tmp_path):
    """Make train and test folders of two fruits, one folder per class."""
    for split, dataset in zip(("train", "test"), two_fruits, strict=True):
        for source, label, name in zip(dataset.sources, dataset.labels, dataset.names, strict=True):
            path = tmp_path / split / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
    return tmp_path


@pytest.fixture
def colour_image():
    """Make a picture of one colour with some noise, so that two are never the same."""

    def make(colour, seed=0, size=(64, 64)):
        noise = np.random.default_rng(seed).integers(0, 40, (*size, 3))
        return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))

    return make


@pytest.fixture
def small_disk(tmp_path):
    """Make a disk of so many bytes; skip where mounting one is not permitted."""
    mounted = []

    def mount(size, options=""):
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except OSError:
            pytest.skip("there is no mount here")
        if done.returncode:
            pytest.skip("mounting a small disk needs privileges")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _some(dataset, names, count):
    from dataclasses import replace

    chosen = [i for name in names for i in np.flatnonzero(np.array(dataset.labels) == name)[:count]]
    return replace(dataset.subset(chosen), class_names=tuple(sorted(names)))
