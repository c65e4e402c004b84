"""Distribution calibration: its samples' means and covariances by their definition, and scikit-learn's classifier."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from fewshot.errors import InvalidInputError, ModelFileError
from fewshot.heads.distribution_calibration import DistributionCalibrationHead, _in_order
from fewshot.modelfile.heads import describe_own

MANY = 10_000


def episode(counts, d, seed=0, n_query=24):
    """Return support, labels, queries: non-negative features, with counts[c] support features of class c."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(1.0, size=(len(counts), d))
    labels = np.repeat(np.arange(len(counts)), counts)
    truth = np.arange(n_query) % len(counts)
    support, query = (np.abs(centres[y] + rng.normal(size=(len(y), d))) for y in (labels, truth))
    return support, labels, query


def base_classes(n_base=6, d=5, seed=3):
    """Return means (n_base, d) and covariances (n_base, d, d) of unlike scales."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_base, d, d)) * rng.uniform(0.05, 0.3, size=(n_base, 1, 1))
    return rng.normal(size=(n_base, d)), factors @ factors.swapaxes(1, 2)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def from_support(head, features, labels):
    """Return what a head samples without base classes: (n_way, n_samples, d)."""
    return head._from_support(torch.from_numpy(features), torch.from_numpy(labels), int(labels.max()) + 1).numpy()


def assert_covariance(samples, expected):
    # The standard error of a variance v from m pairs is v sqrt(2 / m).
    found = np.cov(samples.T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(found - expected).max() < 6 * np.sqrt(4 / len(samples)) * scale.max()


@pytest.mark.parametrize("counts", [(4, 4), (1, 3, 6)])
def test_samples_have_the_means_of_the_classes_and_the_widened_covariance_within_them(counts):
    support, labels, _ = episode(counts, 4)
    samples = from_support(DistributionCalibrationHead(n_samples=MANY, alpha=0.5), support, labels)
    means = np.array([support[labels == c].mean(axis=0) for c in range(len(counts))])
    within = sum((x - means[y])[:, None] * (x - means[y]) for x, y in zip(support, labels, strict=True))
    within = within / (len(labels) - len(counts))
    overall = np.cov(support.T)
    np.testing.assert_allclose(samples.mean(axis=1), means, atol=1e-12)
    for of_class in samples:
        assert_covariance(of_class, within + 0.5 * np.trace(within) / np.trace(overall) * overall)


@pytest.mark.parametrize("copies", [1, 3])
def test_where_no_class_varies_samples_vary_as_the_support_does(copies):
    support, _, _ = episode((1, 1, 1, 1), 3)
    support, labels = np.repeat(support, copies, axis=0), np.repeat(np.arange(4), copies)
    samples = from_support(DistributionCalibrationHead(n_samples=MANY, alpha=0.3), support, labels)
    np.testing.assert_allclose(samples.mean(axis=1), support[::copies], atol=1e-12)
    for of_class in samples:
        assert_covariance(of_class, 0.3 * np.cov(support.T))


@pytest.mark.parametrize("kind", ["covariances", "variances"])
@pytest.mark.parametrize("k", [1, 2])
def test_samples_about_base_classes_are_the_papers(kind, k):
    support, labels, _ = episode((2, 1), 5)
    means, covariances = base_classes()
    given = covariances if kind == "covariances" else np.diagonal(covariances, axis1=1, axis2=2).copy()
    head = DistributionCalibrationHead(base_means=means, base_covariances=given, n_samples=MANY, k=k, alpha=0.4)
    samples = head._from_base(torch.from_numpy(support), torch.from_numpy(labels), 2).numpy()
    # The pairs of the first class are of its two support features in turn.
    drawn = [samples[0].reshape(-1, 2, 5)[i::2].reshape(-1, 5) for i in (0, 1)] + [samples[1]]
    for x, found in zip(support, drawn, strict=True):
        near = sorted(range(6), key=lambda i: np.linalg.norm(means[i] - x))[:k]
        expected = np.mean([covariances[i] for i in near], axis=0)
        if kind == "variances":
            expected = np.diag(np.diag(expected))
        np.testing.assert_allclose(found.mean(axis=0), (means[near].sum(axis=0) + x) / (k + 1), atol=1e-12)
        assert_covariance(found, expected + 0.4 * np.trace(expected) / 5 * np.eye(5))


def test_base_classes_of_more_features_than_images_have_covariances_without_a_factor():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 3, 20))
    covariances = np.array([np.cov(of_class.T) for of_class in images])
    head = DistributionCalibrationHead(base_means=images.mean(axis=1), base_covariances=covariances)
    support, labels, query = episode((1, 2, 30), 20)
    assert np.isfinite(head.fit(support, labels).predict_proba(query)).all()


@pytest.mark.parametrize("n_samples", [50, 7])
@pytest.mark.parametrize(("counts", "d"), [((1, 1), 30), ((3, 4), 3), ((1, 4, 2), 40)])
def test_the_classifier_is_scikit_learns_on_support_and_samples(counts, d, n_samples):
    support, labels, query = episode(counts, d)
    head = DistributionCalibrationHead(n_samples=n_samples, C=0.1)
    # In the same space as the head, so that the samples are the same ones.
    rows, classes = _in_order(torch.from_numpy(unit(support)), torch.from_numpy(labels))
    samples = from_support(head, rows.numpy(), classes.numpy())
    rows = np.vstack([rows.numpy(), samples.reshape(-1, d)])
    classes = np.concatenate([classes.numpy(), np.repeat(np.arange(len(counts)), n_samples)])
    reference = LogisticRegression(C=75 / n_samples, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(rows, classes)
    found = head.fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(found, reference.predict_proba(unit(query)), atol=1e-6)


def test_the_classifier_is_scikit_learns_on_support_and_samples_about_base_classes():
    support, labels, query = episode((2, 1, 3), 5)
    means, covariances = base_classes()
    head = DistributionCalibrationHead(base_means=means, base_covariances=covariances)
    rows, classes = _in_order(torch.from_numpy(unit(support)), torch.from_numpy(labels))
    samples = head._from_base(rows, classes, 3).numpy()
    rows = np.vstack([rows.numpy(), samples.reshape(-1, 5)])
    classes = np.concatenate([classes.numpy(), np.repeat(np.arange(3), 50)])
    reference = LogisticRegression(C=15, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(rows, classes)
    found = head.fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(found, reference.predict_proba(unit(query)), atol=1e-6)


def test_without_variation_to_speak_of_samples_are_copies_of_the_support():
    support, labels, query = episode((1, 1, 1), 20)
    reference = LogisticRegression(C=15, solver="newton-cg", tol=1e-12, max_iter=10_000)
    reference.fit(unit(support), labels, sample_weight=[51] * 3)
    found = DistributionCalibrationHead(alpha=1e-14).fit(support, labels).predict_proba(query)
    np.testing.assert_allclose(found, reference.predict_proba(unit(query)), atol=1e-5)


def test_noise_outside_the_span_that_is_as_likely_reflected_changes_no_classifier():
    rng = np.random.default_rng(0)
    rows, noise, classes = rng.normal(size=(30, 4)), rng.normal(size=(30, 3)), np.arange(30) % 3
    both = np.vstack([np.hstack([rows, noise]), np.hstack([rows, -noise])])
    solver = {"solver": "newton-cg", "tol": 1e-9, "max_iter": 10_000}
    with_noise = LogisticRegression(C=1, **solver).fit(both, np.tile(classes, 2))
    without = LogisticRegression(C=2, **solver).fit(rows, classes)
    np.testing.assert_allclose(with_noise.coef_[:, :4], without.coef_, atol=1e-6)
    np.testing.assert_allclose(with_noise.coef_[:, 4:], 0, atol=1e-6)


def test_a_seed_gives_the_same_samples_and_another_gives_others():
    support, labels, query = episode((2, 2, 2), 30)
    first, again, other = (
        DistributionCalibrationHead(seed=seed).fit(support, labels).predict_proba(query) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert 1e-4 < np.abs(first - other).max() < 0.2


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 2, 4)])
def test_few_samples_say_about_what_many_say(counts):
    support, labels, query = episode(counts, 60)
    few, many = (DistributionCalibrationHead(n_samples=n).fit(support, labels) for n in (50, 2000))
    assert np.abs(few.predict_proba(query) - many.predict_proba(query)).mean() < 0.05


def test_normal_numbers_are_normal_and_come_in_opposite_pairs():
    noise = DistributionCalibrationHead(n_samples=MANY)._noise(20).numpy()
    np.testing.assert_array_equal(noise[::2], -noise[1::2])
    half = noise[::2].ravel()
    assert abs(half.mean()) < 4 / np.sqrt(len(half))
    assert half.var() == pytest.approx(1, abs=6 * np.sqrt(2 / len(half)))
    assert (np.abs(half) < 1.959964).mean() == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / len(half)))


def test_a_power_is_taken_before_features_are_scaled():
    support, labels, query = episode((2, 3), 10)
    signs = np.where(np.arange(10) % 3 == 0, -1, 1)
    found = DistributionCalibrationHead(power=0.5).fit(support * signs, labels).predict_proba(query * signs)
    roots = DistributionCalibrationHead().fit(np.sqrt(support) * signs, labels)
    np.testing.assert_allclose(found, roots.predict_proba(np.sqrt(query) * signs), atol=1e-9)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_the_order_of_support_images_does_not_matter_even_where_they_are_centred(base, centred):
    support, labels, query = episode((3, 2, 4), 5)
    support = support - centred * support.mean(axis=0)
    statistics = dict(zip(("base_means", "base_covariances"), base_classes(), strict=True)) if base else {}
    head = DistributionCalibrationHead(**statistics)
    expected = head.fit(support, labels).predict_proba(query)
    order = np.random.default_rng(5).permutation(len(labels))
    np.testing.assert_allclose(head.fit(support[order], labels[order]).predict_proba(query), expected, atol=1e-8)


def test_a_batch_about_base_classes_gives_what_single_fits_give():
    means, covariances = base_classes()
    head = DistributionCalibrationHead(base_means=means, base_covariances=covariances, n_samples=9)
    episodes = [episode((2, 1, 2), 5, seed) for seed in range(6)]
    support, labels, query = (
        torch.from_numpy(np.stack(parts)).view(2, 3, *parts[0].shape) for parts in zip(*episodes, strict=True)
    )
    logits = head._logits(head._fit(support, labels, 3), query).flatten(0, 1)
    for found, (one_support, one_labels, one_query) in zip(logits, episodes, strict=True):
        alone = head.fit(one_support, one_labels).predict_proba(one_query)
        np.testing.assert_allclose(torch.softmax(found, -1).numpy(), alone, atol=1e-9)


def test_answers_depend_on_axes_where_there_is_a_power_or_there_are_base_classes():
    means, covariances = base_classes()
    assert DistributionCalibrationHead().isometric
    assert not DistributionCalibrationHead(power=0.5).isometric
    assert not DistributionCalibrationHead(base_means=means, base_covariances=covariances).isometric


MEANS, COVARIANCES = base_classes()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"alpha": 0}, "alpha=0"),
        ({"C": -1.0}, "C=-1.0"),
        ({"power": float("nan")}, "power=nan"),
        ({"k": 0}, "k=0"),
        ({"n_samples": 2.5}, "n_samples=2.5"),
        ({"n_samples": 10_001}, "at most 10000"),
        ({"seed": -1}, "seed=-1: needs a whole number of at least 0"),
        ({"seed": True}, "seed=True"),
        ({"seed": 10_001}, "at most 10000"),
        ({"base_means": MEANS}, "base_covariances: needs a NumPy array.*None"),
        ({"base_covariances": COVARIANCES}, "base_means: needs a NumPy array.*None"),
        ({"base_means": MEANS.tolist(), "base_covariances": COVARIANCES}, "base_means: needs a NumPy array"),
        ({"base_means": MEANS.astype(int), "base_covariances": COVARIANCES}, r"int64 of shape \(6, 5\)"),
        ({"base_means": MEANS * np.nan, "base_covariances": COVARIANCES}, "finite"),
        ({"base_means": MEANS[0], "base_covariances": COVARIANCES}, r"shape \(5,\): needs \(n_base, d\)"),
        ({"base_means": MEANS, "base_covariances": COVARIANCES, "k": 7}, "at least k=7"),
        ({"base_means": MEANS, "base_covariances": COVARIANCES[1:]}, r"\(5, 5, 5\): needs \(6, 5, 5\)"),
        ({"base_means": MEANS, "base_covariances": -COVARIANCES}, "none of these below 0"),
        ({"base_means": MEANS, "base_covariances": COVARIANCES + np.eye(5)[:, [1, 0, 2, 4, 3]][[0]]}, "symmetric"),
        ({"base_means": MEANS[:, 1:], "base_covariances": COVARIANCES[:, 1:, 1:]}, "have 4 features, the support 5"),
    ],
)
def test_parameters_and_base_classes_that_do_not_fit_are_refused(parameters, words):
    support, labels, _ = episode((1, 2), 5)
    with pytest.raises(InvalidInputError, match=words):
        DistributionCalibrationHead(**parameters).fit(support, labels)


def test_base_classes_are_cloned_and_a_model_with_them_is_refused_until_they_are_taken_off():
    support, labels, query = episode((1, 2), 5)
    head = DistributionCalibrationHead(base_means=MEANS, base_covariances=COVARIANCES).fit(support, labels)
    np.testing.assert_array_equal(clone(head).base_means, MEANS)
    with pytest.raises(ModelFileError, match="cannot be saved"):
        describe_own(head)
    expected = head.predict_proba(query)
    head.set_params(base_means=None, base_covariances=None)
    assert describe_own(head)["name"] == "distribution-calibration"
    np.testing.assert_array_equal(head.predict_proba(query), expected)
