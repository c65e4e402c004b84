"""The automatic head against naive loops, and what it says of its choice."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge

from fewshot.heads.auto import MEMBERS, AutoHead
from fewshot.heads.gda import GDAHead

RNG = np.random.default_rng(5)


def blobs(counts, d=40, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(counts), d))[y] + noise * rng.normal(size=(len(y), d)), y


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def naive_members(X, y, n_way, Q):
    """Scores (3, n_query, n_way) of the members, by other people's code where there is some, at a margin of 1."""
    targets = 2.0 * np.eye(n_way)[y] - 1
    logistic = LogisticRegression(C=30.0, max_iter=10_000, tol=1e-10).fit(X, y)
    ridge = Ridge(alpha=0.2).fit(X, targets)
    gda = GDAHead().fit(X, y)

    def scores(A):
        z = logistic.decision_function(A)
        if n_way == 2:
            z = np.stack([-z, z], axis=1) / 2
        state = {name: value.numpy() for name, value in gda.state_.items()}
        return [z, ridge.predict(A), (A - state["centre"]) @ state["weight"].T + state["bias"]]

    found = []
    for own, asked in zip(scores(X), scores(Q), strict=True):
        others = (own.sum(axis=1) - own[np.arange(len(y)), y]) / (n_way - 1)
        found.append(asked / (own[np.arange(len(y)), y] - others).mean())
    return np.stack(found)


def test_with_one_image_per_class_it_averages_its_members():
    X, y = blobs([1, 1, 1, 1])
    Q = RNG.normal(size=(9, 40))
    head = AutoHead().fit(X, y)
    logits = naive_members(unit(X), y, 4, unit(Q)).mean(axis=0) / head.margin_share
    np.testing.assert_allclose(head.predict_proba(Q), np.exp(log_softmax(logits, axis=1)), atol=1e-5)
    assert "with one image of a class none can be held out" in head.explain()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [[3, 3, 3], [2, 2], [2, 4, 3], [7, 8]])
def test_it_holds_out_parts_of_each_class_in_turn_and_decides_by_one_standard_error(counts, seed):
    X, y = blobs(counts, noise=1.5, seed=seed)
    X, n_way, folds = unit(X), len(counts), min(*counts, 5)
    along = X @ X.mean(axis=0)
    fold = np.empty(len(y), dtype=int)
    for one in range(n_way):
        rows = np.flatnonzero(y == one)
        fold[rows[along[rows].argsort()]] = np.arange(len(rows)) % folds
    held_out = np.empty((3, len(y), n_way))
    for one in range(folds):
        held_out[:, fold == one] = naive_members(X[fold != one], y[fold != one], n_way, X[fold == one])

    def fitted(z):
        """Losses at the best temperature, and its logarithm relative to the prior's."""
        grid = np.arange(-2, 5.0001, 0.125)
        losses = [-log_softmax(z / (0.13 * np.exp(t)), axis=1)[np.arange(len(y)), y] for t in grid]
        best = int(np.argmin([loss.sum() + (t / 0.3) ** 2 / 2 for t, loss in zip(grid, losses, strict=True)]))
        return losses[best], grid[best]

    default, t = fitted(held_out.mean(axis=0))
    weights = [1 / 3] * 3
    differences = [default - fitted(z)[0] for z in held_out]
    gains = np.array([d.mean() for d in differences])
    passed = gains > [d.std(ddof=1) / np.sqrt(len(y)) + 1e-6 for d in differences]
    best = int(np.argmax(np.where(passed, gains, gains - 1e6)))
    if passed[best]:
        weights, t = np.eye(3)[best], fitted(held_out[best])[1]
    head = AutoHead(margin_share=0.13, spread=0.3).fit(X, y)
    np.testing.assert_allclose(head.state_["weights"], weights, atol=1e-12)
    assert float(head.state_["temperature"]) == pytest.approx(0.13 * np.exp(t))
    assert float(head.state_["gain"]) == pytest.approx(differences[best].mean(), abs=1e-5)
    Q = unit(RNG.normal(size=(5, 40)))
    logits = np.tensordot(weights, naive_members(X, y, n_way, Q), axes=1) / (0.13 * np.exp(t))
    np.testing.assert_allclose(head.predict_proba(Q), np.exp(log_softmax(logits, axis=1)), atol=1e-4)


