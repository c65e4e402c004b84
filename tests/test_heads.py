"""Heads: scikit-learn's own checks on every head, and each method against independent implementations."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.utils.estimator_checks import estimator_checks_generator

from fewshot.errors import InvalidInputError, UnknownNameError
from fewshot.finetune.base import ImageHead
from fewshot.heads import HEADS, list_heads, make_head
from fewshot.heads.base import Head, TransductiveHead
from fewshot.heads.distribution_calibration import DistributionCalibrationHead
from fewshot.heads.ensemble import EnsembleHead
from fewshot.heads.gda import GDAHead
from fewshot.heads.knn import KNNHead
from fewshot.heads.linear_probe import LinearProbe
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.heads.pt_map import PTMAPHead
from fewshot.heads.ridge import RidgeHead
from fewshot.heads.svm import SVMHead
from fewshot.heads.tim import TIMHead

FEATURE_HEADS = [name for name in list_heads() if isinstance(make_head(name), Head)]
VARIANTS = [
    *map(make_head, FEATURE_HEADS),
    PrototypicalHead(metric="euclidean"),
    LinearProbe(normalize=False),
    RidgeHead(normalize=False),
    SVMHead(normalize=False),
    GDAHead(normalize=False),
    DistributionCalibrationHead(normalize=False, power=0.5),
    KNNHead(k=1),
    EnsembleHead(members=("knn", RidgeHead(alpha=0.1)), weights=(1, 2.5)),
    TIMHead(alpha_divergence=5.0),
    PTMAPHead(balanced=True),
]
TRANSDUCTIVE = [head for head in VARIANTS if isinstance(head, TransductiveHead)]
INDUCTIVE = [head for head in VARIANTS if not isinstance(head, TransductiveHead)]


def reason_to_skip(head, check):
    """Say why scikit-learn's check does not apply to a head, or nothing."""
    if check.func.__name__ == "check_array_api_input":
        # It runs only where SCIPY_ARRAY_API=1 was set before scipy was imported; heads compute in torch on copies of
        # what they are given.
        return "arrays of other libraries are not supported, and not claimed to be"
    if check.func.__name__ == "check_methods_subset_invariance" and isinstance(head, TransductiveHead):
        return "queries are labelled jointly: a part of them is another question"
    return ""


