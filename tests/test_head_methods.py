"""Each method against a naive implementation of its own, closed forms, and what every isometric head promises."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from fewshot.errors import InvalidInputError, UnknownNameError
from fewshot.heads import list_heads, make_head
from fewshot.heads.alpha_tim import AlphaTIMHead
from fewshot.heads.base import Head
from fewshot.heads.bd_cspn import BDCSPNHead
from fewshot.heads.distribution_calibration import DistributionCalibrationHead
from fewshot.heads.ensemble import EnsembleHead
from fewshot.heads.gda import GDAHead
from fewshot.heads.knn import KNNHead
from fewshot.heads.laplacian_shot import LaplacianShotHead
from fewshot.heads.linear_probe import LinearProbe
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.heads.pt_map import PTMAPHead
from fewshot.heads.ridge import RidgeHead
from fewshot.heads.self_training import SelfTrainingHead
from fewshot.heads.soft_kmeans import SoftKMeansHead
from fewshot.heads.svm import SVMHead
from fewshot.heads.tim import TIMHead
from fewshot.heads.tip_adapter import TipAdapterHead

HEADS = [
    *(head for head in map(make_head, list_heads()) if isinstance(head, Head)),
    PrototypicalHead(metric="euclidean"),
    LinearProbe(normalize=False),
    RidgeHead(normalize=False, alpha=0.1),
    SVMHead(normalize=False, C=0.01),
    GDAHead(normalize=False),
    DistributionCalibrationHead(normalize=False),
    DistributionCalibrationHead(power=0.5),
    KNNHead(k=7),
    EnsembleHead(members=("knn", RidgeHead(alpha=0.1), EnsembleHead()), weights=(1, 2.5, 0.5)),
    LaplacianShotHead(k=1),
    TIMHead(alpha_divergence=5.0),
    TIMHead(alpha_divergence=0.5),
    PTMAPHead(balanced=True),
    PTMAPHead(power=1),
    PTMAPHead(power=1, balanced=True),
]
ISOMETRIC = [head for head in HEADS if head.isometric]
every_head = pytest.mark.parametrize("head", HEADS, ids=str)
every_isometric_head = pytest.mark.parametrize("head", ISOMETRIC, ids=str)


def episode(counts, d, seed=0, n_query=24, noise=1.0):
    """Return support, labels, queries: non-negative features, with counts[c] support features of class c."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, size=(len(counts), d))
    labels = np.repeat(np.arange(len(counts)), counts)
    truth = np.arange(n_query) % len(counts)
    support, query = (np.abs(centres[y] + noise * rng.normal(size=(len(y), d))) for y in (labels, truth))
    return support, labels, query


def answers(head, support, labels, query):
    """Run a head's mathematics in whatever dtype it is given: (n_query, n_way) probabilities."""
    support, labels, query = map(torch.as_tensor, (support, labels, query))
    return torch.softmax(head._logits(head._fit(support, labels, int(labels.max()) + 1), query), dim=-1).numpy()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


SHAPES = pytest.mark.parametrize(
    ("counts", "d"), [((1, 1), 30), ((5, 5), 3), ((1,) * 5, 60), ((5,) * 5, 60), ((1, 4, 7), 60), ((1, 9, 7), 8)]
)


def test_every_head_of_this_package_is_isometric_but_where_a_power_is_taken_of_each_number():
    assert [head for head in HEADS if head not in ISOMETRIC] == [
        head for head in HEADS if getattr(head, "power", 1) != 1
    ]
    kinds = {type(head) for head in ISOMETRIC}
    assert {PrototypicalHead, LinearProbe, RidgeHead, GDAHead, KNNHead, TIMHead, BDCSPNHead} < kinds


@every_isometric_head
@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 5, 3)])
def test_rotations_and_more_dimensions_change_nothing(head, counts):
    support, labels, query = episode(counts, 20)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(50, 20)))
    expected = answers(head, support, labels, query)
    np.testing.assert_allclose(answers(head, support @ rotation.T, labels, query @ rotation.T), expected, atol=1e-8)


@every_head
@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 5, 3)])
def test_float32_is_float64_but_for_rounding(head, counts):
    support, labels, query = episode(counts, 40)
    exact = answers(head, support, labels, query)
    rounded = answers(head, support.astype(np.float32), labels, query.astype(np.float32))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=2e-4)


@every_head
def test_arguments_are_left_as_they_were(head):
    support, labels, query = map(torch.as_tensor, episode((2, 3), 10))
    copies = support.clone(), query.clone()
    state = head._fit(support, labels, 2)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    head._logits(state, query)
    assert torch.equal(support, copies[0])
    assert torch.equal(query, copies[1])
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())


@every_head
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("supports", ["one shot", "copies", "zero mean", "zeros in a class", "conflict"])
def test_degenerate_episodes_give_probabilities(head, supports, dtype):
    support, labels, query = episode((1, 1, 1) if supports == "one shot" else (2, 3, 1), 12)
    support = {
        "one shot": support,
        "copies": support[[0, 0, 2, 2, 2, -1]],
        "zero mean": support - support.mean(axis=0),
        "zeros in a class": support * (labels != 1)[:, None],
        "conflict": np.repeat(support[:1], len(support), axis=0),
    }[supports]
    for queries in (
        query[:1],
        np.zeros((3, 12)),
        query[[0, 0, 0, 0, 1, 1]],
        np.vstack([query[[0, 0, 1, 2]], np.zeros(12)]),
        np.vstack([support[:1], support]),
        np.vstack([-support[:1], -support]),
    ):
        proba = answers(head, support.astype(dtype), labels, queries.astype(dtype))
        assert np.isfinite(proba).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
        # The first two queries are the same.
        np.testing.assert_allclose(proba[1:2], proba[:1][: len(proba) - 1], atol=1e-4 if dtype is np.float32 else 1e-9)


