"""Row 36: features that are NaN, infinite or the same for every image."""

import numpy as np
import pytest
from PIL import Image

from fewshot import FewShotClassifier, benchmark, compare, load_backbone
from fewshot.errors import FeatureError
from fewshot.store import FeatureStore


class _Broken:
    """A network whose weights have overflowed for bright pictures, or which is dead."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, pixels):
        rows = np.ones((len(pixels), 1280), np.float32)
        if self.kind != "constant":
            rows[pixels.mean(axis=(1, 2, 3)) > 128] = {"nan": np.nan, "infinite": np.inf}[self.kind]
        return rows


@pytest.fixture
def broken(monkeypatch):
    def make(kind):
        backbone = load_backbone("efficientnet_lite0", runtime="pytorch")
        network = backbone.networks[0]
        monkeypatch.setattr(type(network), "forward", lambda self, pixels: _Broken(kind)(pixels))
        # Another fingerprint: what this network makes must not be taken for the real one's.
        monkeypatch.setattr(network, "fingerprint", f"broken-{kind}")
        return backbone

    return make


@pytest.fixture
def folder(tmp_path):
    for name, grey in (("dark", 10), ("bright", 240)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng([grey, index]).integers(grey - 10, grey + 10, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["nan", "infinite"])
def test_36_features_that_are_not_finite_name_the_images_and_the_backbone(broken, folder, kind):
    images = [str(path) for path in sorted(folder.rglob("*.png"))]
    classifier = FewShotClassifier(backbone=broken(kind), augmentation="none", representation="plain")
    with pytest.raises(
        FeatureError, match="efficientnet_lite0 gives features that are NaN or infinite for 2"
    ) as caught:
        classifier.fit(images, [path.split("/")[-2] for path in images])
    assert "bright/0.png" in str(caught.value)
    assert "dark" not in str(caught.value)


def test_36_no_such_feature_is_stored(broken, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "own"))
    images = [str(path) for path in sorted(folder.rglob("*.png"))]
    with pytest.raises(FeatureError):
        FewShotClassifier(backbone=broken("nan"), augmentation="none", representation="plain").fit(
            images, ["a", "a", "b", "b"]
        )
    assert len(FeatureStore()) == 0


def test_36_the_same_features_for_every_image_name_the_images_and_the_backbone(broken, folder):
    backbone = broken("constant")
    said = r"efficientnet_lite0 gives the same features for all 4 images .*0\.png"
    images = [str(path) for path in sorted(folder.rglob("*.png"))]
    with pytest.raises(FeatureError, match=said):
        FewShotClassifier(backbone=backbone, augmentation="none", representation="plain").fit(
            images, ["a", "a", "b", "b"]
        )
    with pytest.raises(FeatureError, match=said):
        compare(folder, strategies=["prototypical"], backbone=backbone)
    with pytest.raises(FeatureError, match=said):
        benchmark(folder, strategies=["prototypical"], backbones=backbone, n_way=2, k_shots=1, n_query=1, n_episodes=2)
