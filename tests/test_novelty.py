"""Novelty: scores and thresholds against naive loops, and what they do with as little as one image."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import invgamma, norm

from fewshot import novelty
from fewshot.errors import InvalidInputError
from fewshot.novelty import NoveltyDetector


def unit(row):
    return row / np.linalg.norm(row)


def known_and_novel(n_classes, k_shot, seed=0, n_query=200, n_features=40):
    """Return support, labels, queries of the same classes and of others; non-negative, as a CNN's features are."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, size=(2 * n_classes, n_features))
    labels = np.repeat(np.arange(n_classes), k_shot)

    def draw(classes):
        return np.abs(centres[classes] + 0.8 * rng.normal(size=(len(classes), n_features)))

    known, novel = (rng.integers(low, low + n_classes, n_query) for low in (0, n_classes))
    return draw(labels), labels, draw(known), draw(novel)


def views_of(images, seed=1, n_views=4):
    rng = np.random.default_rng(seed)
    return np.abs(images[:, None] + 0.3 * rng.normal(size=(len(images), n_views, images.shape[1])))


def naive_prototypes(rows, labels):
    prototypes = [
        unit(np.mean([unit(r) for r, k in zip(rows, labels, strict=True) if k == c], axis=0))
        for c in range(max(labels) + 1)
    ]
    centre = np.mean(prototypes, axis=0) * (len(prototypes) - 1) / len(prototypes)
    return [unit(p - centre) for p in prototypes], centre


def naive_left_out(rows, labels):
    """Distances of each image to the prototypes of all others; an image alone in its class is left away."""
    found = {}
    for i in range(len(rows)):
        if (labels == labels[i]).sum() > 1:
            keep = np.arange(len(rows)) != i
            prototypes, centre = naive_prototypes(rows[keep], labels[keep])
            found[i] = [np.linalg.norm(unit(unit(rows[i]) - centre) - p) for p in prototypes]
    return found


def naive_scales(rows, labels):
    left_out = naive_left_out(rows, labels)
    spread = {
        c: np.mean([left_out[i][c] ** 2 for i in left_out if labels[i] == c]) for c in {labels[i] for i in left_out}
    }
    if len(spread) < 2:
        return np.ones(max(labels) + 1)
    typical, n = np.mean(list(spread.values())), np.bincount(labels)
    return np.array(
        [
            ((n[c] * spread[c] + 2 * typical) / (n[c] + 2) / typical) ** 0.25 if c in spread else 1.0
            for c in range(len(n))
        ]
    )


