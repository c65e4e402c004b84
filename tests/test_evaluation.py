"""Heads on episodes of features: the span of the support gives the answers of the vectors, in any number of threads."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

import fewshot
from fewshot.episodes import EpisodeSampler, Protocol
from fewshot.errors import DatasetError, InvalidInputError, UnknownNameError
from fewshot.evaluation import DRAW, FeatureTask, evaluate_blocks, logits_of
from fewshot.gram import EpisodeSpace
from fewshot.heads import list_heads, make_head
from fewshot.heads.base import Head, TransductiveHead
from fewshot.heads.linear_probe import LinearProbe
from fewshot.heads.prototypical import PrototypicalHead

HEADS = [head for head in map(make_head, list_heads()) if isinstance(head, Head)]
HEADS += [PrototypicalHead(metric="euclidean"), LinearProbe(C=100.0), LinearProbe(normalize=False, C=0.01)]


def features(n_classes=8, per_class=30, d=200, seed=0):
    """Non-negative features of widely different lengths around class centres, as a CNN's are."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    centres = rng.gamma(1.0, size=(n_classes, d))
    values = np.abs(centres[labels] + 4 * rng.normal(size=(len(labels), d)))
    return (values * rng.uniform(0.5, 2, size=(len(labels), 1))).astype(np.float32), labels


X, Y = features()


def space(values=X, dtype=torch.float64, **more):
    return EpisodeSpace(values, dtype=dtype, **more)


def rows(batch):
    return torch.from_numpy(np.array(batch.support)), torch.from_numpy(np.array(batch.query))


