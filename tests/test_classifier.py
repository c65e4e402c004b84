"""FewShotClassifier: one estimator for every head, and a scikit-learn citizen."""

import threading
from concurrent.futures import ThreadPoolExecutor

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from fewshot import FewShotClassifier, ImageDataset, ImageError, list_heads, load_backbone, read_image
from fewshot.errors import InvalidInputError, UnknownNameError
from fewshot.finetune.auto import AutoFineTune
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.full import FullFineTune
from fewshot.finetune.lora import LoRA
from fewshot.finetune.norm_tuning import NormTuning
from fewshot.finetune.simple_cnn import TunedSimpleCNNHead
from fewshot.threads import single_thread, workers


@pytest.fixture
def paths(fruit_folder):
    dataset = ImageDataset.from_folder(fruit_folder / "train")
    return list(dataset.sources), list(dataset.labels)


@pytest.mark.parametrize("head", list_heads())
def test_every_head_fits_two_images_and_predicts_any_kind_of_image(head, fruit_folder, monkeypatch):
    for slow in (AutoFineTune, FineTune, FullFineTune, LoRA, NormTuning):
        few = {"steps": 1, "learning_rates": (1e-3,), "batch_size": 2}
        monkeypatch.setattr(slow.__init__, "__kwdefaults__", slow.__init__.__kwdefaults__ | few)
    tuned = TunedSimpleCNNHead.__init__
    monkeypatch.setattr(tuned, "__kwdefaults__", tuned.__kwdefaults__ | {"min_steps": 2})
    dataset = ImageDataset.from_folder(fruit_folder / "train")
    path, other = dataset.sources[0], dataset.sources[-1]
    classifier = FewShotClassifier(head=head, augmentation="heavy", n_views=2).fit([path, other], ["a", "b"])
    with open(path, "rb") as file:
        data = file.read()
    from pathlib import Path

    kinds = [path, Path(path), data, Image.open(path), read_image(path)]
    proba = classifier.predict_proba(kinds)
    assert proba.shape == (5, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(proba, proba[:1].repeat(5, axis=0), atol=1e-9)
    assert set(classifier.predict(kinds)) <= {"a", "b"}
    # One image of a class leaves nothing to judge training by, but for those that train in any case.
    assert bool(classifier.history_) == head.startswith("simple-cnn")


def test_real_photos_are_told_apart_from_one_example_each(two_fruits):
    train, test = two_fruits
    classifier = FewShotClassifier(n_views=4).fit(train.subset([0, 4]))
    assert np.mean(classifier.predict(test.sources) == np.array(test.labels)) >= 0.9


def test_a_fit_that_fails_changes_nothing(two_fruits):
    train, test = two_fruits
    fresh = FewShotClassifier(augmentation=None)
    broken = [*train.sources[:3], b"broken"]
    with pytest.raises(ImageError):
        fresh.fit(broken, ["a", "b", "a", "b"])
    with pytest.raises(NotFittedError):
        fresh.predict(test.sources)
    fresh.fit(train)
    before = fresh.predict_proba(test)
    with pytest.raises(ImageError):
        fresh.set_params(backbone="efficientnet_lite2").fit(broken, ["a", "b", "a", "b"])
    np.testing.assert_array_equal(fresh.predict_proba(test), before)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "b", "a"], "missing, the first at 1"),
        (["a", "b", float("nan"), "a"], "missing, the first at 2"),
        ([1, "b", 1, "b"], "partly strings"),
        (["a"] * 4, "at least 2"),
    ],
)
def test_labels_that_numpy_would_silently_change_are_refused(labels, message, two_fruits):
    for head in ("linear-probe", KNeighborsClassifier(1)):
        with pytest.raises(InvalidInputError, match=message):
            FewShotClassifier(head=head, augmentation=None).fit(two_fruits[0].sources[:4], labels)


@pytest.mark.parametrize("images", ["photo.jpg", np.zeros((4, 4, 3), dtype=np.uint8)])
def test_one_image_in_place_of_a_list_is_understood(images, two_fruits):
    classifier = FewShotClassifier(augmentation=None).fit(two_fruits[0])
    with pytest.raises(InvalidInputError, match="give a list"):
        classifier.predict(images)


def test_images_may_come_from_a_generator_or_a_data_set(two_fruits):
    train, test = two_fruits
    classifier = FewShotClassifier(augmentation=None).fit(train)
    expected = classifier.predict(list(test.sources)).tolist()
    assert classifier.predict(test).tolist() == classifier.predict(s for s in test.sources).tolist() == expected
    assert load_backbone("efficientnet_lite0").extract(test).shape == (len(test), 1280)


