"""Model folders: what is saved is what is loaded, in any process, and nothing unsafe is read."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from safetensors.torch import load_file
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import fewshot
from fewshot import FewShotClassifier, list_heads
from fewshot.errors import FewshotError, InvalidInputError, ModelFileError
from fewshot.finetune.auto import AutoFineTune
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.full import FullFineTune
from fewshot.finetune.lora import LoRA
from fewshot.finetune.norm_tuning import NormTuning
from fewshot.finetune.simple_cnn import TunedSimpleCNNHead
from fewshot.heads import make_head
from fewshot.heads.base import Head
from fewshot.heads.ensemble import EnsembleHead
from fewshot.heads.ridge import RidgeHead
from fewshot.modelfile.documents import write_json
from fewshot.modelfile.schema import SklearnHead
from fewshot.modelfile.sklearn_heads import fit_again, make_sklearn

QUICK = {
    "auto-fine-tune": AutoFineTune(steps=2, batch_size=2),
    "fine-tune": FineTune(steps=2, batch_size=2),
    "fine-tune-full": FullFineTune(steps=1, batch_size=2, learning_rates=(1e-3,)),
    "lora": LoRA(steps=1, batch_size=2, learning_rates=(1e-3,)),
    "norm-tuning": NormTuning(steps=1, batch_size=2, learning_rates=(1e-3,)),
    "simple-cnn-tuned": TunedSimpleCNNHead(min_steps=2, batch_size=2),
}


PROBE = {"head": "linear-probe", "augmentation": "none", "representation": "plain"}


@pytest.fixture
def saved(two_fruits, tmp_path):
    classifier = FewShotClassifier(**PROBE).fit(two_fruits[0].sources, two_fruits[0].labels)
    classifier.save(tmp_path / "model")
    return classifier, tmp_path / "model"


@pytest.mark.parametrize("head", [*list_heads(), KNeighborsClassifier(n_neighbors=3), LogisticRegression()], ids=str)
def test_every_head_comes_back_with_the_same_probabilities(head, two_fruits, tmp_path):
    train, test = two_fruits
    classifier = FewShotClassifier(head=QUICK.get(str(head), head), augmentation="light", n_views=1, random_state=3)
    classifier.fit(train.sources, train.labels).save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = fewshot.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(test.sources), classifier.predict_proba(test.sources), atol=1e-6)
    assert again.predict(test.sources).tolist() == classifier.predict(test.sources).tolist()
    # What was loaded can be saved, and trained, again.
    again.save(tmp_path / "copy")
    np.testing.assert_allclose(
        fewshot.load(tmp_path / "copy").predict_proba(test.sources[:2]), again.predict_proba(test.sources[:2])
    )


def test_a_new_process_predicts_the_same(saved, two_fruits, tmp_path):
    classifier, folder = saved
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(two_fruits[1].sources[0])
    code = f"import fewshot; print(fewshot.load({str(folder)!r}).predict_proba([{str(photo)!r}]).tolist())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), classifier.predict_proba([photo]), atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1], ["é", "日本"], [2.0, 3.0], [True, False]])
def test_labels_keep_their_type(labels, two_fruits, tmp_path):
    images = [two_fruits[0].sources[0], two_fruits[0].sources[-1]]
    classifier = FewShotClassifier(augmentation="none").fit(images, labels)
    classifier.save(tmp_path / "model")
    again = fewshot.load(tmp_path / "model")
    assert again.classes_.dtype == classifier.classes_.dtype
    assert again.predict(images).tolist() == labels


def test_an_old_model_is_replaced_and_anything_else_kept(saved, two_fruits, tmp_path):
    classifier, folder = saved
    classifier.save(folder)
    assert len(list(tmp_path.iterdir())) == 1  # no temporary folder is left
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "a.jpg").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="not a model folder"):
        classifier.save(precious)
    assert (precious / "a.jpg").read_bytes() == b"x"


@pytest.mark.parametrize("config", ['{"name": "my web app"}', '{"schema": 1, "fewshot": "0.1.0"}', "[]", "not JSON"])
def test_another_projects_folder_is_never_taken_for_a_model(config, saved, tmp_path):
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "config.json").write_text(config)
    (folder / "src/app.py").write_text("precious")
    with pytest.raises(ModelFileError, match="not overwritten"):
        saved[0].save(folder)
    assert (folder / "src/app.py").read_text() == "precious"


def test_a_link_to_a_model_stays_a_link(saved, tmp_path):
    classifier, folder = saved
    (tmp_path / "link").symlink_to(folder)
    classifier.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]
    assert fewshot.load(tmp_path / "link").classes_.tolist() == classifier.classes_.tolist()


def test_a_model_that_could_not_be_loaded_again_is_not_saved(two_fruits, tmp_path, backbone):
    import copy

    nameless = copy.copy(backbone)
    nameless.spec = "mine"
    for part in ({"backbone": nameless}, {"head": LogisticRegression(class_weight={0: 1, 1: 5})}):
        classifier = FewShotClassifier(augmentation=None, **part)
        classifier.fit(two_fruits[0].sources, [0] * 4 + [1] * 4)
        with pytest.raises(ModelFileError, match="cannot be saved"):
            classifier.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_ensemble_of_named_members_comes_back_and_one_of_heads_is_not_saved(two_fruits, tmp_path):
    train, test = two_fruits
    head = EnsembleHead(members=("knn", "ridge", "ensemble"), weights=(1, 2.5, 1))
    before = FewShotClassifier(head=head, augmentation="none").fit(train.sources, train.labels)
    before.save(tmp_path / "model")
    after = fewshot.load(tmp_path / "model")
    assert list(after.head_.members) == ["knn", "ridge", "ensemble"]
    np.testing.assert_allclose(after.predict_proba(test.sources), before.predict_proba(test.sources), atol=1e-6)
    before.set_params(head=EnsembleHead(members=("knn", RidgeHead(alpha=0.1)))).fit(train.sources, train.labels)
    with pytest.raises(ModelFileError, match=r"RidgeHead\(alpha=0.1\).*names of heads, not heads"):
        before.save(tmp_path / "other")


def test_the_seed_is_kept(two_fruits, tmp_path):
    FewShotClassifier(augmentation="none", random_state=7).fit(two_fruits[0]).save(tmp_path / "model")
    assert fewshot.load(tmp_path / "model").random_state == 7


def test_an_unfitted_classifier_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        FewShotClassifier().save(tmp_path / "model")


def test_a_head_that_could_not_be_loaded_is_not_saved(two_fruits, tmp_path):
    class Mine(KNeighborsClassifier):
        pass

    classifier = FewShotClassifier(head=Mine(), augmentation="light", n_views=2)
    with pytest.raises(ModelFileError, match="Mine"):
        classifier.fit(two_fruits[0]).save(tmp_path / "model")


def edit(folder, **changes):
    """Change entries as someone would who makes the digest fit again."""
    file = folder / "config.json"
    file.write_bytes(write_json(json.loads(file.read_text()) | changes))


def test_a_configuration_changed_by_hand_or_by_decay_is_refused(saved):
    file = saved[1] / "config.json"
    file.write_text(file.read_text().replace("Orange", "Orangf"))
    with pytest.raises(ModelFileError, match="damaged, or edited"):
        fewshot.load(saved[1])


OWN = {"name": "linear-probe", "parameters": {}, "facts": {}}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schema": 99}, "upgrade"),
        ({"schema": "1"}, "schema"),
        ({"schema": True}, "schema"),
        ({"schema": -1}, "schema"),
        ({"backbone_fingerprint": "0" * 32}, "other weights"),
        ({"backbone": None}, "names no backbone"),
        ({"backbone": "efficientnet_lit0"}, "'efficientnet_lite0'"),
        ({"backbone": "+".join(["efficientnet_lite0"] * 9)}, "more than 8 networks"),
        ({"classes": ["a", "b", "c"]}, "its head needs F64"),
        ({"classes": ["Orange", "Granny-Smith"]}, "not sorted"),
        ({"classes": ["Orange", "Orange"]}, "stands twice"),
        ({"classes": ["Orange"]}, "its head needs F64"),
        ({"classes": []}, "'classes'"),
        ({"classes": [1, 2]}, "not all of type"),
        ({"classes": [["a"], ["b"]]}, "'classes"),
        ({"classes": ["a", "b\0"]}, "exactly"),
        ({"classes": [1, 300], "class_dtype": "|i1"}, "do not fit"),
        ({"classes": [0, 1], "class_dtype": "|b1"}, "not all of type"),
        ({"classes": [0.5, 0.1 + 0.2 + 0.5], "class_dtype": "<f2"}, "exactly"),
        ({"classes": 3}, "'classes'"),
        ({"class_dtype": "<U2"}, "exactly"),
        ({"class_dtype": "O3"}, "'class_dtype'"),
        ({"class_dtype": "<U1000000000"}, "'class_dtype'"),
        ({"class_dtype": "<U99999", "classes": [f"{i:04}" for i in range(1000)]}, "need more than 64 MB"),
        ({"head": OWN | {"name": "prototypcal"}}, "'prototypical'"),
        ({"head": {}}, "'head"),
        ({"head": OWN | {"parameters": {"D": 1}}}, "no parameter 'D'"),
        ({"head": OWN | {"parameters": {"C": "1"}}}, "another type"),
        ({"head": OWN | {"parameters": {"C": -1.0}}}, "above 0"),
        ({"head": OWN | {"parameters": {"C": [1.0] * 1000}}}, "'head"),
        ({"head": OWN | {"name": "tim", "parameters": {"steps": 100_000}}}, "above 10000"),
        ({"head": OWN | {"name": "prototypical", "parameters": {"metric": "cosin"}}}, "'cosine'"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": ["ridge", 3]}}}, "another type"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": "ridge"}}}, "another type"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": []}}}, "needs a list"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": ["tim", "ridge"]}}}, "queries jointly"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": ["fine-tune"]}}}, "trains on pictures"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": ["rigde"]}}}, "'ridge'"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": ["ridge"] * 101}}}, "'head"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"weights": ["1", "1"]}}}, "another type"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"weights": [1, -1]}}}, "above 0"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"weights": [1]}}}, "one number for each"),
        ({"head": OWN | {"name": "ensemble", "parameters": {"members": ["ensemble"] * 100}}}, "tensor"),
        ({"head": OWN | {"name": "simple-cnn"}}, "tensor"),
        ({"head": OWN | {"extra": 1}}, "'head"),
        ({"tensors": {"weight": {"dtype": "F64", "shape": [10**9, 10**9]}}}, "does not hold"),
        ({"tensors": {"weight": {"dtype": "F64", "shape": [-1]}}}, "'tensors.weight"),
        ({"tensors_digest": "0" * 32}, "digest does not fit"),
        ({"tensors_digest": None}, "lacks the digest"),
        ({"n_features": 10**6}, "its head needs F32"),
        ({"known": None}, "'known.codes' is not one of its head"),
        ({"known": {"temperature": 0.0}}, "'known"),
        ({"n_features": None}, "'n_features' is missing"),
        ({"backbone": "x" * 5000}, "5000 characters"),
        ({"n_views": 0}, "'n_views'"),
        ({"n_views": True}, "'n_views'"),
        ({"random_state": -1}, "'random_state'"),
        ({"random_state": 2**32}, "'random_state'"),
        ({"augmentation": "x" * 1000}, "'augmentation'"),
        ({"surprise": 1}, "'surprise'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(saved, changes, word):
    edit(saved[1], **changes)
    with pytest.raises(FewshotError, match=word):
        fewshot.load(saved[1])


def put_tensors(folder, tensors):
    """Replace the tensors as someone would who makes every name and digest fit again."""
    data = safetensors.torch.save(tensors)
    (folder / "model.safetensors").write_bytes(data)
    dtypes = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64"}
    named = {name: {"dtype": dtypes[t.dtype], "shape": list(t.shape)} for name, t in tensors.items()}
    edit(folder, tensors=named, tensors_digest=hashlib.blake2b(data, digest_size=16).hexdigest())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, r"F64 \[2, 3\]; its head needs F64 \[2, 1280\]"),
        ({"weight": torch.zeros(2, 1280)}, "F32"),
        ({"bias": torch.zeros(2, 1, dtype=torch.float64)}, "'bias'"),
        ({"other": torch.zeros(2)}, "not one of its head"),
        ({"bias": torch.tensor([0, torch.nan], dtype=torch.float64)}, "not finite"),
        ({"bias": torch.tensor([torch.inf, 0], dtype=torch.float64)}, "not finite"),
        ({"weight": torch.full((2, 1280), 1e308, dtype=torch.float64)}, "probability"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(saved, changes, word):
    tensors = load_file(saved[1] / "model.safetensors")
    put_tensors(saved[1], tensors | changes)
    with pytest.raises(ModelFileError, match=word):
        fewshot.load(saved[1])


def test_a_missing_tensor_is_named(saved):
    put_tensors(saved[1], {"weight": torch.zeros(2, 1280, dtype=torch.float64)})
    with pytest.raises(ModelFileError, match="'bias' is missing"):
        fewshot.load(saved[1])


def test_what_is_free_in_a_shape_is_the_same_in_all(two_fruits, tmp_path):
    FewShotClassifier(**PROBE | {"head": "knn"}).fit(two_fruits[0]).save(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    put_tensors(tmp_path / "model", tensors | {"member": tensors["member"][:-1].clone()})
    with pytest.raises(ModelFileError, match=r"'support' is F64 \[8, 1280\]; its head needs F64 \[7, 1280\]"):
        fewshot.load(tmp_path / "model")


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_bit_in_the_tensors_is_refused(saved, position):
    path = saved[1] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        fewshot.load(saved[1])


def test_every_registered_head_states_what_it_keeps(two_fruits, backbone):
    for name in list_heads():
        head = QUICK.get(name, make_head(name))
        if isinstance(head, Head):
            fitted = make_head(name).fit(np.eye(6, 5), [0, 0, 1, 1, 2, 2])
            n_support, found = {"n_support": 6}, fitted.state_
            stated = {n: (torch.float64, s) for n, s in head.state_shapes(3, 5).items()}
        else:
            fitted = FewShotClassifier(head=head, augmentation="none").fit(two_fruits[0]).head_
            n_support, found = {}, fitted.tensors()
            stated = {n: (t.dtype, t.shape) for n, t in fitted.blank_tensors(2, backbone).items()}
            assert fitted.facts().keys() <= fitted.kept.keys()
        shapes = {
            n: (dtype, tuple(n_support.get(size, size) for size in sizes)) for n, (dtype, sizes) in stated.items()
        }
        assert shapes == {n: (t.dtype, tuple(t.shape)) for n, t in found.items()}, name


def test_what_an_image_head_found_besides_tensors_is_kept(two_fruits, tmp_path):
    before = FewShotClassifier(head=QUICK["fine-tune"], n_views=1).fit(two_fruits[0])
    before.save(tmp_path / "model")
    after = fewshot.load(tmp_path / "model").head_
    for name in ("learning_rate_", "validation_", "n_views_", "note_"):
        assert getattr(after, name) == getattr(before.head_, name)


@pytest.mark.parametrize(
    "facts", [{"learning_rate_": "x"}, {"n_views_": 1.5}, {"validation_": {"a": 1.0}}, {"__class__": "x"}, {"note_": 3}]
)
def test_facts_that_a_head_does_not_keep_are_refused(facts):
    with pytest.raises(InvalidInputError):
        FineTune().restore_facts(facts)


def test_a_head_that_does_not_state_what_it_keeps_says_so_when_it_is_saved(two_fruits, tmp_path, monkeypatch):
    def unstated(self, n_way, n_features):
        raise NotImplementedError

    monkeypatch.setattr("fewshot.heads.linear_probe.LinearProbe.state_shapes", unstated)
    with pytest.raises(ModelFileError, match="a method state_shapes"):
        FewShotClassifier(**PROBE).fit(two_fruits[0]).save(tmp_path / "model")


def test_a_surrogate_in_a_label_survives(two_fruits, tmp_path):
    images = [two_fruits[0].sources[0], two_fruits[0].sources[-1]]
    labels = ["a\udcff", "line\nbreak"]
    FewShotClassifier(augmentation="none").fit(images, labels).save(tmp_path / "model")
    assert fewshot.load(tmp_path / "model").classes_.tolist() == labels


@pytest.mark.parametrize(
    ("head", "word"),
    [
        ({"sklearn": "os.system", "parameters": {}}, "Unknown scikit-learn classifier"),
        ({"sklearn": "StackingClassifier", "parameters": {}}, "Unknown scikit-learn classifier"),
        ({"sklearn": "LogisticRegresion", "parameters": {}}, "'LogisticRegression'"),
        ({"sklearn": "RandomForestClassifier", "parameters": {"n_estimators": 10**6}}, "asks for more than 2000"),
        ({"sklearn": "MLPClassifier", "parameters": {"hidden_layer_sizes": [2000, 2000]}}, "asks for more than 2048"),
        ({"sklearn": "MLPClassifier", "parameters": {"max_iter": 10_001}}, "asks for more than 10000"),
        ({"sklearn": "LogisticRegressionCV", "parameters": {"Cs": 101}}, "asks for more than 100"),
        ({"sklearn": "SVC", "parameters": {"cache_size": 1e9}}, "asks for more than 1000"),
        ({"sklearn": "SVC", "parameters": {"memory": "/tmp"}}, "no parameter 'memory'"),
        ({"sklearn": "SVC", "parameters": {"kernel": "precomputed"}}, "cannot be trained again"),
    ],
)
def test_a_scikit_learn_head_is_one_of_a_list_with_bounded_parameters(head, word, two_fruits, tmp_path):
    FewShotClassifier(head=LogisticRegression(), augmentation="none").fit(two_fruits[0]).save(tmp_path / "model")
    edit(tmp_path / "model", head={"version": "1.6.0"} | head)
    with pytest.raises(FewshotError, match=word):
        fewshot.load(tmp_path / "model")


def test_a_scikit_learn_head_that_answers_differently_than_it_did_warns(two_fruits, tmp_path):
    FewShotClassifier(head=LogisticRegression(), augmentation="none").fit(two_fruits[0]).save(tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    put_tensors(tmp_path / "model", tensors | {"answers": 1 - tensors["answers"]})
    with pytest.warns(RuntimeWarning, match="answers differently"):
        fewshot.load(tmp_path / "model")


@pytest.mark.parametrize(("name", "most"), [("LabelPropagation", 3_000), ("GaussianNB", 20_000)])
def test_a_scikit_learn_head_is_not_trained_on_too_many_rows(name, most):
    rows = {"features": torch.zeros(most + 1, 2), "codes": torch.arange(most + 1) % 2}
    description = SklearnHead(sklearn=name, version="1.6.0", parameters={})
    with pytest.raises(ModelFileError, match=f"{most + 1} rows; at most {most}"):
        fit_again(make_sklearn(description), description, rows, np.array(["a", "b"]))


def test_a_method_without_a_limit_on_its_steps_gets_one_while_it_is_trained(monkeypatch):
    steps, fit = [], SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, *rows: (steps.append(self.max_iter), fit(self, *rows))[1])
    rows = {"features": torch.tensor([[0.0], [1.0]]), "codes": torch.tensor([0, 1])}
    description = SklearnHead(sklearn="SVC", version=None, parameters={"max_iter": -1, "C": 1e12, "tol": 1e-12})
    head = make_sklearn(description)
    fit_again(head, description, rows, np.array(["a", "b"]))
    assert steps == [100_000]
    assert head.max_iter == -1


def test_how_many_processes_trained_it_is_not_kept(two_fruits, tmp_path):
    head = KNeighborsClassifier(n_neighbors=3, n_jobs=2)
    FewShotClassifier(head=head, augmentation="none").fit(two_fruits[0]).save(tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["head"]["parameters"] == {"n_neighbors": 3}


def test_a_place_as_backbone_is_used_only_when_the_caller_names_it(two_fruits, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    timm.models.save_for_hf(network, tmp_path / "net", model_config={"num_classes": 7}, safe_serialization=True)
    spec = f"local-dir:{tmp_path / 'net'}"
    classifier = FewShotClassifier(backbone=spec, augmentation="none").fit(two_fruits[0])
    classifier.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match=r"not fetched.*backbone='local-dir:"):
        fewshot.load(tmp_path / "model")
    expected = classifier.predict_proba(two_fruits[1])
    np.testing.assert_allclose(fewshot.load(tmp_path / "model", backbone=spec).predict_proba(two_fruits[1]), expected)
    # The folder may have moved: what counts is the fingerprint.
    (tmp_path / "net").rename(tmp_path / "elsewhere")
    moved = fewshot.load(tmp_path / "model", backbone=f"local-dir:{tmp_path / 'elsewhere'}")
    np.testing.assert_allclose(moved.predict_proba(two_fruits[1]), expected)
    with pytest.raises(ModelFileError, match="other weights"):
        fewshot.load(tmp_path / "model", backbone="efficientnet_lite0")


def test_a_model_of_schema_1_knows_a_folder_of_weights_by_its_former_fingerprint(two_fruits, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    timm.models.save_for_hf(network, tmp_path / "net", model_config={"num_classes": 7}, safe_serialization=True)
    spec = f"local-dir:{tmp_path / 'net'}"
    classifier = FewShotClassifier(backbone=spec, augmentation="none").fit(two_fruits[0])
    classifier.save(tmp_path / "model")
    edit(tmp_path / "model", backbone_fingerprint=classifier.backbone_.former_fingerprints[0])
    fewshot.load(tmp_path / "model", backbone=spec)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 100, b"[1]", None])
def test_a_damaged_or_missing_file_is_refused(saved, file, content):
    path = saved[1] / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ModelFileError, match=str(saved[1])):
        fewshot.load(saved[1])


def test_a_truncated_tensor_file_is_refused(saved):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelFileError, match="cannot be read"):
        fewshot.load(saved[1])


def test_links_are_refused_where_files_cannot_be_opened_relative_to_a_folder(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "supports_dir_fd", set())
    fewshot.load(saved[1])
    (saved[1] / "config.json").rename(tmp_path / "elsewhere.json")
    (saved[1] / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ModelFileError, match="links are not followed"):
        fewshot.load(saved[1])


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_folder_of_a_hundred_files_or_folders_is_no_model(make, saved):
    for number in range(101):
        make(saved[1] / str(number))
    with pytest.raises(ModelFileError, match="more than 100 files"):
        fewshot.load(saved[1])


def test_folders_in_a_model_folder_are_not_entered(saved, monkeypatch):
    for number in range(200):
        (saved[1] / ".git" / str(number)).mkdir(parents=True)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    fewshot.load(saved[1])
    assert [path for path in listed if str(path).startswith(str(saved[1]))] == [saved[1]]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["model.pkl", "head.joblib", "pytorch_model.bin", "x.pt"])
def test_a_folder_with_a_pickle_is_refused(saved, name):
    (saved[1] / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelFileError, match="pickle"):
        fewshot.load(saved[1])


def test_no_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ModelFileError, match="no such folder"):
        fewshot.load(tmp_path / "nothing")
    with pytest.raises(ModelFileError, match="no config"):
        fewshot.load(tmp_path)


def test_the_head_of_a_loaded_model_is_a_parameter_as_before(saved):
    assert isinstance(fewshot.load(saved[1]).head, type(make_head("linear-probe")))