@pytest.mark.parametrize("budget", [1 << 30, 0], ids=["all products", "each episode's products"])
@pytest.mark.parametrize("jointly", [False, True])
def test_coordinates_keep_lengths_and_inner_products(jointly, budget):
    support, query = rows(EpisodeSampler(Y, Protocol(5, 3, 7)).draw(range(6)))
    s, q = space(budget=budget).coordinates(support, query, jointly=jointly)
    vectors = torch.from_numpy(X).double()
    assert s.shape[-1] == q.shape[-1] == (50 if jointly else 16)
    torch.testing.assert_close(s @ s.mT, vectors[support] @ vectors[support].mT, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(q @ s.mT, vectors[query] @ vectors[support].mT, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(q.norm(dim=-1), vectors[query].norm(dim=-1), rtol=1e-9, atol=1e-7)
    if jointly:
        torch.testing.assert_close(q @ q.mT, vectors[query] @ vectors[query].mT, rtol=1e-9, atol=1e-7)


def test_repeated_nearly_repeated_and_zero_features_are_no_special_case():
    values = X.copy()
    values[1] = values[0]
    values[2] = values[0] * (1 + 1e-6)
    values[3] = 0
    values[4] = 3 * values[5]
    support, query = torch.tensor([[0, 1, 2, 3, 4, 5, 40]]), torch.tensor([[0, 3, 5, 41, 1, 40]])
    vectors = torch.from_numpy(values).double()
    for jointly in (False, True):
        s, q = space(values).coordinates(support, query, jointly=jointly)
        assert s.isfinite().all()
        assert q.isfinite().all()
        torch.testing.assert_close(q @ s.mT, vectors[query] @ vectors[support].mT, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(q.norm(dim=-1), vectors[query].norm(dim=-1), rtol=1e-6, atol=1e-4)


def test_where_features_have_few_dimensions_they_are_used_as_they_are():
    support, query = rows(EpisodeSampler(Y, Protocol(5, 3, 7)).draw(range(3)))
    narrow = space(X[:, :12])
    s, q = narrow.coordinates(support, query)
    torch.testing.assert_close(s.float(), torch.from_numpy(X[:, :12])[support])
    torch.testing.assert_close(q.float(), torch.from_numpy(X[:, :12])[query])


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("k_shot", [1, 5])
def test_every_head_gives_the_answers_of_single_fits_on_the_features(head, k_shot):
    sampler = EpisodeSampler(Y, Protocol(4, k_shot, 6), seed=1)
    batch = sampler.draw(range(9))
    if head.isometric:
        support, query = space().coordinates(*rows(batch), jointly=isinstance(head, TransductiveHead))
    else:
        support, query = space().vectors(*rows(batch))
    logits = head._logits(head._fit(support, torch.from_numpy(np.array(batch.support_labels)), 4), query)
    for i, episode in enumerate(batch):
        alone = make_head(head).fit(X[episode.support], episode.support_labels)
        expected = alone.predict_proba(X[episode.query])
        np.testing.assert_allclose(torch.softmax(logits[i], -1).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_float32_says_what_float64_says(head):
    sampler = EpisodeSampler(Y, Protocol(5, 5, 15), seed=2)
    found = [
        evaluate_blocks(FeatureTask(X[:, None], sampler, dtype=dtype), {"head": head}, range(128))["head"]
        for dtype in (torch.float32, torch.float64)
    ]
    # Where two neighbours, or two classes, are equally near to within rounding, single answers may differ.
    np.testing.assert_allclose(found[0].accuracy, found[1].accuracy, atol=1.01 / 75)
    assert np.mean(found[0].accuracy) == pytest.approx(np.mean(found[1].accuracy), abs=1e-3)
    agree = np.isclose(found[0].log_loss, found[1].log_loss, rtol=1e-3, atol=1e-4)
    assert agree.mean() > 0.98


def test_logistic_regression_is_at_scikit_learns_optimum():
    sampler = EpisodeSampler(Y, Protocol(5, 5, 15), seed=3)
    batch = sampler.draw(range(20))
    s, q = space(dtype=torch.float32).coordinates(*rows(batch))
    head = LinearProbe()
    proba = torch.softmax(head._logits(head._fit(s, torch.from_numpy(np.array(batch.support_labels)), 5), q), -1)
    for i, episode in enumerate(batch):
        reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=10000)
        reference.fit(normalize(X[episode.support].astype(np.float64)), episode.support_labels)
        expected = reference.predict_proba(normalize(X[episode.query].astype(np.float64)))
        np.testing.assert_allclose(proba[i].numpy(), expected, atol=1e-4)


def test_scores_are_those_of_a_naive_loop():
    protocol = {"n_way": 3, "k_shot": 2, "n_query": 5, "seed": 9}
    report = fewshot.evaluate_features(X, Y, heads=["prototypical"], n_episodes=20, **protocol)
    series = report.find("features", "prototypical", 2)
    for index in range(20):
        episode = fewshot.sample_episode(Y, index=index, **protocol)
        head = PrototypicalHead().fit(X[episode.support], episode.support_labels)
        right = head.predict(X[episode.query]) == episode.query_labels
        assert series.accuracy[index] == pytest.approx(right.mean(), abs=1e-6)
        recalls = [right[episode.query_labels == c].mean() for c in range(3)]
        assert series.balanced_accuracy[index] == pytest.approx(np.mean(recalls), abs=1e-6)
        proba = head.predict_proba(X[episode.query])[np.arange(15), episode.query_labels]
        assert series.log_loss[index] == pytest.approx(-np.log(proba).mean(), abs=1e-4)
    assert sum(row[0] for row in series.calibration) == 20 * 15


def test_results_depend_neither_on_threads_nor_on_how_many_episodes_follow():
    sampler = EpisodeSampler(Y, Protocol(5, 1, 5))
    task = FeatureTask(X[:, None], sampler)
    heads = {"linear-probe": make_head("linear-probe")}
    one, two = (evaluate_blocks(task, heads, range(3 * DRAW), n_jobs=n)["linear-probe"] for n in (1, 2))
    assert one.accuracy == two.accuracy
    assert one.log_loss == two.log_loss
    part = evaluate_blocks(task, heads, range(DRAW, 2 * DRAW))["linear-probe"]
    assert part.log_loss == one.log_loss[DRAW : 2 * DRAW]


def test_episodes_of_different_shapes_come_back_in_order():
    protocol = {"n_way": (2, 4), "k_shot": (1, 3), "n_query": 5, "imbalance": 1.0}
    heads = ["prototypical", "soft-kmeans"]
    report = fewshot.evaluate_features(X, Y, heads=heads, n_episodes=30, seed=1, **protocol)
    series = report.find("features", "prototypical", "1-3")
    assert series.episodes == tuple(range(30))
    episode = fewshot.sample_episode(Y, seed=1, index=13, **protocol)
    head = PrototypicalHead().fit(X[episode.support], episode.support_labels)
    right = head.predict(X[episode.query]) == episode.query_labels
    assert series.accuracy[13] == pytest.approx(right.mean(), abs=1e-6)
    assert {row.strategy: row.setting for row in report.summary()} == {
        "prototypical": "inductive",
        "soft-kmeans": "transductive",
    }


def test_views_are_learned_from_and_never_asked_about():
    views = np.stack([X, X + 0.1, X * 1.1], axis=1)
    report = fewshot.evaluate_features(views, Y, heads=["linear-probe"], n_way=3, k_shot=1, n_query=5, n_episodes=5)
    for index, found in enumerate(report.find("features", "linear-probe", 1).accuracy):
        episode = fewshot.sample_episode(Y, n_way=3, k_shot=1, n_query=5, index=index)
        support = views[episode.support].reshape(-1, X.shape[1])
        head = LinearProbe().fit(support, np.repeat(episode.support_labels, 3))
        assert found == pytest.approx((head.predict(X[episode.query]) == episode.query_labels).mean(), abs=1e-6)


def test_any_scikit_learn_classifier_takes_part():
    heads = {"1-nn": KNeighborsClassifier(1, metric="cosine"), "knn": make_head("knn").set_params(k=1)}
    report = fewshot.evaluate_features(X, Y, heads=heads, n_way=4, k_shot=3, n_query=5, n_episodes=10)
    assert report.find("features", "1-nn", 3).accuracy == report.find("features", "knn", 3).accuracy
    assert report.compare("1-nn", "knn").p_value == 1


def test_the_answer_counts_even_where_it_is_not_the_most_probable_class():
    logits = logits_of(np.array([[0.6, 0.4], [0.5, 0.5], [1.0, 0.0]]), np.array([1, 1, 0]))
    assert logits.argmax(axis=1).tolist() == [1, 1, 0]
    assert np.isfinite(logits).all()


def test_the_worst_episode_is_found_with_what_it_missed():
    report = fewshot.evaluate_features(X, Y, heads=["prototypical"], n_way=4, k_shot=1, n_query=5, n_episodes=100)
    worst = report.examples[0]
    series = report.find("features", "prototypical", 1)
    assert worst.accuracy == min(series.accuracy)
    assert series.accuracy[worst.index] == worst.accuracy
    assert len(worst.missed) == min(12, round((1 - worst.accuracy) * 20))
    assert all(image.label != answer for image, answer in zip(worst.missed, worst.answers, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"heads": ["ridgee"]}, UnknownNameError, "ridge"),
        ({"heads": ["fine-tune"]}, InvalidInputError, "trains on pictures"),
        ({"heads": []}, InvalidInputError, "none given"),
        ({"heads": ["knn", "knn"]}, InvalidInputError, "twice"),
        ({"heads": {"bad": LinearProbe(C=-1)}}, InvalidInputError, "C=-1"),
        ({"features": X[:5]}, InvalidInputError, "5 feature vectors and 240 labels"),
        ({"features": X[0]}, InvalidInputError, "Got features"),
        ({"features": np.where(np.arange(len(X))[:, None] == 3, np.nan, X)}, InvalidInputError, "NaN"),
        ({"features": [["a"]] * len(Y)}, InvalidInputError, "no array of real numbers"),
        ({"features": 1e20 * X}, InvalidInputError, "1e12"),
        ({"labels": [None, *Y[1:]]}, InvalidInputError, "1 of 240 labels are missing"),
        ({"n_episodes": 0}, InvalidInputError, "n_episodes=0"),
        ({"n_episodes": 2.5}, InvalidInputError, "n_episodes=2.5"),
        ({"n_jobs": 0}, InvalidInputError, "n_jobs=0"),
        ({"imbalance": "2"}, InvalidInputError, "imbalance='2'"),
        ({"heads": [KNeighborsClassifier(15)]}, InvalidInputError, "KNeighborsClassifier.*cannot be used"),
        ({"k_shot": 26}, DatasetError, "Every class needs 31 images"),
        ({"reference": "gda"}, UnknownNameError, "gda"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_evaluated_is_refused(change, error, words):
    arguments = {"features": X, "labels": Y, "heads": ["prototypical"], "n_query": 5, "n_episodes": 3} | change
    with pytest.raises(error, match=words):
        fewshot.evaluate_features(**arguments)


def test_features_far_from_the_origin_are_learned_from_in_float32():
    report = fewshot.evaluate_features(
        X + 1000, Y, heads={"raw": LinearProbe(normalize=False)}, n_way=3, k_shot=5, n_query=5, n_episodes=20
    )
    for index, found in enumerate(report.find("features", "raw", 5).accuracy):
        episode = fewshot.sample_episode(Y, n_way=3, k_shot=5, n_query=5, index=index)
        reference = LogisticRegression(tol=1e-8, max_iter=10000)
        reference.fit(X[episode.support].astype(np.float64), episode.support_labels)
        assert found == pytest.approx(reference.score(X[episode.query], episode.query_labels), abs=1 / 15 + 1e-6)


def test_a_head_whose_scores_are_no_numbers_is_refused():
    class Broken(PrototypicalHead):
        isometric = False

        def _logits(self, state, query):
            return super()._logits(state, query) * float("nan")

    with pytest.raises(InvalidInputError, match=r"broken cannot be used.*NaN"):
        fewshot.evaluate_features(X, Y, heads={"broken": Broken()}, n_query=5, n_episodes=3)


def test_large_episodes_are_drawn_in_parts_that_do_not_show(monkeypatch):
    protocol = {"n_way": None, "n_query": None, "k_shot": 2}
    whole = fewshot.evaluate_features(X, Y, heads=["prototypical"], n_episodes=12, **protocol)
    monkeypatch.setattr("fewshot.evaluation._MAX_DRAWN", 1000)
    parts = fewshot.evaluate_features(X, Y, heads=["prototypical"], n_episodes=12, **protocol)
    assert parts.find("features", "prototypical", 2).accuracy == whole.find("features", "prototypical", 2).accuracy
