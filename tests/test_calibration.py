"""Temperatures from the support alone: against naive refits, and on answers whose temperature is known."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from fewshot.calibration import MARGIN_SHARE, SPREAD, margin_share, support_temperature
from fewshot.errors import InvalidInputError
from fewshot.heads import list_heads, make_head
from fewshot.heads.base import Head, TransductiveHead
from fewshot.held_out import HeldOut, held_out, margins, stratified_folds
from fewshot.metrics import calibration_bins, expected_calibration_error

HEADS = [make_head(name) for name in list_heads() if isinstance(make_head(name), Head)]
INDUCTIVE = [head for head in HEADS if not isinstance(head, TransductiveHead)]


def support_set(counts, n_features=30, n_views=1, seed=0):
    """Return (n, n_views, d) features and labels, so many images of each class, in a mixed order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = rng.gamma(1.0, size=(len(counts), n_features))
    images = centres[labels] + rng.normal(size=(len(labels), n_features))
    views = images[:, None] + 0.2 * rng.normal(size=(len(labels), n_views, n_features))
    return np.abs(views), np.array(["ant", "bee", "cat", "dog"])[labels]


def raw_logits(head, features):
    return head._logits(head.state_, torch.from_numpy(features)).numpy()


def naive_margin(logits, codes):
    return np.mean([row[c] - np.delete(row, c).max() for row, c in zip(logits, codes, strict=True)])


def naive_held_out(head, views, labels):
    """Refit a copy of the head for each fold."""
    names = np.unique(labels)
    places = [np.flatnonzero(labels == name) for name in names]
    folds = min(len(part) for part in places if len(part) > 1)
    logits, codes, own = [], [], []
    for j in range(folds):
        left_out = [i for part in places if len(part) > 1 for i in np.array_split(part, folds)[j]]
        kept = np.delete(np.arange(len(labels)), left_out)
        fitted = clone(head).fit(np.concatenate(views[kept]), np.repeat(labels[kept], views.shape[1]))
        margin = naive_margin(raw_logits(fitted, views[kept, 0]), np.searchsorted(names, labels[kept]))
        for place in left_out:
            logits.append(raw_logits(fitted, views[place, :1])[0])
            codes.append(names.tolist().index(labels[place]))
            own.append(margin)
    return np.array(logits), np.array(codes), np.array(own)