@pytest.mark.parametrize(
    "head",
    [
        SoftKMeansHead(),
        BDCSPNHead(),
        LaplacianShotHead(),
        TIMHead(),
        AlphaTIMHead(),
        SelfTrainingHead(),
        PTMAPHead(),
    ],
    ids=str,
)
def test_joint_labelling_helps_where_queries_show_what_one_support_image_hides(head):
    # Ten episodes, one support image per class far from its class's centre: prototypes of the support alone mislead.
    right, alone = [], []
    for seed in range(10):
        support, labels, query = episode((1,) * 5, 40, seed, n_query=75, noise=1.2)
        truth = np.arange(75) % 5
        right.append(answers(head, support, labels, query).argmax(axis=1) == truth)
        alone.append(answers(PrototypicalHead(), support, labels, query).argmax(axis=1) == truth)
    assert np.mean(right) > np.mean(alone) + 0.02


@SHAPES
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 30.0])
def test_ridge_is_scikit_learns(counts, d, alpha):
    support, labels, query = episode(counts, d)
    reference = RidgeClassifier(alpha=alpha).fit(unit(support), labels).decision_function(unit(query))
    logits = RidgeHead(alpha=alpha, temperature=0.5).fit(support, labels)._scores(query).numpy() * 0.5
    expected = np.column_stack([-reference, reference]) if len(counts) == 2 else reference
    np.testing.assert_allclose(logits, expected, atol=1e-8)
    raw = RidgeClassifier(alpha=alpha).fit(support, labels).predict(query)
    np.testing.assert_array_equal(RidgeHead(alpha=alpha, normalize=False).fit(support, labels).predict(query), raw)


def test_ridge_of_two_points_in_closed_form():
    # Points -1 and 1, targets 1 and -1 for the first class: w = -2 / (2 + alpha), no intercept.
    head = RidgeHead(alpha=2.0, temperature=1.0).fit([[-5.0], [7.0]], [0, 1])
    np.testing.assert_allclose(head.state_["weight"].numpy(), [[-0.5], [0.5]], atol=1e-12)
    np.testing.assert_allclose(head.state_["bias"].numpy(), [0, 0], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_vanishing_ridge_penalty_still_has_an_answer(dtype):
    support, labels, query = episode((3, 3), 30)
    support[1] = support[0]
    proba = answers(RidgeHead(alpha=1e-300, normalize=False), 1e4 * support.astype(dtype), labels, query.astype(dtype))
    assert np.isfinite(proba).all()


@SHAPES
@pytest.mark.parametrize("C", [0.01, 1.0, 30.0, 1e5])
def test_svm_is_scikit_learns(counts, d, C):
    support, labels, query = episode(counts, d)
    reference = LinearSVC(C=C, tol=1e-10, max_iter=10**6).fit(unit(support), labels).decision_function(unit(query))
    logits = SVMHead(C=C, temperature=0.5).fit(support, labels)._scores(query).numpy() * 0.5
    expected = np.column_stack([-reference, reference]) if len(counts) == 2 else reference
    np.testing.assert_allclose(logits, expected, atol=1e-7, rtol=1e-6)
    # Far beyond this, scikit-learn's steps are too many on features that are long.
    C = min(C, 10) / 100
    raw = LinearSVC(C=C, tol=1e-10, max_iter=10**6).fit(support, labels).decision_function(query)
    ours = SVMHead(C=C, normalize=False, temperature=1.0).fit(support, labels)._scores(query).numpy()
    np.testing.assert_allclose(ours[:, -1], raw if len(counts) == 2 else raw[:, -1], atol=1e-5)


@SHAPES
@pytest.mark.parametrize("C", [0.01, 1.0, 300.0])
def test_svms_conjugate_gradients_give_what_its_factors_give(counts, d, C, monkeypatch):
    support, labels, query = episode(counts, d)
    direct = SVMHead(C=C).fit(support, labels)._scores(query)
    monkeypatch.setattr("fewshot.heads.svm._NARROW", 0)
    torch.testing.assert_close(SVMHead(C=C).fit(support, labels)._scores(query), direct, rtol=1e-8, atol=1e-8)
    single = answers(SVMHead(C=C), support.astype(np.float32), labels, query.astype(np.float32))
    np.testing.assert_allclose(single, torch.softmax(direct, -1), atol=1e-4)


@pytest.mark.parametrize("n_way", [2, 4])
def test_the_gradient_of_the_svms_objective_vanishes_also_where_classes_overlap(n_way):
    support, labels, _ = episode((40,) * n_way, 8, noise=3.0)
    state = SVMHead(C=2.0, normalize=False).fit(support, labels).state_
    weight, bias = (state[name].clone().requires_grad_() for name in ("weight", "bias"))
    targets = torch.as_tensor(2 * np.eye(n_way)[labels] - 1)
    short = torch.relu(1 - targets * (torch.as_tensor(support) @ weight.T + bias))
    (weight.square().sum() / 2 + bias.square().sum() / 2 + 2 * short.square().sum()).backward()
    assert (short > 0).any()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-9


def test_svm_of_two_points_in_closed_form():
    # Points -1 and 1, targets 1 and -1 for the first class: w minimises w^2 / 2 + 2 C (1 + w)^2, no intercept.
    head = SVMHead(C=2.0, temperature=1.0).fit([[-5.0], [7.0]], [0, 1])
    np.testing.assert_allclose(head.state_["weight"].numpy(), [[-8 / 9], [8 / 9]], atol=1e-12)
    np.testing.assert_allclose(head.state_["bias"].numpy(), [0, 0], atol=1e-12)


def test_svm_solves_many_classes_a_few_at_a_time_with_the_same_result(monkeypatch):
    support, labels, query = episode((2,) * 7, 10)
    together = SVMHead().fit(support, labels)._scores(query)
    monkeypatch.setattr("fewshot.heads.svm._NUMBERS", 250)
    torch.testing.assert_close(SVMHead().fit(support, labels)._scores(query), together, rtol=0, atol=1e-12)


def test_an_svm_that_did_not_converge_says_so(monkeypatch):
    support, labels, _ = episode((40, 40, 40), 8, noise=3.0)
    monkeypatch.setattr("fewshot.heads.svm._MAX_STEPS", 1)
    with pytest.warns(RuntimeWarning, match="lower C"):
        SVMHead(C=1e3).fit(support, labels)


def gda_by_the_paper(support, labels, query):
    """Bayes' rule with the precision matrix of arXiv:2402.04087, scaled by n where the paper scales by d."""
    n, d = support.shape
    means = np.array([support[labels == c].mean(axis=0) for c in np.unique(labels)])
    covariance = np.cov((support - means[labels]).T).reshape(d, d)
    precision = n * np.linalg.pinv((n - 1) * covariance + np.trace(covariance) * np.eye(d))
    return np.array([[x @ precision @ m - m @ precision @ m / 2 for m in means] for x in query])


@pytest.mark.parametrize(
    ("counts", "d"), [((5, 5), 3), ((2,) * 5, 60), ((5,) * 5, 60), ((1, 4, 7), 60), ((1, 9, 7), 8)]
)
def test_gda_is_the_papers_but_for_scale(counts, d):
    support, labels, query = episode(counts, d)
    expected = gda_by_the_paper(unit(support), labels, unit(query)) / 3
    proba = GDAHead(temperature=3.0).fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(proba, softmax(expected, axis=1), atol=1e-9)
    expected = gda_by_the_paper(support, labels, query)
    far = GDAHead(normalize=False).fit(support + 1e5, labels).predict_proba(query + 1e5)
    np.testing.assert_allclose(far, softmax(expected, axis=1), atol=1e-6)


def test_gda_becomes_linear_discriminant_analysis_with_many_images():
    support, labels, query = episode((2000,) * 3, 5)
    reference = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3)).fit(support, labels)
    ours = GDAHead(normalize=False).fit(support, labels)
    np.testing.assert_allclose(ours.predict_proba(query), reference.predict_proba(query), atol=5e-3)


