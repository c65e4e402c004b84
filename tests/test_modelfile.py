"""Model folders: what is saved is what is loaded, in any process, and nothing unsafe is read."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import fewshot
from fewshot import FewShotClassifier, list_heads
from fewshot.errors import FewshotError, ModelFileError
from fewshot.finetune.simple_cnn import TunedSimpleCNNHead
from fewshot.finetune.strategies import FineTune
from fewshot.heads import make_head

QUICK = {
    "fine-tune": FineTune(steps=2, batch_size=2),
    "simple-cnn-tuned": TunedSimpleCNNHead(min_steps=2, batch_size=2),
}


@pytest.fixture
def saved(two_fruits, tmp_path):
    classifier = FewShotClassifier(augmentation="none").fit(two_fruits[0].sources, two_fruits[0].labels)
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
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schema": 99}, "upgrade"),
        ({"schema": "1"}, "schema"),
        ({"backbone_fingerprint": "0" * 32}, "other weights"),
        ({"classes": ["a", "b", "c"]}, "3 classes"),
        ({"classes": 3}, "'classes'"),
        ({"head": {"name": "prototypcal", "parameters": {}}}, "'prototypical'"),
        ({"head": {"sklearn": "os.system", "parameters": {}}}, "no classifier"),
        ({"head": {}}, "damaged"),
        ({"head": {"name": "linear-probe", "parameters": {"D": 1}}}, "damaged"),
        ({"class_dtype": "O3"}, "damaged"),
        ({"tensors": {"weight": [10**9, 10**9]}}, "does not hold"),
        ({"backbone": None}, "names no backbone"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(saved, changes, word):
    edit(saved[1], **changes)
    with pytest.raises(FewshotError, match=word):
        fewshot.load(saved[1])


def test_tensors_that_do_not_fit_are_refused(saved):
    folder = saved[1]
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "weight": torch.zeros(2, 3, dtype=torch.float64)}, folder / "model.safetensors")
    edit(folder, tensors={"weight": [2, 3], "bias": [2]})
    with pytest.raises(ModelFileError, match="damaged"):
        fewshot.load(folder)


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