@pytest.mark.parametrize("head", INDUCTIVE, ids=str)
@pytest.mark.parametrize(("counts", "n_views"), [((3, 3, 3), 1), ((2, 5), 3), ((1, 2, 4), 1)])
def test_held_out_answers_are_those_of_naive_refits(head, counts, n_views):
    views, labels = support_set(counts, n_views=n_views)
    logits, codes, own = naive_held_out(head, views, labels)
    answers = held_out(head, views, labels)
    # Folds come by their size.
    ours, theirs = np.lexsort(answers.logits.round(4).T), np.lexsort(logits.round(4).T)
    np.testing.assert_allclose(answers.logits[ours], logits[theirs], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(answers.labels[ours], codes[theirs])
    np.testing.assert_allclose(answers.margins[ours], own[theirs], rtol=1e-5, atol=1e-6)


def test_folds_computed_in_parts_give_the_same(monkeypatch):
    views, labels = support_set((6, 6), n_views=2)
    whole = held_out(INDUCTIVE[0], views, labels)
    monkeypatch.setattr("fewshot.held_out._MAX_NUMBERS", 2 * views.size)
    for one, other in zip(whole, held_out(INDUCTIVE[0], views, labels), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_no_image_is_held_out_of_its_class_where_it_is_the_only_one():
    assert stratified_folds(np.array([0, 1, 2]), 20) == []
    folds = stratified_folds(np.array([0, 1, 1, 0, 2, 1]), 20)
    assert [fold.tolist() for fold in folds] == [[0, 1, 2], [3, 5]]
    # Every image is in one fold, and those of a class that follow each other are in the same.
    folds = stratified_folds(np.array([0, 1] * 5), 2)
    assert [fold.tolist() for fold in folds] == [[0, 2, 4, 1, 3, 5], [6, 8, 7, 9]]
    answers = held_out(INDUCTIVE[0], np.eye(3), ["a", "b", "c"])
    assert answers.logits.shape == (0, 3)
    assert answers.labels.shape == answers.margins.shape == (0,)


def test_held_out_answers_leave_the_head_as_it_was():
    views, labels = support_set((3, 3))
    head = make_head("ridge").fit(views[:, 0], labels)
    before = {name: value.clone() for name, value in head.state_.items()}
    support_temperature(head, views, labels)
    assert all(torch.equal(before[name], value) for name, value in head.state_.items())


@pytest.mark.parametrize("head", INDUCTIVE, ids=str)
def test_with_one_image_per_class_the_temperature_is_a_share_of_the_margin(head):
    views, labels = support_set((1, 1, 1))
    fitted = clone(head).fit(views[:, 0], labels)
    margin = naive_margin(raw_logits(fitted, views[:, 0]), np.unique(labels, return_inverse=True)[1])
    assert support_temperature(fitted, views, labels) == pytest.approx(MARGIN_SHARE * margin if margin > 0 else 1.0)


@pytest.mark.parametrize("n_views", [1, 3])
def test_the_temperature_is_the_best_of_a_fine_grid(n_views):
    views, labels = support_set((4, 4, 4), n_views=n_views)
    head = make_head("ridge").fit(np.concatenate(views), np.repeat(labels, n_views))
    logits, codes, own = naive_held_out(head, views, labels)
    margin = naive_margin(raw_logits(head, views[:, 0]), np.unique(labels, return_inverse=True)[1])
    grid = MARGIN_SHARE * np.exp(np.linspace(-1.5, 1.5, 3001))
    costs = [
        -log_softmax(logits / (share * own[:, None]), axis=1)[np.arange(len(codes)), codes].sum()
        + np.log(share / MARGIN_SHARE) ** 2 / (2 * SPREAD**2)
        for share in grid
    ]
    assert support_temperature(head, views, labels) == pytest.approx(margin * grid[np.argmin(costs)], rel=2e-3)


def test_scaling_the_logits_scales_the_temperature():
    views, labels = support_set((3, 3, 3))
    found = [
        support_temperature(make_head("ridge").set_params(temperature=t).fit(views[:, 0], labels), views, labels)
        for t in (1.0, 0.1)
    ]
    assert found[1] == pytest.approx(10 * found[0], rel=1e-4)


def test_much_evidence_finds_the_true_ratio_and_none_the_prior():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(20_000, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(logits / (0.5 * 2.0), axis=1)])
    assert margin_share(HeldOut(logits, labels, np.full(20_000, 2.0))) == pytest.approx(0.5, rel=0.03)
    assert margin_share(HeldOut(logits[:0], labels[:0], np.empty(0))) == MARGIN_SHARE
    assert margin_share(HeldOut(logits, labels, np.full(20_000, -1.0))) == MARGIN_SHARE


def test_classifiers_without_logits_get_one():
    views, labels = support_set((3, 3))
    assert support_temperature(LogisticRegression().fit(views[:, 0], labels), views, labels) == 1.0
    assert support_temperature(make_head("tim").fit(views[:, 0], labels), views, labels) == 1.0


def test_a_head_that_cannot_tell_its_own_support_apart_gets_one():
    same = np.ones((4, 5))
    assert support_temperature(make_head("ridge").fit(same, list("aabb")), same, list("aabb")) == 1.0


def test_margins_are_those_of_a_loop():
    logits, labels = torch.randn(2, 6, 4), torch.randint(0, 4, (2, 6))
    for found, rows, codes in zip(margins(logits, labels), logits, labels, strict=True):
        assert float(found.mean()) == pytest.approx(naive_margin(rows.numpy(), codes.numpy()), rel=1e-5)


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.ones((3, 2)), ["a", "b"], r"\(3, 2\).*\(2,\)"),
        (np.ones(3), ["a", "b", "a"], r"\(3,\)"),
        (np.full((2, 2), np.nan), ["a", "b"], "NaN"),
        (np.ones((2, 2)), ["a", "a"], "1 class"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(features, labels, said):
    with pytest.raises(InvalidInputError, match=said):
        held_out(INDUCTIVE[0], features, labels)


@pytest.mark.parametrize("k_shot", [1, 5])
def test_temperature_makes_a_head_on_photographs_better_calibrated(fruits, backbone, k_shot):
    pytest.importorskip("pyarrow")
    from fewshot.features import extract_views

    pool = fruits["train"]
    names = pool.class_names[:8]
    chosen = [i for name in names for i in np.flatnonzero(np.array(pool.labels) == name)[:12]]
    features = extract_views(backbone, [pool.sources[i] for i in chosen])[:, 0].reshape(len(names), 12, -1)
    plain, calibrated = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        classes = rng.choice(len(names), 5, replace=False)
        order = rng.permutation(12)
        support, query = features[classes][:, order[:k_shot]], features[classes][:, order[k_shot:]]
        rows = np.concatenate(support)
        head = make_head("linear-probe").fit(rows, np.repeat(range(5), k_shot))
        logits = raw_logits(head, np.concatenate(query).astype(np.float64))
        truth = np.repeat(range(5), 12 - k_shot)
        temperature = support_temperature(head, rows, np.repeat(range(5), k_shot))
        for bins, divided in ((plain, 1.0), (calibrated, temperature)):
            bins.append(calibration_bins(softmax(logits / divided, axis=1), truth))
    assert expected_calibration_error(calibrated) < expected_calibration_error(plain) / 2