@pytest.mark.parametrize("shots", [1, 3])
def test_gda_is_the_nearest_mean_where_no_class_varies(shots):
    support, labels, query = episode((1,) * 4, 50)
    support, labels = np.repeat(support, shots, axis=0), np.repeat(labels, shots)
    means = unit(support[::shots])
    nearest = ((unit(query)[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(GDAHead().fit(support, labels).predict(query), nearest)
    single = answers(GDAHead(), support.astype(np.float32), labels, query.astype(np.float32))
    np.testing.assert_array_equal(single.argmax(axis=1), nearest)


def test_gda_of_two_points_in_closed_form():
    # At 0 and 2, the covariance overall is 2 and C = 2 / n = 1: a difference of (1.5^2 - 0.5^2) / 2 = 1 at 0.5.
    head = GDAHead(normalize=False).fit([[0.0], [2.0]], [0, 1])
    np.testing.assert_allclose(head.predict_proba([[0.5]]), [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]])


@SHAPES
@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_knn_equals_a_loop(counts, d, k):
    support, labels, query = episode(counts, d)
    proba = KNNHead(k=k, temperature=0.2).fit(support, labels).predict_proba(query)
    for q, p in zip(query, proba, strict=True):
        cosine = [q @ x / np.linalg.norm(q) / np.linalg.norm(x) for x in support]
        votes = np.full(len(counts), 0.1)
        for i in np.argsort(cosine)[::-1][:k]:
            votes[labels[i]] += np.exp((cosine[i] - max(cosine)) / 0.2)
        np.testing.assert_allclose(p, votes / votes.sum(), atol=1e-9)


@SHAPES
def test_one_neighbour_is_scikit_learns(counts, d):
    support, labels, query = episode(counts, d)
    reference = KNeighborsClassifier(n_neighbors=1, metric="cosine").fit(support, labels)
    np.testing.assert_array_equal(KNNHead(k=1).fit(support, labels).predict(query), reference.predict(query))


def test_equally_near_neighbours_all_vote_whatever_their_order():
    axes = np.eye(3)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        support, labels = axes[[0, 1, 1, 2]][order], np.array([0, 1, 2, 2])[order]
        # The second place is shared by a feature of class 1 and one of class 2.
        proba = KNNHead(k=2, temperature=1.0).fit(support, labels).predict_proba([[2.0, 1.0, 0.0]])
        second = np.exp(-1 / np.sqrt(5))
        np.testing.assert_allclose(proba, [np.array([1.1, second + 0.1, second + 0.1]) / (2 * second + 1.3)])


@SHAPES
def test_tip_adapter_equals_a_loop(counts, d):
    support, labels, query = episode(counts, d)
    proba = TipAdapterHead(alpha=1.5, beta=3.0, temperature=0.2).fit(support, labels).predict_proba(query)
    s = unit(support)
    for q, p in zip(unit(query), proba, strict=True):
        logits = [q @ unit(s[labels == c].mean(axis=0)) / 0.2 for c in range(len(counts))]
        for key, value in zip(s, labels, strict=True):
            logits[value] += 1.5 * np.exp(-3.0 * (1 - q @ key))
        np.testing.assert_allclose(p, softmax(logits), atol=1e-10)


def test_tip_adapter_with_a_class_in_two_places_sees_the_nearer_one():
    # Means hide that the first class is on both sides of the second; neighbours show it.
    support, labels = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.7], [0.7, 1.0]], [0, 0, 1, 1]
    query = [[1.0, 0.1]]
    assert PrototypicalHead().fit(support, labels).predict(query) == [1]
    assert TipAdapterHead(alpha=20.0, beta=20.0).fit(support, labels).predict(query) == [0]