def episode(n_way, k_shot, n_features, seed=0, n_query=20):
    """Return support, labels, queries: non-negative features around class centres, as a CNN's are."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, size=(n_way, n_features))
    labels = np.repeat(np.arange(n_way), k_shot)
    support = np.abs(centres[labels] + rng.normal(size=(n_way * k_shot, n_features)))
    truth = rng.integers(0, n_way, n_query)
    return support, labels, np.abs(centres[truth] + rng.normal(size=(n_query, n_features)))


def test_every_registered_head_is_a_feature_head_or_an_image_head():
    assert all(isinstance(make_head(name), (Head, ImageHead)) for name in HEADS)
    assert {"prototypical", "linear-probe"} <= set(FEATURE_HEADS)


@pytest.mark.parametrize(
    ("head", "check"),
    [
        pytest.param(head, check, id=f"{head}-{check.func.__name__}")
        for head in VARIANTS
        for _, check in estimator_checks_generator(head, legacy=True)
    ],
)
def test_scikit_learn_checks(head, check):
    if reason := reason_to_skip(head, check):
        pytest.skip(reason)
    assert check(head) is None


@pytest.mark.parametrize("head", VARIANTS, ids=str)
@pytest.mark.parametrize("n_features", [3, 40])
def test_a_batch_of_episodes_gives_what_single_fits_give(head, n_features):
    episodes = [episode(3, 2, n_features, seed) for seed in range(5)]
    support, labels, query = (torch.from_numpy(np.stack(parts)) for parts in zip(*episodes, strict=True))
    logits = head._logits(head._fit(support, labels, 3), query)
    for i, (one_support, one_labels, one_query) in enumerate(episodes):
        alone = head.fit(one_support, one_labels).predict_proba(one_query)
        np.testing.assert_allclose(torch.softmax(logits[i], -1).numpy(), alone, atol=1e-9)


@pytest.mark.parametrize("head", VARIANTS, ids=str)
def test_prediction_changes_nothing_and_the_order_of_queries_does_not_matter(head):
    support, labels, query = episode(4, 3, 30)
    head.fit(support, labels)
    learned = {name: tensor.clone() for name, tensor in head.state_.items()}
    first = head.predict_proba(query)
    shuffled = np.random.default_rng(1).permutation(len(query))
    np.testing.assert_allclose(head.predict_proba(query[shuffled]), first[shuffled], atol=1e-9)
    np.testing.assert_array_equal(head.predict_proba(query), first)
    assert learned.keys() == head.state_.keys()
    assert all(torch.equal(head.state_[name], tensor) for name, tensor in learned.items())


@pytest.mark.parametrize("head", INDUCTIVE, ids=str)
def test_an_inductive_head_predicts_a_query_alone_as_among_others(head):
    support, labels, query = episode(4, 3, 30)
    together = head.fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(head.predict_proba(query[3:4]), together[3:4], atol=1e-12)


@pytest.mark.parametrize("head", TRANSDUCTIVE, ids=str)
def test_what_a_transductive_head_says_of_a_query_depends_on_the_others(head):
    support, labels, query = episode(4, 3, 30)
    together = head.fit(support, labels).predict_proba(query)
    assert np.abs(head.predict_proba(query[:10]) - together[:10]).max() > 1e-4


@pytest.mark.parametrize("head", VARIANTS, ids=str)
def test_the_order_of_support_images_and_the_names_of_classes_do_not_matter(head):
    support, labels, query = episode(3, 4, 30)
    proba = head.fit(support, labels).predict_proba(query)
    shuffled = np.random.default_rng(1).permutation(len(labels))
    names = np.array(["ant", "bee", "cat"])
    again = head.fit(support[shuffled], names[labels[shuffled]])
    np.testing.assert_allclose(again.predict_proba(query), proba, atol=1e-8)
    assert list(again.classes_) == ["ant", "bee", "cat"]


@pytest.mark.parametrize("head", VARIANTS, ids=str)
def test_one_image_per_class_repeated_images_and_zero_vectors_give_finite_probabilities(head):
    support, labels, query = episode(2, 1, 50)
    for X, y in (
        (support, labels),
        (support[[0, 0, 1]], labels[[0, 0, 1]]),
        (np.vstack([support, np.zeros(50)]), [0, 1, 1]),
        (support[[0, 0]], [0, 1]),
    ):
        proba = head.fit(X, y).predict_proba(query)
        assert np.isfinite(proba).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1)


@pytest.mark.parametrize("head", VARIANTS, ids=str)
def test_one_class_is_refused_with_the_minimum(head):
    with pytest.raises(InvalidInputError, match="at least 2"):
        head.fit(np.eye(3), ["cat"] * 3)


def test_cosine_prototypes_equal_a_loop():
    support, labels, query = episode(5, 3, 64)
    proba = PrototypicalHead(temperature=0.2).fit(support, labels).predict_proba(query)
    for q, p in zip(query, proba, strict=True):
        scores = []
        for c in range(5):
            mean = np.mean([x / np.linalg.norm(x) for x, y in zip(support, labels, strict=True) if y == c], axis=0)
            scores.append(q @ mean / np.linalg.norm(q) / np.linalg.norm(mean) / 0.2)
        expected = np.exp(scores - np.max(scores))
        np.testing.assert_allclose(p, expected / expected.sum(), atol=1e-12)


def test_euclidean_prototypes_are_the_nearest_centroid_also_far_from_the_origin():
    support, labels, query = episode(5, 3, 64)
    ours = PrototypicalHead(metric="euclidean").fit(support + 1e6, labels).predict(query + 1e6)
    np.testing.assert_array_equal(ours, NearestCentroid().fit(support, labels).predict(query))


def test_prototypes_of_two_points_in_closed_form():
    head = PrototypicalHead(metric="euclidean", temperature=1.0).fit([[0.0], [2.0]], [0, 1])
    # -(0.5)^2 / 2 against -(1.5)^2 / 2: a difference of 1 between the logits.
    np.testing.assert_allclose(head.predict_proba([[0.5]]), [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]])


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("n_way", "k_shot", "d"), [(2, 1, 200), (2, 5, 200), (5, 1, 200), (5, 5, 200), (3, 40, 10)])
def test_linear_probe_is_scikit_learns_logistic_regression(n_way, k_shot, d, C):
    support, labels, query = episode(n_way, k_shot, d)
    support, query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (support, query))
    reference = LogisticRegression(C=C, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(support, labels)
    ours = LinearProbe(C=C).fit(support, labels)
    np.testing.assert_allclose(ours.predict_proba(query), reference.predict_proba(query), atol=1e-5)


@pytest.mark.parametrize("d", [10, 300])
def test_linear_probe_reaches_the_optimum_where_the_gradient_is_zero(d):
    support, labels, _ = episode(4, 5, d)
    head = LinearProbe(C=1000.0, normalize=False).fit(support, labels)
    weight = head.state_["weight"].numpy()
    residual = head.predict_proba(support) - np.eye(4)[labels]
    assert np.abs(residual.T @ support + weight / 1000).max() < 1e-7
    assert np.abs(residual.sum(axis=0)).max() < 1e-7


def test_linear_probe_of_two_opposite_points_in_closed_form():
    # By symmetry the boundary is in the middle, and w solves w / C = 2 (1 - sigmoid(w)) for points at -1 and +1.
    head = LinearProbe(C=1.0).fit([[-3.0], [5.0]], ["left", "right"])
    w = 1.0
    for _ in range(200):
        w = 2 / (1 + np.exp(w))
    np.testing.assert_allclose(head.predict_proba([[1.0]])[0, 1], 1 / (1 + np.exp(-w)), atol=1e-9)
    np.testing.assert_allclose(head.state_["bias"].numpy(), [0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (LinearProbe(C=0), "C="),
        (LinearProbe(C=float("nan")), "C="),
        (LinearProbe(C="1"), "C="),
        (PrototypicalHead(temperature=-1), "temperature="),
        (PrototypicalHead(metric="cosin"), "'cosine'"),
    ],
)
def test_parameters_out_of_range_are_named(head, word):
    with pytest.raises(ValueError, match=word):
        head.fit(np.eye(2), [0, 1])


def test_make_head_takes_names_instances_and_any_scikit_learn_classifier():
    forest = RandomForestClassifier(n_estimators=3)
    assert make_head(forest) is not forest
    assert make_head(forest).n_estimators == 3
    assert isinstance(make_head("prototypical"), PrototypicalHead)
    assert make_head(LinearProbe(C=3.0)).C == 3.0


@pytest.mark.parametrize("head", [3, None, RandomForestClassifier, object()])
def test_make_head_refuses_what_is_no_classifier(head):
    with pytest.raises(InvalidInputError, match="neither a name"):
        make_head(head)


def test_a_misspelt_head_gets_the_closest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'prototypical'"):
        make_head("prototypcal")