@pytest.mark.parametrize("counts", [(1,), (4,), (1, 1, 1), (2, 2), (3, 1, 5), (1, 2)])
def test_scores_are_those_of_a_loop(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = known_and_novel(len(counts), 5)[0][: len(labels)]
    queries = known_and_novel(len(counts), 1, seed=3, n_query=6)[2]
    prototypes, centre = naive_prototypes(rows, labels)
    scales = naive_scales(rows, labels)
    expected = [
        min(np.linalg.norm(unit(unit(q) - centre) - p) / s for p, s in zip(prototypes, scales, strict=True))
        for q in queries
    ]
    detector = NoveltyDetector().fit(rows, labels)
    np.testing.assert_allclose(detector.scales_, scales, rtol=1e-9)
    np.testing.assert_allclose(detector.score(queries), expected, rtol=1e-9)


def predictive_tail(threshold, scores, size, prior_mean, worth):
    """P(x > threshold) by integrating a normal over the posterior of its mean and variance, numerically."""
    scores, s0, n0 = np.asarray(scores), novelty._DEVIATION, novelty._IMAGES_WORTH
    mean, spread = (scores.mean(), scores.var()) if len(scores) else (0.0, 0.0)
    total = worth + size
    scatter = n0 * s0**2 + size * spread + worth * size / total * (mean - prior_mean) ** 2
    posterior = invgamma((n0 + size) / 2, scale=scatter / 2)
    centre = (worth * prior_mean + size * mean) / total
    low, high = posterior.ppf([1e-9, 1 - 1e-9])
    return quad(
        lambda v: posterior.pdf(v) * norm.sf(threshold, centre, np.sqrt(v * (1 + 1 / total))), low, high, limit=200
    )[0]


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize(
    ("counts", "with_views"), [((1,), True), ((2,), False), ((2, 2), True), ((5, 3), True), ((6,), False)]
)
def test_the_threshold_is_the_predictive_quantile(counts, with_views, rate):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = known_and_novel(len(counts), 6)[0][: len(labels)]
    views = views_of(rows) if with_views else None
    detector = NoveltyDetector(rejection_rate=rate, view_ratio=2.5).fit(rows, labels, views)
    scales = naive_scales(rows, labels)
    scores = [min(np.array(row) / scales) for row in naive_left_out(rows, labels).values()]
    prior = 0.0
    if with_views:
        centred = [[unit(unit(v) - detector.centre_) for v in image] for image in views]
        pairs = [np.sum((a[i] - a[j]) ** 2) for a in centred for i in range(4) for j in range(i)]
        prior = 2.5 * np.sqrt(np.mean(pairs))
    tail = predictive_tail(
        detector.threshold_, scores, sum(n - 1 for n in counts), prior, novelty._VIEWS_WORTH * with_views
    )
    assert tail == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("n_classes", [1, 2])
def test_nothing_is_novel_where_there_is_nothing_to_set_a_threshold_by(n_classes):
    rows, labels, _, novel = known_and_novel(n_classes, 1)
    detector = NoveltyDetector().fit(rows, labels)
    assert detector.threshold_ == np.inf
    assert not detector.is_novel(novel).any()
    assert np.isfinite(NoveltyDetector().fit(rows, labels, views_of(rows)).threshold_)


def naive_class_left_out(rows, labels):
    """Mean distance of images to the nearest prototype, about the centre, of all classes but their own."""
    scales, found = naive_scales(rows, labels), []
    for i in range(len(rows)):
        keep = labels != labels[i]
        others = np.flatnonzero(np.arange(len(scales)) != labels[i])
        prototypes, centre = naive_prototypes(rows[keep], np.searchsorted(others, labels[keep]))
        image = unit(unit(rows[i]) - centre)
        found.append(min(np.linalg.norm(image - p) / scales[c] for p, c in zip(prototypes, others, strict=True)))
    return np.mean(found)


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 2, 2), (3, 1, 5), (2, 1, 1, 4)])
def test_the_threshold_of_several_classes_joins_classes_left_out_and_images_left_out(counts, rate):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = known_and_novel(len(counts), 5)[0][: len(labels)]
    expected = novelty._SHARES[rate] * naive_class_left_out(rows, labels)
    size, worth = sum(counts) - len(counts), novelty._SHARES_WORTH
    if size:
        scales = naive_scales(rows, labels)
        scores = [min(np.array(row) / scales) for row in naive_left_out(rows, labels).values()]
        expected = (size * np.quantile(scores, 1 - rate) + worth * expected) / (size + worth)
    detectors = [NoveltyDetector(rate).fit(rows, labels, views) for views in (None, views_of(rows))]
    assert [one.threshold_ for one in detectors] == pytest.approx([expected, expected])


def test_one_image_of_each_of_several_classes_tells_what_is_of_none_of_them():
    rates = []
    for seed in range(30):
        rows, labels, known, novel = known_and_novel(5, 1, seed, n_query=50)
        detector = NoveltyDetector().fit(rows, labels)
        rates.append([detector.is_novel(known).mean(), detector.is_novel(novel).mean()])
    rejected_known, rejected_novel = np.mean(rates, axis=0)
    assert 0 < rejected_known < 0.1
    assert rejected_novel > 4 * rejected_known


def test_shares_fall_as_the_rate_grows_and_those_between_are_between():
    values = [novelty.share(rate) for rate in (0.001, 0.02, 0.03, 0.05, 0.5, 0.9)]
    assert values == sorted(values, reverse=True)
    assert values[1] > values[2] > values[3]