def test_tip_adapter_of_one_image_per_class_ranks_as_class_means():
    support, labels, query = episode((1,) * 5, 60)
    ours, means = (head.fit(support, labels).predict_proba(query) for head in (TipAdapterHead(), PrototypicalHead()))
    np.testing.assert_array_equal(ours.argsort(axis=1), means.argsort(axis=1))


@SHAPES
def test_an_ensemble_is_the_weighted_mean_of_its_members_probabilities(counts, d):
    support, labels, query = episode(counts, d)
    members = {"linear-probe": LinearProbe(), "ridge": RidgeHead(), "mine": GDAHead(temperature=2.0)}
    proba = [head.fit(support, labels).predict_proba(query) for head in members.values()]
    named = ("linear-probe", "ridge", GDAHead(temperature=2.0))
    equal = EnsembleHead(members=named).fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(equal, np.mean(proba, axis=0), atol=1e-12)
    unequal = EnsembleHead(members=list(named), weights=[1, 2.0, 5]).fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(unequal, np.average(proba, axis=0, weights=[1, 2, 5]), atol=1e-12)


def test_an_ensemble_of_one_and_of_the_same_head_twice_is_that_head():
    support, labels, query = episode((2, 3, 1), 20)
    alone = RidgeHead().fit(support, labels).predict_proba(query)
    for members in (("ridge",), ("ridge", "ridge"), [EnsembleHead(members=("ridge",)), RidgeHead()]):
        found = EnsembleHead(members=members).fit(support, labels).predict_proba(query)
        np.testing.assert_allclose(found, alone, atol=1e-12)


def test_an_ensembles_logits_hold_where_probabilities_underflow():
    support, labels, query = episode((1, 1), 20)
    sure = PrototypicalHead(temperature=1e-6)
    logits = EnsembleHead(members=(sure, sure)).fit(support, labels)._scores(query)
    expected = torch.log_softmax(sure.fit(support, labels)._scores(query), dim=-1)
    assert float(expected.min()) < -1000
    torch.testing.assert_close(logits, expected)


def test_an_ensemble_stores_its_arguments_and_leaves_its_members_unfitted():
    support, labels, _ = episode((2, 3), 10)
    members, weights = ["knn", RidgeHead(alpha=3.0)], [1, 2]
    head = EnsembleHead(members=members, weights=weights).fit(support, labels)
    assert head.get_params()["members"] is members
    assert head.weights is weights
    assert not hasattr(members[1], "state_")
    again = clone(head)
    assert again.members[0] == "knn"
    assert again.members[1] is not members[1]
    assert again.members[1].alpha == 3.0
    assert not hasattr(again, "state_")


def test_an_ensemble_is_isometric_where_all_its_members_are():
    class Axes(PrototypicalHead):
        isometric = False

    assert EnsembleHead().isometric
    assert not EnsembleHead(members=("ridge", Axes())).isometric
    assert not EnsembleHead(members=(EnsembleHead(members=[Axes()]), "gda")).isometric


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        (EnsembleHead(members=("tim", "gda")), InvalidInputError, "'tim' labels queries jointly"),
        (EnsembleHead(members=("ridge", TIMHead())), InvalidInputError, r"TIMHead\(\) labels queries jointly"),
        (EnsembleHead(members=("fine-tune",)), InvalidInputError, "'fine-tune' trains on pictures"),
        (EnsembleHead(members=(LogisticRegression(),)), InvalidInputError, r"LogisticRegression\(\) is neither"),
        (EnsembleHead(members=(RidgeHead,)), InvalidInputError, "is neither"),
        (EnsembleHead(members=(None,)), InvalidInputError, "None is neither"),
        (EnsembleHead(members="ridge"), InvalidInputError, "members='ridge': needs a list"),
        (EnsembleHead(members=()), InvalidInputError, "needs a list"),
        (EnsembleHead(members=("rigde",)), UnknownNameError, "Did you mean 'ridge'"),
        (EnsembleHead(members=(RidgeHead(alpha=-1),)), InvalidInputError, "alpha=-1"),
        (EnsembleHead(weights=(1, 2, 3)), InvalidInputError, "one number for each of 2 members"),
        (EnsembleHead(weights=2), InvalidInputError, "one number for each of 2 members"),
        (EnsembleHead(weights=(1, 0)), InvalidInputError, r"weights\[1\]=0"),
        (EnsembleHead(weights=("1", 1)), InvalidInputError, r"weights\[0\]='1'"),
    ],
)
def test_an_ensemble_says_what_cannot_be_a_member(head, error, words):
    with pytest.raises(error, match=words):
        head.fit(np.eye(2), [0, 1])