def test_threads_that_predict_at_once_get_what_each_would_alone(two_fruits):
    classifier = FewShotClassifier(augmentation=None, cache=False).fit(two_fruits[0])
    alone = classifier.predict_proba(two_fruits[1].sources)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        for proba in pool.map(lambda _: classifier.predict_proba(two_fruits[1].sources), range(8)):
            np.testing.assert_array_equal(proba, alone)
    assert torch.get_num_threads() == before


def test_whoever_leaves_first_gets_their_threads_back():
    before = torch.get_num_threads()
    inside, leave, counts = threading.Event(), threading.Event(), []

    def other():
        torch.set_num_threads(3)
        with single_thread():
            inside.set()
            leave.wait()
        counts.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    torch.set_num_threads(2)
    with single_thread():
        thread.start()
        inside.wait()
    assert torch.get_num_threads() == 2
    leave.set()
    thread.join()
    assert counts == [3]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
    torch.set_num_threads(before)


def test_a_worker_keeps_to_one_thread_whatever_others_set():
    before = torch.get_num_threads()
    with workers(1) as pool:
        pool.submit(int).result()
        setter = threading.Thread(target=torch.set_num_threads, args=(3,))
        setter.start()
        setter.join()
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before


def test_the_processs_threads_stay_at_one_while_anyone_computes(monkeypatch):
    before, numbers, set_num_threads = torch.get_num_threads(), [], torch.set_num_threads
    torch.set_num_threads(2)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: numbers.append(number) or set_num_threads(number))

    def leave_first():
        set_num_threads(3)
        with single_thread():
            pass
        return torch.get_num_threads()

    with single_thread(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(leave_first).result() == 3
        assert set(numbers) == {1}
        assert torch.get_num_threads() == 1
    monkeypatch.undo()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True])
def test_a_seed_out_of_range_is_refused(seed, two_fruits):
    with pytest.raises(InvalidInputError, match="random_state"):
        FewShotClassifier(random_state=seed).fit(two_fruits[0])


def test_labels_of_any_kind_come_back(two_fruits):
    images = two_fruits[0].sources[:4]
    for labels in ([0, 1, 0, 1], np.array([3, 5, 3, 5]), ["x", "y", "x", "y"], [True, False, True, False]):
        classifier = FewShotClassifier(augmentation=None).fit(images, labels)
        assert classifier.classes_.dtype == np.asarray(labels).dtype
        assert classifier.predict(images[:2]).tolist() == list(np.asarray(labels)[:2])


def test_clone_and_parameters_are_scikit_learns():
    head = KNeighborsClassifier(n_neighbors=1)
    classifier = FewShotClassifier(head=head, n_views=3)
    assert is_classifier(classifier)
    assert clone(classifier).get_params(deep=False).keys() == classifier.get_params(deep=False).keys()
    assert classifier.get_params()["head"] is head
    assert classifier.set_params(head__n_neighbors=2).head.n_neighbors == 2
    assert "n_views=3" in repr(classifier)


def test_grid_search_over_lists_of_paths(paths):
    search = GridSearchCV(
        FewShotClassifier(n_views=1),
        {"head": ["prototypical", "linear-probe"], "augmentation": ["none", "light"]},
        cv=2,
    )
    search.fit(*paths)
    assert len(search.cv_results_["mean_test_score"]) == 4
    assert search.best_score_ >= 0.5
    assert search.predict(paths[0][:1]).shape == (1,)


def test_cross_validation_and_pipeline(paths):
    images, labels = paths
    pipeline = Pipeline([("classifier", FewShotClassifier(augmentation="none"))])
    assert cross_val_score(pipeline, images, labels, cv=2).shape == (2,)
    assert set(pipeline.fit(images, labels).predict(images)) == set(labels)


def test_any_scikit_learn_classifier_is_a_head(paths):
    images, labels = paths
    classifier = FewShotClassifier(head=RidgeClassifier(), augmentation="none").fit(images, labels)
    # RidgeClassifier has no probabilities: its answer gets 1.
    assert set(np.unique(classifier.predict_proba(images))) == {0.0, 1.0}
    assert classifier.predict(images).tolist() == labels


def test_an_albumentations_compose_is_an_augmentation(paths):
    images, labels = paths
    policy = A.Compose([A.Rotate(limit=90, p=1.0)])
    one = FewShotClassifier(augmentation=policy, n_views=2, cache=False).fit(images, labels)
    two = FewShotClassifier(augmentation=policy, n_views=2, cache=False).fit(images, labels)
    none = FewShotClassifier(augmentation=None, cache=False).fit(images, labels)
    np.testing.assert_array_equal(one.predict_proba(images), two.predict_proba(images))
    assert not np.array_equal(one.predict_proba(images), none.predict_proba(images))