@pytest.mark.parametrize("n_classes", [1, 3])
def test_much_support_keeps_the_rate_of_rejection_promised(n_classes):
    rows, labels, known, novel = known_and_novel(n_classes, 400, n_query=2000)
    detector = NoveltyDetector(rejection_rate=0.1).fit(rows, labels, views_of(rows))
    assert detector.is_novel(known).mean() == pytest.approx(0.1, abs=0.03)
    assert detector.is_novel(novel).mean() > 0.9


@pytest.mark.parametrize("n_classes", [1, 4])
def test_two_images_per_class_do_not_give_too_tight_a_threshold(n_classes):
    rejected = []
    for seed in range(60):
        rows, labels, known, _ = known_and_novel(n_classes, 2, seed, n_query=50)
        rejected.append(NoveltyDetector().fit(rows, labels).is_novel(known).mean())
    assert np.mean(rejected) < 0.05


def test_fewer_images_give_a_wider_threshold():
    rows = known_and_novel(1, 50)[0]
    few = [NoveltyDetector().fit(rows[i : i + 2]).threshold_ for i in range(0, 50, 2)]
    assert np.mean(few) > NoveltyDetector().fit(rows).threshold_


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_lower_rate_gives_a_higher_threshold(n_classes):
    rows, labels, _, _ = known_and_novel(n_classes, 5)
    found = [NoveltyDetector(rejection_rate=rate).fit(rows, labels).threshold_ for rate in (0.2, 0.1, 0.05, 0.01)]
    assert found == sorted(found)


def test_lengths_of_features_and_kinds_of_labels_do_not_matter():
    rows, labels, known, _ = known_and_novel(3, 3)
    names = np.array(["x", "y", "z"])[labels]
    one, other = NoveltyDetector().fit(rows, labels), NoveltyDetector().fit(7 * rows, names)
    np.testing.assert_allclose(one.score(known), other.score(0.1 * known), rtol=1e-9)
    assert one.threshold_ == pytest.approx(other.threshold_)


def test_copies_of_one_image_are_fitted_without_complaint():
    same = np.ones((4, 3))
    detector = NoveltyDetector().fit(same, list("aabb"), np.ones((4, 2, 3)))
    assert np.isfinite(detector.threshold_)
    assert np.isfinite(detector.score(np.eye(3))).all()
    assert NoveltyDetector().fit(np.zeros((2, 3))).score(np.zeros((1, 3))).shape == (1,)


def test_no_query_gives_no_score():
    detector = NoveltyDetector().fit(np.eye(3))
    assert detector.score(np.empty((0, 3))).shape == detector.is_novel(np.empty((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.ones((2, 3)), ["a"]), r"\(2, 3\).*\(1,\)"),
        ((np.empty((0, 3)),), r"\(0, 3\)"),
        ((np.ones(3),), r"\(3,\)"),
        ((np.full((2, 3), np.nan),), "finite"),
        ((np.ones((2, 3)), None, np.ones((2, 1, 3))), "two views"),
        ((np.ones((2, 3)), None, np.ones((2, 2, 4))), r"\(2, 2, 4\)"),
        ((np.ones((2, 3)), None, np.ones((2, 3))), "3 dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, said):
    with pytest.raises(InvalidInputError, match=said):
        NoveltyDetector().fit(*arguments)


@pytest.mark.parametrize("parameters", [{"rejection_rate": 0}, {"rejection_rate": 1.0}, {"view_ratio": -1}])
def test_parameters_out_of_range_are_refused(parameters):
    with pytest.raises(InvalidInputError, match=next(iter(parameters))):
        NoveltyDetector(**parameters).fit(np.eye(3))


def test_features_of_another_width_are_refused():
    with pytest.raises(InvalidInputError, match="fitted on 3"):
        NoveltyDetector().fit(np.eye(3)).score(np.eye(4))