@SHAPES
@pytest.mark.parametrize("steps", [1, 3])
def test_soft_k_means_equals_a_loop(counts, d, steps):
    support, labels, query = episode(counts, d)
    proba = SoftKMeansHead(steps=steps, temperature=0.2).fit(support, labels).predict_proba(query)
    s, q = unit(support), unit(query)
    means = [s[labels == c].mean(axis=0) for c in range(len(counts))]
    for _ in range(steps):
        share = softmax([[5 * x @ m / np.linalg.norm(m) for m in means] for x in q], axis=1)
        means = [
            (s[labels == c].sum(axis=0) + sum(share[i, c] * q[i] for i in range(len(q)))) / (n + share[:, c].sum())
            for c, n in enumerate(counts)
        ]
    expected = softmax([[5 * x @ m / np.linalg.norm(m) for m in means] for x in q], axis=1)
    np.testing.assert_allclose(proba, expected, atol=1e-10)


def test_soft_k_means_of_a_query_between_two_classes_in_closed_form():
    # Half of the query goes to each class: prototypes point along (1, 0) + (1, 1) / sqrt(8), and its mirror image.
    half = 1 / np.sqrt(8)
    head = SoftKMeansHead(steps=1, temperature=1.0).fit(np.eye(2), [0, 1])
    scores = head._scores([[1.0, 1.0]]).numpy()
    np.testing.assert_allclose(scores, np.full((1, 2), (1 + 2 * half) / np.sqrt(2) / np.hypot(1 + half, half)))


def naive_rectified_prototypes(s, labels, q):
    """Prototype rectification, feature by feature."""
    n_way = labels.max() + 1
    shifted = q + s.mean(axis=0) - q.mean(axis=0)
    start = [unit(s[labels == c].mean(axis=0)) for c in range(n_way)]
    pool = [[] for _ in range(n_way)]
    for x, c in zip(s, labels, strict=True):
        pool[c].append((np.exp(unit(x) @ start[c]), x))
    for x in shifted:
        cosine = [unit(x) @ m for m in start]
        pool[np.argmax(cosine)].append((np.exp(max(cosine)), x))
    return [sum(w * x for w, x in members) / sum(w for w, _ in members) for members in pool]


@SHAPES
def test_bd_cspn_equals_a_loop(counts, d):
    support, labels, query = episode(counts, d)
    proba = BDCSPNHead(temperature=0.2).fit(support, labels).predict_proba(query)
    prototypes = naive_rectified_prototypes(unit(support), labels, unit(query))
    expected = [[x @ unit(p) / 0.2 for p in prototypes] for x in unit(query)]
    np.testing.assert_allclose(proba, softmax(expected, axis=1), atol=1e-10)


def test_bd_cspn_with_the_support_as_queries_in_closed_form():
    # Nothing is shifted, every query joins its own class, and prototypes stay where they were.
    support = np.eye(3)
    scores = BDCSPNHead(temperature=1.0).fit(support, [0, 1, 2])._scores(support).numpy()
    np.testing.assert_allclose(scores, support, atol=1e-12)


@SHAPES
@pytest.mark.parametrize("k", [1, 3, 6])
def test_laplacian_shot_equals_a_loop(counts, d, k):
    support, labels, query = episode(counts, d)
    head = LaplacianShotHead(k=k, laplacian_weight=0.5, steps=7, temperature=1.0)
    proba = head.fit(support, labels).predict_proba(query)
    s, q = unit(support), unit(query)
    distance = np.array([[((x - p) ** 2).sum() for p in naive_rectified_prototypes(s, labels, q)] for x in q])
    between = ((q[:, None] - q) ** 2).sum(axis=-1)
    y = softmax(-distance, axis=1)
    for _ in range(7):
        agree = [sum(y[j] for j in [j for j in np.argsort(row) if j != i][: k - 1]) for i, row in enumerate(between)]
        y = softmax(-distance + 0.5 * np.array([a + np.zeros(len(counts)) for a in agree]), axis=1)
    np.testing.assert_allclose(proba, y, atol=1e-9)


def test_laplacian_shot_lets_equally_near_queries_share_a_place():
    # One neighbour each, and three queries that are the same: each agrees with the two others by half, so that y is a
    # fixed point of y = softmax(-distance + weight y), whatever their order.
    query = np.array([[2.0, 1.0]] * 3)
    head = LaplacianShotHead(k=2, laplacian_weight=0.8, steps=200, temperature=1.0).fit(np.eye(2), [0, 1])
    prototypes = naive_rectified_prototypes(np.eye(2), np.array([0, 1]), unit(query))
    distance = np.array([((unit(query)[0] - p) ** 2).sum() for p in prototypes])
    for y in head.predict_proba(query):
        np.testing.assert_allclose(y, softmax(-distance + 0.8 * y), atol=1e-9)


def tim_objective(head, prototypes, support, labels, query):
    """TIM's objective from its definition, for autograd."""

    def proba(x):
        return torch.softmax(torch.nn.functional.cosine_similarity(x[:, None], prototypes, dim=-1) / 0.2, dim=-1)

    def entropy(p):
        alpha = head.alpha_divergence
        return -(p * p.log()).sum(-1) if alpha == 1 else (1 - p.pow(alpha).sum(-1)) / (alpha - 1)

    p = proba(query)
    return (
        -0.9 * proba(support)[torch.arange(len(labels)), labels].log().mean()
        - 1.3 * entropy(p.mean(0))
        + 0.4 * entropy(p).mean()
    )


TIM_VARIANTS = pytest.mark.parametrize(
    "head",
    [
        TIMHead(
            temperature=0.2, support_weight=0.9, marginal_weight=1.3, conditional_weight=0.4, alpha_divergence=alpha
        )
        for alpha in (0.5, 1.0, 2.0, 5.0)
    ],
    ids=lambda head: f"alpha={head.alpha_divergence}",
)


