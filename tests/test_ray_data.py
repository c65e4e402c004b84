"""Extraction with Ray: the same features to the last bit, with columns kept and unreadable images named."""

import logging

import numpy as np
import pytest

from fewshot import load_backbone, ray_data
from fewshot.errors import InvalidInputError, MissingExtraError, UnknownNameError
from fewshot.features import extract_views
from fewshot.ray_data import extract_with_ray

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

# Ray's own: deprecations of its dependencies, and sockets that it leaves to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture
def in_this_process(monkeypatch):
    """Put back what a worker sets for its own process."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")


@pytest.fixture
def paths(fruits, tmp_path):
    """Write eleven photos and a file that is none."""
    written = []
    for index, source in enumerate(fruits["test"].sources[:11]):
        written.append(tmp_path / f"{index:02}.jpg")
        written[-1].write_bytes(source)
    written.insert(5, tmp_path / "05-broken.jpg")
    written[5].write_bytes(b"not a picture")
    return written


def test_features_equal_those_without_ray(cluster, paths):
    result = extract_with_ray(paths, batch_size=5)
    rows = sorted(result.take_all(), key=lambda row: row["path"])
    order = sorted(map(str, paths))
    assert [row["path"] for row in rows] == order
    assert [row["error"] for row in rows] == ["NOT_AN_IMAGE" if "broken" in path else "" for path in order]
    good = [path for path in order if "broken" not in path]
    features = np.stack([row["features"] for row in rows])
    assert features.dtype == np.float32
    expected = extract_views(load_backbone(device="cpu"), good)[:, 0]
    np.testing.assert_array_equal(features[[not row["error"] for row in rows]], expected)
    assert np.isnan(features[[bool(row["error"]) for row in rows]]).all()


def test_a_dataset_keeps_its_columns(cluster, fruits):
    sources = fruits["test"].sources[:3]
    dataset = ray.data.from_items([{"bytes": source, "id": index} for index, source in enumerate(sources)])
    rows = sorted(extract_with_ray(dataset, concurrency=1).take_all(), key=lambda row: row["id"])
    assert set(rows[0]) == {"bytes", "id", "features", "error"}
    expected = load_backbone(device="cpu").extract(sources)
    np.testing.assert_array_equal(np.stack([row["features"] for row in rows]), expected)
    with pytest.raises(InvalidInputError, match=r"columns \['id'\]; needs 'path' or 'bytes'"):
        extract_with_ray(ray.data.from_items([{"id": 1}]))


def test_a_worker_refuses_weights_other_than_the_callers(in_this_process):
    with pytest.raises(ray_data.WeightsNotFoundError, match="not those of the machine that asked"):
        ray_data._Worker("efficientnet_lite0", "another", "pytorch", "path")


def test_batches_without_a_readable_image_and_several_networks(paths, in_this_process):
    spec = "efficientnet_lite0+efficientnet_lite2"
    backbone = load_backbone(spec, device="cpu")
    worker = ray_data._Worker(spec, backbone.fingerprint, backbone.networks[0].runtime_name, "path")
    broken = worker({"path": np.array([str(paths[5])], dtype=object)})
    assert broken["features"].shape == (1, backbone.n_features)
    assert np.isnan(broken["features"]).all()
    whole = worker({"path": np.array([str(path) for path in paths[4:7]], dtype=object)})
    np.testing.assert_array_equal(whole["features"][[0, 2]], backbone.extract([paths[4], paths[6]]))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "no images"),
        ("photo.jpg", {}, "Got one image"),
        (["photo.jpg", b"bytes"], {}, "not both"),
        (["photo.jpg"], {"concurrency": 0}, "concurrency=0"),
        (["photo.jpg"], {"batch_size": 2.5}, "batch_size=2.5"),
        (["photo.jpg"], {"backbone": 3}, "needs a name"),
    ],
)
def test_wrong_arguments_are_refused(images, options, message):
    with pytest.raises(InvalidInputError, match=message):
        extract_with_ray(images, **options)


def test_a_misspelt_backbone_is_an_error_of_the_call():
    with pytest.raises(UnknownNameError, match="Did you mean 'efficientnet_lite0'"):
        extract_with_ray(["photo.jpg"], backbone="efficientnet_lit0")


def test_without_ray_the_message_has_the_command(monkeypatch):
    monkeypatch.setattr(ray_data, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewshot\[ray\]'"):
        extract_with_ray(["photo.jpg"])