def test_episodes_with_classes_of_different_sizes_get_what_each_gets_alone():
    X, _ = blobs([3, 3, 3])
    labels = np.array([[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 2, 2, 2]])
    support = torch.from_numpy(np.stack([X, X[::-1].copy()]))
    head = AutoHead()
    together = head._fit(support, torch.from_numpy(labels), 3)
    for i in range(2):
        alone = head._fit(support[i], torch.from_numpy(labels[i]), 3)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value)


def test_a_method_that_is_clearly_better_is_chosen_and_the_sentence_says_so():
    # A strong direction that every class varies along: shrunk Gaussians discount it, the others do not.
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), 12)
    X = 3 + 0.3 * rng.normal(size=(3, 60))[y] + 0.05 * rng.normal(size=(36, 60))
    X[:, 0] += 6 * rng.normal(size=36)
    head = AutoHead().fit(X, y)
    chosen = MEMBERS[int(head.state_["weights"].argmax())]
    assert float(head.state_["weights"].max()) == 1
    assert head.explain().startswith(f"Chose {chosen}: it is better than the average")


def test_a_default_that_nothing_beats_says_so():
    # Copies: whatever is held out was seen, and every method knows it as well as the others.
    X, y = blobs([1, 1])
    head = AutoHead().fit(np.repeat(X, 4, axis=0), np.repeat(y, 4))
    assert head.state_["weights"].tolist() == pytest.approx([1 / 3] * 3)
    assert head.explain().startswith("Chose the average of linear-probe, ridge and gda, the default: no single method")


@pytest.mark.parametrize("k_shot", [1, 3])
def test_views_of_an_image_are_held_out_with_it_and_the_image_itself_is_asked_about(k_shot):
    # Views that are copies say nothing new: the choice is that without them, and so is the temperature but for members
    # that a sample counting fourfold makes a little surer.
    X, y = blobs([k_shot] * 4, noise=4.0)
    alone, fourfold = AutoHead().fit(X, y), AutoHead(views=4).fit(np.repeat(X, 4, axis=0), np.repeat(y, 4))
    as_images = AutoHead().fit(np.repeat(X, 4, axis=0), np.repeat(y, 4))
    assert fourfold.state_["weights"].tolist() == alone.state_["weights"].tolist()
    if k_shot == 1:
        assert "with one image of a class none can be held out" in fourfold.explain()
    # Taken for images, copies are known by heart.
    assert float(as_images.state_["temperature"]) <= float(fourfold.state_["temperature"])


def test_what_cannot_be_told_apart_is_not_told_apart():
    X = np.repeat(np.random.default_rng(0).normal(size=(3, 20)), 2, axis=0)
    head = AutoHead().fit(X, [0, 1] * 3)
    np.testing.assert_allclose(head.predict_proba(X), 0.5, atol=1e-6)


def test_answers_to_held_out_images_that_are_no_better_than_chance_make_it_unsure():
    rng = np.random.default_rng(0)
    head = AutoHead().fit(rng.normal(size=(600, 30)), rng.integers(0, 5, 600))
    assert head.predict_proba(rng.normal(size=(100, 30))).max(axis=1).mean() < 0.35


def test_held_out_answers_are_those_the_choice_was_made_by():
    X, y = blobs([4, 4, 4], noise=1.5)
    head = AutoHead().fit(X, y)
    answers = head.answer_held_out(X[:, None].astype(np.float32), y)
    assert answers.logits.shape == (12, 3)
    assert sorted(answers.labels.tolist()) == y.tolist()
    temperature = float(head.state_["temperature"])

    def surprise(factor):
        loss = -log_softmax(factor * answers.logits, axis=1)[np.arange(12), answers.labels].sum()
        return loss + (np.log(temperature / factor / 0.13) / 0.3) ** 2 / 2

    for step in (-0.125, 0.125):
        assert surprise(np.exp(step)) > surprise(1.0) - 1e-9