@TIM_VARIANTS
@SHAPES
def test_tims_gradient_is_autograds(head, counts, d):
    support, labels, query = map(torch.as_tensor, episode(counts, d))
    prototypes = torch.as_tensor(np.random.default_rng(3).normal(size=(len(counts), d))).requires_grad_()
    tim_objective(head, prototypes, support, labels, query).backward()
    features = torch.nn.functional.normalize(torch.cat([support, query]), dim=-1)
    member = torch.nn.functional.one_hot(labels).to(torch.float64)
    ours = head._gradient(prototypes.detach(), features, member)
    np.testing.assert_allclose(ours, prototypes.grad, atol=1e-10)


@TIM_VARIANTS
def test_tims_prototypes_follow_adam_with_one_second_moment_each(head):
    support, labels, query = map(torch.as_tensor, episode((2, 3, 1), 20))
    features = torch.nn.functional.normalize(support, dim=-1)
    prototypes = torch.stack([features[labels == c].mean(0) for c in range(3)])
    first, second = torch.zeros_like(prototypes), torch.zeros(3, 1, dtype=torch.float64)
    for step in range(1, 51):
        prototypes = prototypes.detach().requires_grad_()
        tim_objective(head, prototypes, support, labels, query).backward()
        g = prototypes.grad
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * (g**2).sum(-1, keepdim=True)
        corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
        prototypes = prototypes.detach() - 0.0022 * corrected[0] / (corrected[1].sqrt() + 1e-6)
    expected = torch.nn.functional.cosine_similarity(query[:, None], prototypes, dim=-1) / 0.2
    np.testing.assert_allclose(answers(head, support, labels, query), torch.softmax(expected, -1), atol=1e-8)