def test_the_seed_decides_everything(paths):
    images, labels = paths
    proba = [
        FewShotClassifier(augmentation="light", n_views=2, random_state=seed, cache=False)
        .fit(images, labels)
        .predict_proba(images)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(proba[0], proba[1])
    assert not np.array_equal(proba[0], proba[2])
    # None and a RandomState draw a seed of their own.
    for state in (None, np.random.RandomState(0)):
        FewShotClassifier(n_views=1, random_state=state, cache=False).fit(images, labels)


def test_prediction_mutates_nothing(paths):
    images, labels = paths
    classifier = FewShotClassifier(n_views=1).fit(images, labels)
    state = {k: v.clone() for k, v in classifier.head_.state_.items()}
    first = classifier.predict_proba(images)
    np.testing.assert_array_equal(classifier.predict_proba(images), first)
    assert all(np.array_equal(state[k], v) for k, v in classifier.head_.state_.items())
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 2)


def test_without_fit_nothing_is_predicted(paths):
    with pytest.raises(NotFittedError):
        FewShotClassifier().predict(paths[0])


@pytest.mark.parametrize(
    ("parameters", "error", "word"),
    [
        ({"head": "linear-prob"}, UnknownNameError, "'linear-probe'"),
        ({"backbone": "efficientnet_lit0"}, UnknownNameError, "'efficientnet_lite0'"),
        ({"augmentation": "hevy"}, UnknownNameError, "'heavy'"),
        ({"n_views": 0}, InvalidInputError, "n_views=0"),
        ({"random_state": -1}, InvalidInputError, "random_state=-1"),
        ({"head": 3}, InvalidInputError, "head=3"),
        ({"augmentation": 3}, InvalidInputError, "augmentation=3"),
    ],
)
def test_bad_parameters_are_named_when_fitting_not_before(parameters, error, word, paths):
    classifier = FewShotClassifier(**parameters)
    with pytest.raises(error, match=word):
        classifier.fit(*paths)


def test_bad_data_is_named(paths, tmp_path):
    images, labels = paths
    classifier = FewShotClassifier(augmentation="none")
    for X, y, word in (
        (images, labels[:-1], "one label for each"),
        (images, None, "needs labels"),
        (images, ["a"] * len(images), "at least 2"),
        ([], [], "no images"),
        (images[0], ["a"], "list of images"),
        (ImageDataset.from_paths(images, labels), labels, "own labels"),
    ):
        with pytest.raises(InvalidInputError, match=word):
            classifier.fit(X, y)
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        classifier.fit([images[0], text], ["a", "b"])


def test_predicting_each_image_lists_the_unreadable_ones_and_answers_as_predict_does(two_fruits, tmp_path, monkeypatch):
    import fewshot.classifier

    monkeypatch.setattr(fewshot.classifier, "_BLOCK", 2)
    train, test = two_fruits
    classifier = FewShotClassifier(augmentation="none").fit(train)
    good = list(test.sources[:4])
    gone = str(tmp_path / "gone.jpg")
    done = []
    each = list(classifier.predict_each([good[0], gone, *good[1:], b""], progress=lambda *row: done.append(row)))
    assert [row.error.code if row.error else "" for row in each] == ["", "VANISHED", "", "", "", "EMPTY"]
    assert each[1].image == gone
    assert each[1].label is each[1].proba is None
    answered = [row for row in each if row.error is None]
    assert [row.label for row in answered] == classifier.predict(good).tolist()
    np.testing.assert_allclose([row.proba for row in answered], classifier.predict_proba(good), rtol=1e-5)
    assert done == [(2, 6), (4, 6), (6, 6)]


def test_predicting_each_image_strictly_stops_at_the_first_unreadable_one(two_fruits):
    train, test = two_fruits
    classifier = FewShotClassifier(augmentation="none").fit(train)
    with pytest.raises(ImageError, match="EMPTY"):
        list(classifier.predict_each([test.sources[0], b""], strict=True))


def test_a_network_trained_from_scratch_lists_unreadable_images_too(two_fruits):
    train, test = two_fruits
    classifier = FewShotClassifier(head="simple-cnn", augmentation="none").fit(train)
    each = list(classifier.predict_each([b"", test.sources[0], b"x"]))
    assert [row.error.code if row.error else "" for row in each] == ["EMPTY", "", "NOT_AN_IMAGE"]
    assert each[1].label == classifier.predict([test.sources[0]])[0]
