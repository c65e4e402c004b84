"""Runtimes: OpenVINO gives PyTorch's features, whatever shares the batch, and where it cannot, PyTorch takes over."""

import copy
import pickle
import subprocess
import sys
import threading
import warnings

import joblib
import numpy as np
import pytest
import torch

from fewshot import FewShotClassifier, load_backbone
from fewshot.backbones import openvino, runtime
from fewshot.backbones.base import Network
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError, MissingExtraError, UnknownNameError
from fewshot.features import extract_views
from fewshot.images.fruits import load_fruits
from fewshot.modelfile import load
from fewshot.store import FeatureStore

needs_openvino = pytest.mark.skipif(not openvino.is_installed(), reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def pytorch():
    return load_backbone(runtime="pytorch")


@pytest.fixture(scope="module")
def compiled():
    # Not importorskip: that would import OpenVINO with its telemetry.
    if not openvino.is_installed():
        pytest.skip("OpenVINO is not installed")
    return load_backbone(runtime="openvino")


@pytest.fixture(scope="module")
def images():
    return load_fruits()["test"].sources[:9]


@pytest.fixture
def fresh(pytorch):
    """Make a network that has not chosen yet how it is executed, sharing nothing with the cached one."""

    def make(choice):
        network = copy.copy(pytorch.networks[0])
        network.use_runtime(choice)
        return network

    return make


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_features_are_pytorchs(compiled, pytorch, images):
    assert compiled.networks[0].runtime_name == "openvino"
    assert pytorch.networks[0].runtime_name == "pytorch"
    assert compiled.fingerprint == pytorch.fingerprint
    ours, theirs = compiled.extract(images), pytorch.extract(images)
    assert ours.dtype == np.float32
    assert cosines(ours, theirs).min() >= 0.99999
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_features_depend_on_neither_batch_mates_nor_repetition(compiled, images):
    features = compiled.extract(images)
    np.testing.assert_array_equal(compiled.extract(images[3:5]), features[3:5])
    np.testing.assert_array_equal(compiled.extract(images[::-1]), features[::-1])
    np.testing.assert_array_equal(
        compiled.extract([images[0], images[0], images[1], images[0]]), features[[0, 0, 1, 0]]
    )
    assert compiled.extract([]).shape == (0, 1280)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_features_do_not_depend_on_the_number_of_workers(compiled, fresh, images, monkeypatch, n_workers):
    features = compiled.extract(images)
    monkeypatch.setattr(joblib, "cpu_count", lambda: n_workers)
    np.testing.assert_array_equal(fresh("openvino").extract(images), features)
    np.testing.assert_array_equal(compiled.extract(images), features)


@needs_openvino
def test_threads_that_start_a_network_at_once_compile_it_once(fresh, images, monkeypatch):
    network, made = fresh("openvino"), []
    real = openvino.CompiledNetwork
    monkeypatch.setattr(openvino, "CompiledNetwork", lambda *args: made.append(1) or real(*args))
    threads = [threading.Thread(target=network.extract, args=(images[:2],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_copies_compile_their_own(compiled, images):
    expected = compiled.extract(images[:2])
    np.testing.assert_array_equal(copy.deepcopy(compiled).extract(images[:2]), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(compiled)).extract(images[:2]), expected)


@needs_openvino
def test_auto_takes_openvino_where_it_is_installed_and_the_environment_decides_otherwise(monkeypatch):
    monkeypatch.delenv("FEWSHOT_RUNTIME", raising=False)
    assert load_backbone(device="cpu").networks[0].runtime_name == "openvino"
    monkeypatch.setenv("FEWSHOT_RUNTIME", "pytorch")
    assert load_backbone(device="cpu").networks[0].runtime_name == "pytorch"
    assert load_backbone(device="cpu", runtime="openvino").networks[0].runtime_name == "openvino"


def test_without_the_package_pytorch_is_used_and_openvino_gets_the_command(fresh, monkeypatch):
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    assert fresh("auto").runtime_name == "pytorch"
    with pytest.raises(MissingExtraError, match=r"pip install 'fewshot\[openvino\]'"):
        load_backbone(runtime="openvino")
    monkeypatch.setenv("FEWSHOT_RUNTIME", "openvino")
    with pytest.raises(MissingExtraError):
        load_backbone()


def test_names_are_checked_before_anything_is_loaded(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"Unknown runtime 'openvin'\. Did you mean 'openvino'"):
        load_backbone("no-such-backbone", runtime="openvin")
    monkeypatch.setenv("FEWSHOT_RUNTIME", "torch")
    with pytest.raises(UnknownNameError, match="Did you mean 'pytorch'"):
        load_backbone("no-such-backbone")
    with pytest.raises(InvalidInputError, match="runs on the CPU, not on 'cuda'"):
        load_backbone("no-such-backbone", device="cuda", runtime="openvino")


def _does_not_convert(*_):
    raise RuntimeError("no rule for aten::strange\nand a long story")


def _gives_something_else(*_):
    rng = np.random.default_rng(0)
    return lambda pixels: rng.normal(size=(len(pixels), 1280)).astype(np.float32)


def _gives_nan(*_):
    return lambda pixels: np.full((len(pixels), 1280), np.nan, np.float32)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (_does_not_convert, r"no rule for aten::strange\)"),
        (_gives_something_else, "cosine of"),
        (_gives_nan, "cosine of nan"),
    ],
)
def test_a_runtime_that_fails_or_differs_is_not_used(fresh, pytorch, images, monkeypatch, broken, reason):
    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    monkeypatch.setattr(openvino, "CompiledNetwork", broken)
    network = fresh("auto")
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        features = network.extract(images[:2])
    np.testing.assert_array_equal(features, pytorch.extract(images[:2]))
    assert network.runtime_name == "pytorch"
    network.extract(images[:1])
    assert len(caught) == 1
    with pytest.raises(InvalidInputError, match=reason):
        fresh("openvino").extract(images[:1])


@pytest.fixture
def pixel_network(pytorch):
    network = pytorch.networks[0]
    return runtime.PixelNetwork(network.runtime, network._mean, network._std).eval()


def test_bfloat16_is_not_precise_enough(pixel_network, pytorch):
    half = runtime._pytorch(pixel_network, "cpu", half=torch.bfloat16)
    pictures = runtime._check_pictures(224)
    exact = runtime._pytorch(pixel_network, "cpu")(pictures)
    np.testing.assert_array_equal(exact, pytorch.networks[0].forward(pictures))
    assert half(pictures).dtype == np.float32
    with pytest.raises(ValueError, match=r"cosine of 0\.99"):
        runtime._check_same(half, lambda _: exact, 224)


@pytest.mark.parametrize("error", [0, 1])
def test_half_precision_on_cuda_is_checked_like_any_other_runtime(pixel_network, monkeypatch, error):
    real = runtime._pytorch

    def without_gpu(network, device, *, half=None):
        forward = real(network, "cpu")
        return forward if half is None else lambda pixels: forward(pixels) + error * np.arange(1280, dtype=np.float32)

    monkeypatch.setattr(runtime, "_pytorch", without_gpu)
    settings = {"device": "cuda:0", "size": 224, "name": "x"}
    assert runtime.start_engine(pixel_network, runtime="pytorch", **settings).name == "pytorch"
    if error:
        with pytest.warns(RuntimeWarning, match="cosine of"):
            assert runtime.start_engine(pixel_network, runtime="auto", **settings).name == "pytorch"
    else:
        assert runtime.start_engine(pixel_network, runtime="auto", **settings).name == "cuda-autocast"


def test_stored_features_of_two_runtimes_are_kept_apart(compiled, pytorch, images, tmp_path):
    store = FeatureStore(tmp_path / "features.sqlite")
    by_pytorch = extract_views(pytorch, images[:3], augmentation="light", n_views=1, store=store)
    by_openvino = extract_views(compiled, images[:3], augmentation="light", n_views=1, store=store)
    assert len(store) == 2 * 6
    assert not np.array_equal(by_pytorch, by_openvino)
    again = extract_views(pytorch, images[:3], augmentation="light", n_views=1, store=store)
    np.testing.assert_array_equal(again, by_pytorch)


@needs_openvino
@pytest.mark.parametrize(("saved", "loaded"), [("openvino", "pytorch"), ("pytorch", "openvino")])
def test_a_model_saved_with_one_runtime_predicts_with_the_other(two_fruits, tmp_path, monkeypatch, saved, loaded):
    train, test = two_fruits
    monkeypatch.setenv("FEWSHOT_RUNTIME", saved)
    classifier = FewShotClassifier(augmentation="none", random_state=0).fit(train)
    expected = classifier.predict_proba(test.sources)
    classifier.save(tmp_path / "model")
    monkeypatch.setenv("FEWSHOT_RUNTIME", loaded)
    again = load(tmp_path / "model")
    assert again.backbone_.networks[0].runtime_name == loaded
    np.testing.assert_allclose(again.predict_proba(test.sources), expected, atol=1e-4)


def test_a_network_of_another_package_needs_no_runtime(images):
    class Mean(Network):
        spec, fingerprint, n_features, image_size = "mean", "0", 3, 8

        def preprocess(self, image):
            return image[:8, :8]

        def forward(self, pixels):
            return pixels.mean((1, 2), dtype=np.float32)

    network = Mean()
    network.use_runtime("openvino")
    assert network.runtime_name == "pytorch"
    assert extract_views(network, images[:2]).shape == (2, 1, 3)


@needs_openvino
def test_openvino_is_imported_when_first_needed_and_reports_to_nobody():
    script = (
        "import sys, numpy as np, fewshot; network = fewshot.load_backbone(runtime='openvino').networks[0];"
        "assert 'openvino' not in sys.modules;"
        "network.forward(np.zeros((1, 224, 224, 3), np.uint8));"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_other_families_convert():
    import timm

    torch.manual_seed(0)
    for name in ("resnet18", "test_vit", "test_convnext"):
        network = TimmNetwork(name, timm.create_model(name, pretrained=False, num_classes=0).eval(), "cpu")
        network.use_runtime("openvino")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert network.runtime_name == "openvino"