def test_tims_entropies_are_continuous_where_shannons_takes_over():
    support, labels, query = episode((2, 2, 2), 20)
    shannon, near = (TIMHead(alpha_divergence=alpha) for alpha in (1.0, 1.0 + 1e-9))
    expected = answers(shannon, support, labels, query)
    np.testing.assert_allclose(answers(near, support, labels, query), expected, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tim_survives_probabilities_that_underflow(alpha, dtype):
    support, labels, query = episode((2, 2, 2), 20)
    head = TIMHead(temperature=1e-4, alpha_divergence=alpha)
    # The last class is far from every query, so that it has no probability at all.
    query[:, :10], support[4:, 10:] = 0, 0
    assert np.isfinite(answers(head, support.astype(dtype), labels, query.astype(dtype))).all()


def test_tims_first_step_is_as_long_as_asked_for():
    support, labels, query = episode((1, 1), 20)
    head = TIMHead(steps=1, step_size=0.05)
    start, moved = unit(support), answers(head, support, labels, query)
    member = torch.eye(2, dtype=torch.float64)
    gradient = head._gradient(
        torch.as_tensor(start), torch.as_tensor(unit(np.vstack([support, query]))), member
    ).numpy()
    prototypes = unit(start - 0.05 * unit(gradient))
    np.testing.assert_allclose(moved, softmax(10 * unit(query) @ prototypes.T, axis=1), atol=1e-5)


def spread_less_confidence(proba):
    """What alpha-TIM minimises on (n_query, n_way) probabilities: alpha is 5, both weights are 1."""
    marginal = (1 - proba.mean(0).pow(5).sum()) / 4
    return ((1 - proba.pow(5).sum(-1)) / 4).mean() - marginal


def alpha_tim_with_adam(support, labels, query):
    """The paper's alpha-TIM by autograd and PyTorch's own Adam: (n_query, n_way) probabilities."""
    s, q = (torch.as_tensor(unit(x)) for x in (support, query))
    prototypes = torch.stack([s[labels == c].mean(0) for c in range(labels.max() + 1)]).requires_grad_()
    optimiser = torch.optim.Adam([prototypes], lr=1e-4)
    for _ in range(1000):
        optimiser.zero_grad()
        directions = torch.nn.functional.normalize(prototypes, dim=-1).T
        on_support, on_query = torch.softmax(15 * s @ directions, -1), torch.softmax(15 * q @ directions, -1)
        cross_entropy = -on_support[torch.arange(len(labels)), labels].log().mean()
        (cross_entropy + spread_less_confidence(on_query)).backward()
        optimiser.step()
    return on_query.detach()


@pytest.mark.parametrize("counts", [(1, 1, 1), (5, 5, 5), (1, 2, 4, 1)])
def test_alpha_tim_gets_as_far_as_the_papers_thousand_steps_of_adam(counts):
    support, labels, query = episode(counts, 60, n_query=40)
    theirs = alpha_tim_with_adam(support, labels, query)
    ours = torch.as_tensor(answers(AlphaTIMHead(answer_temperature=1 / 15), support, labels, query))
    assert (ours.argmax(-1) == theirs.argmax(-1)).double().mean() > 0.95
    assert spread_less_confidence(ours) < spread_less_confidence(theirs)


def test_alpha_tim_is_tim_with_its_settings_and_another_temperature_for_its_answer():
    support, labels, query = episode((2, 3, 1), 20)
    tim = TIMHead(steps=50, step_size=0.02, temperature=1 / 15, conditional_weight=1.0, alpha_divergence=5.0)
    expected = tim.fit(support, labels)._scores(query) / 15 / 0.3
    ours = AlphaTIMHead(answer_temperature=0.3).fit(support, labels)._scores(query)
    torch.testing.assert_close(ours, expected)


def test_alpha_tim_keeps_queries_that_are_mostly_of_one_class_together():
    # Nearly all queries are of the first class: spread evenly, as TIM wants them, more are labelled wrongly.
    right = {}
    for head in (AlphaTIMHead(), TIMHead(steps=50, step_size=0.02, temperature=1 / 15, conditional_weight=1.0)):
        found = []
        for seed in range(10):
            support, labels, query = episode((3, 3, 3), 40, seed, n_query=90, noise=1.2)
            chosen = np.concatenate([np.arange(0, 90, 3), [1, 2]])
            found.append(answers(head, support, labels, query[chosen]).argmax(axis=1) == chosen % 3)
        right[type(head)] = np.mean(found)
    assert right[AlphaTIMHead] > right[TIMHead] + 0.02


def naive_self_training(head, support, labels, query):
    """Self-training, with scikit-learn's ridge and sample weights: (n_query, n_way) scores."""
    s, q, n_way = unit(support), unit(query), labels.max() + 1
    trust = (len(q) - 1) / (len(q) - 1 + head.half_trust * n_way)
    middle = trust * s.mean(axis=0)
    s, q = unit(s - middle), unit(q - middle)
    sums = [s[labels == c].sum(axis=0) for c in range(n_way)]
    prototypes, frequency = sums, np.ones(n_way)
    for _ in range(head.cluster_steps + 1):
        cosine = np.array([[x @ unit(p) for p in prototypes] for x in q])
        p = softmax(cosine / head.cluster_temperature + head.prior * trust * np.log(frequency), axis=1)
        prototypes = [total + trust * sum(p[i, c] * q[i] for i in range(len(q))) for c, total in enumerate(sums)]
        frequency = p.mean(axis=0)
    known = 2 * np.eye(n_way)[labels] - 1
    alone = softmax(Ridge(alpha=head.alpha).fit(s, known).predict(q) / head.guess_temperature, axis=1)
    shots = np.bincount(labels).min()
    belief = trust / shots * p + (1 - trust / shots) * alone
    weights = np.repeat([1, head.query_weight * trust], [len(s), len(q)])
    for _ in range(min(shots + 1, head.steps)):
        ridge = Ridge(alpha=head.alpha).fit(
            np.vstack([s, q]), np.vstack([known, 2 * belief - 1]), sample_weight=weights
        )
        scores = ridge.predict(q)
        belief = softmax(scores / head.guess_temperature, axis=1)
    return scores


@SHAPES
@pytest.mark.parametrize("prior", [0, 0.5])
@pytest.mark.parametrize("steps", [1, 5])
def test_self_training_equals_a_loop_with_scikit_learns_ridge(counts, d, steps, prior):
    support, labels, query = episode(counts, d)
    head = SelfTrainingHead(steps=steps, prior=prior, alpha=0.3, query_weight=0.7, half_trust=1.0, temperature=0.5)
    expected = naive_self_training(head, support, labels, query)
    np.testing.assert_allclose(head.fit(support, labels)._scores(query).numpy() * 0.5, expected, atol=1e-9)


def test_self_training_takes_the_steps_of_each_episodes_own_smallest_class():
    episodes = [episode(counts, 30, seed) for seed, counts in enumerate([(4, 1, 1), (1, 2, 3), (2, 2, 2), (2, 3, 1)])]
    together = answers(SelfTrainingHead(), *(np.stack(parts) for parts in zip(*episodes, strict=True)))
    for (support, labels, query), found in zip(episodes, together, strict=True):
        expected = naive_self_training(SelfTrainingHead(), support, labels, query)
        np.testing.assert_allclose(found, softmax(expected / SelfTrainingHead().temperature, axis=1), atol=1e-9)


@SHAPES
def test_self_training_answers_a_query_by_itself_as_the_ridge_does(counts, d):
    support, labels, query = episode(counts, d)
    ridge = RidgeHead(alpha=0.1, temperature=0.3).fit(support, labels).predict_proba(query)
    head = SelfTrainingHead(temperature=0.3).fit(support, labels)
    for x, expected in zip(query, ridge, strict=True):
        np.testing.assert_allclose(head.predict_proba(x[None])[0], expected, atol=1e-9)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("queries", [(1, 1), (1,) * 5, (2,) * 5, (3,), (20,), (10, 10), (50, 20, 5)], ids=str)
def test_self_training_is_never_much_worse_than_the_ridge_with_few_queries_or_of_few_classes(queries, shots):
    right, alone = [], []
    for seed in range(40):
        support, labels, query = episode(
            (shots,) * 5, 40, seed, n_query=5 * max(queries), noise=1.2 + 0.15 * (shots - 1)
        )
        truth = np.arange(len(query)) % 5
        chosen = np.concatenate([np.flatnonzero(truth == c)[:n] for c, n in enumerate(queries)])
        for head, kept in ((SelfTrainingHead(), right), (RidgeHead(alpha=0.1), alone)):
            kept.append((answers(head, support, labels, query[chosen]).argmax(axis=1) == truth[chosen]).mean())
    assert np.mean(right) > np.mean(alone) - 0.03


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [5, 60])
def test_self_training_survives_a_vanishing_penalty(dtype, d):
    support, labels, query = episode((2, 2, 2), d)
    query[1] = query[0]
    proba = answers(SelfTrainingHead(alpha=1e-300), support.astype(dtype), labels, query.astype(dtype))
    assert np.isfinite(proba).all()


def naive_pt_map(head, support, labels, query, *, balanced):
    """PT-MAP with a matrix of shares, scaled until it is a transport: (n_query, n_way) shares."""
    n_way = labels.max() + 1
    s, q = (unit(np.sign(x) * np.abs(x) ** head.power) for x in (support, query))
    s, q = unit(s - s.mean(axis=0)), unit(q - (q if balanced else s).mean(axis=0))
    centres = np.array([s[labels == c].mean(axis=0) for c in range(n_way)])
    frequency = np.ones(n_way)
    for epoch in range(head.epochs + 1):
        distances = np.array([[((x - centre) ** 2).sum() for centre in centres] for x in q])
        shares = np.exp(-head.sharpness * distances)
        if balanced:
            for _ in range(1000):
                shares = shares / shares.sum(axis=0) * (len(q) / n_way)
                shares = shares / shares.sum(axis=1, keepdims=True)
        else:
            shares = shares * np.sqrt(frequency)
            shares = shares / shares.sum(axis=1, keepdims=True)
            frequency = shares.mean(axis=0)
        if epoch < head.epochs:
            for c in range(n_way):
                pool = s[labels == c].sum(axis=0) + sum(shares[i, c] * q[i] for i in range(len(q)))
                mean = pool / ((labels == c).sum() + shares[:, c].sum())
                centres[c] += head.rate * (mean - centres[c])
    return shares


@SHAPES
@pytest.mark.parametrize("power", [0.5, 1])
@pytest.mark.parametrize("balanced", [False, True])
def test_pt_map_equals_a_loop(counts, d, balanced, power):
    support, labels, query = episode(counts, d)
    support[:, 0] *= -1
    head = PTMAPHead(balanced=balanced, power=power, epochs=4, rate=0.3, sharpness=2.0, rounds=300, temperature=1.0)
    proba = head.fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(proba, naive_pt_map(head, support, labels, query, balanced=balanced), atol=1e-7)


@SHAPES
def test_pt_maps_few_rounds_are_enough_for_equal_amounts(counts, d):
    support, labels, query = episode(counts, d)
    proba = PTMAPHead(balanced=True, temperature=1.0).fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(proba.sum(axis=0), 24 / len(counts), rtol=0.01)


def test_pt_map_of_two_points_in_closed_form():
    # Centred, all are at -1 and 1 of one axis. Sure shares leave centres there, and squared distances are 0 and 4.
    X, queries = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]]
    for balanced in (False, True):
        head = PTMAPHead(balanced=balanced, power=1, sharpness=100.0, temperature=100.0).fit(X, [0, 1])
        np.testing.assert_allclose(head._scores(queries).numpy() @ [1, -1], [4, -4], atol=1e-9)
    # Two queries that are both nearer to the second class.
    queries = [[1.0, 2.0], [0.0, 3.0]]
    assert PTMAPHead().fit(X, [0, 1]).predict(queries).tolist() == [1, 1]
    assert PTMAPHead(balanced=True).fit(X, [0, 1]).predict(queries).tolist() == [0, 1]


def test_pt_map_makes_no_use_of_a_balance_that_cannot_be():
    support, labels, query = episode((2, 2, 2), 20)
    expected = PTMAPHead().fit(support, labels).predict_proba(query[:2])
    np.testing.assert_array_equal(PTMAPHead(balanced=True).fit(support, labels).predict_proba(query[:2]), expected)


def test_declared_balance_helps_where_it_is_true_and_only_there():
    right = {(declared, true): [] for declared in (False, True) for true in (False, True)}
    for seed in range(10):
        support, labels, query = episode((1,) * 5, 40, seed, n_query=75, noise=1.2)
        truth = np.arange(75) % 5
        for declared, true in right:
            kept = np.arange(75) if true else np.flatnonzero((truth < 2) | (np.arange(75) < 10))
            found = answers(PTMAPHead(balanced=declared), support, labels, query[kept]).argmax(axis=1)
            right[declared, true].append((found == truth[kept]).mean())
    mean = {key: np.mean(value) for key, value in right.items()}
    assert mean[True, True] >= mean[False, True]
    assert mean[False, False] > mean[True, False] + 0.1


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (RidgeHead(alpha=0), "alpha="),
        (RidgeHead(temperature=-1), "temperature="),
        (SVMHead(C=0), "C="),
        (SVMHead(temperature=0), "temperature="),
        (GDAHead(temperature=0), "temperature="),
        *((TipAdapterHead(**{name: 0}), name) for name in ("alpha", "beta", "temperature")),
        (KNNHead(k=0), "k=0: needs a whole number of at least 1"),
        (KNNHead(k=1.5), "k=1.5"),
        (KNNHead(k=True), "k=True"),
        (KNNHead(temperature="1"), "temperature="),
        (SoftKMeansHead(steps=0), "steps="),
        (SoftKMeansHead(temperature=0), "temperature="),
        (BDCSPNHead(temperature=0), "temperature="),
        (LaplacianShotHead(k=0), "k="),
        (LaplacianShotHead(steps=-1), "steps="),
        (LaplacianShotHead(laplacian_weight=0), "laplacian_weight="),
        (LaplacianShotHead(temperature=0), "temperature="),
        (TIMHead(steps=0), "steps="),
        (AlphaTIMHead(steps=0), "steps="),
        *((AlphaTIMHead(**{name: -1}), name) for name in AlphaTIMHead().get_params() if name != "steps"),
        (PTMAPHead(balanced="yes"), "balanced='yes'"),
        (PTMAPHead(rate=1.5), "rate=1.5: needs a number of at most 1"),
        *((PTMAPHead(**{name: 0}), name) for name in PTMAPHead().get_params()),
        (SelfTrainingHead(steps=0), "steps="),
        (SelfTrainingHead(cluster_steps=1.5), "cluster_steps="),
        *((SelfTrainingHead(**{name: -1}), name) for name in SelfTrainingHead().get_params() if "steps" not in name),
        *((TIMHead(**{name: -1}), name) for name in TIMHead().get_params() if name != "steps"),
    ],
)
def test_parameters_out_of_range_are_named(head, word):
    with pytest.raises(InvalidInputError, match=word):
        head.fit(np.eye(2), [0, 1])
