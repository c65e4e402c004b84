"""What to label next: typical images first, then uncertain ones, and better than chance."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fewshot.errors import InvalidInputError
from fewshot.suggestions import suggest


def clusters(sizes, n_features=16, spread=0.4, seed=0):
    """Return features around so many centres, and which centre each belongs to."""
    rng = np.random.default_rng(seed)
    centres = rng.gamma(0.5, size=(len(sizes), n_features))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return np.abs(centres[labels] + spread * rng.normal(size=(len(labels), n_features)) / 4), labels


def test_the_first_suggestions_are_one_of_each_cluster():
    features, labels = clusters([30, 25, 20, 15], spread=0.1)
    assert sorted(labels[suggest(features, 4)]) == [0, 1, 2, 3]


def test_the_first_of_one_cluster_is_the_one_with_the_nearest_neighbours():
    features, _ = clusters([15])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = [np.mean([np.linalg.norm(a - b) for b in unit if b is not a]) for a in unit]
    assert suggest(features, 1).tolist() == [np.argmin(distance)]


def test_clusters_that_have_a_label_come_last():
    features, labels = clusters([40, 10, 10], spread=0.1)
    known = np.flatnonzero(labels == 0)[:1]
    pool = np.setdiff1d(np.arange(len(labels)), known)
    chosen = suggest(features[pool], 2, labelled_features=features[known], labels=labels[known])
    assert sorted(labels[pool][chosen]) == [1, 2]


def test_with_enough_labels_the_uncertain_images_are_wanted():
    # Two classes along an axis; all images but those in the middle are certain.
    angle = np.concatenate([np.linspace(0, 0.3, 30), np.linspace(1.2, 1.5, 30), [0.74, 0.75, 0.76]])
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    known, labels = features[[0, 5, 35, 55]], ["a", "a", "b", "b"]
    assert suggest(features, 1, labelled_features=known, labels=labels).item() in (60, 61, 62)


def test_uncertain_images_that_are_wanted_together_are_not_copies_of_each_other():
    rng = np.random.default_rng(0)
    features, labels = clusters([40, 40, 40], spread=1.5)
    known = np.concatenate([np.flatnonzero(labels == c)[:2] for c in range(3)])
    fitted = LogisticRegression(C=10).fit(features[known], labels[known])
    doubtful = np.argmin(np.ptp(np.sort(fitted.predict_proba(features), axis=1)[:, 1:], axis=1))
    copies = features[doubtful] + 1e-6 * rng.random((20, features.shape[1]))
    pool = np.concatenate([features, copies])
    chosen = suggest(pool, 6, labelled_features=features[known], labels=labels[known])
    assert sum(i >= len(features) or i == doubtful for i in chosen) <= 2


@pytest.mark.parametrize("n_labelled", [0, 3, 20])
@pytest.mark.parametrize("n", [1, 7, 60, 100])
def test_positions_are_distinct_and_as_many_as_wanted(n_labelled, n):
    features, labels = clusters([40, 40])
    extra = {"labelled_features": features[:n_labelled], "labels": labels[:n_labelled]} if n_labelled else {}
    chosen = suggest(features[20:], n, **extra)
    assert len(set(chosen.tolist())) == len(chosen) == min(n, 60)
    assert set(chosen.tolist()) <= set(range(60))


@pytest.mark.parametrize("n_labelled", [0, 20])
def test_the_same_seed_suggests_the_same_and_lengths_do_not_matter(n_labelled):
    features, labels = clusters([40, 40])
    extra = {"labelled_features": features[:n_labelled], "labels": labels[:n_labelled]} if n_labelled else {}
    first = suggest(features[20:], 8, seed=3, **extra)
    assert first.tolist() == suggest(4 * features[20:], 8, seed=3, **extra).tolist()


@pytest.mark.parametrize("n_labelled", [0, 4])
def test_copies_of_one_image_are_suggested_without_complaint(n_labelled):
    extra = {"labelled_features": np.eye(4)[:n_labelled], "labels": list("aabb")} if n_labelled else {}
    assert sorted(suggest(np.ones((5, 4)), 3, **extra)) == sorted(set(suggest(np.ones((5, 4)), 3, **extra)))
    assert suggest(np.zeros((2, 4)), 2, **extra).shape == (2,)
    assert suggest(np.empty((0, 4)), 2, **extra).shape == (0,)


def test_suggested_labels_teach_more_than_random_ones(fruits, backbone):
    pytest.importorskip("pyarrow")
    from fewshot.features import extract_views
    from fewshot.heads import make_head

    pool = fruits["train"]
    chosen = [i for name in pool.class_names[:8] for i in np.flatnonzero(np.array(pool.labels) == name)[:12]]
    features = extract_views(backbone, [pool.sources[i] for i in chosen])[:, 0]
    labels = np.repeat(np.arange(8), 12)
    suggested, random = [], []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(labels))
        train, test = order[:64], order[64:]
        for scores, picked in ((suggested, suggest(features[train], 8, seed=seed)), (random, np.arange(8))):
            head = make_head("ridge").fit(features[train][picked], labels[train][picked])
            scores.append(np.mean(head.predict(features[test]) == labels[test]))
    assert np.mean(suggested) > np.mean(random) + 0.1


@pytest.mark.parametrize(
    ("arguments", "extra", "said"),
    [
        ((np.ones(3), 1), {}, r"\(3,\)"),
        ((np.ones((3, 2)), 0), {}, "n=0"),
        ((np.ones((3, 2)), 1), {"labels": ["a"]}, "both"),
        ((np.ones((3, 2)), 1), {"labels": ["a"], "labelled_features": np.ones((1, 3))}, r"\(1, 3\)"),
        ((np.ones((3, 2)), 1), {"labels": ["a"], "labelled_features": np.ones((2, 2))}, r"\(2, 2\)"),
        ((np.full((3, 2), np.inf), 1), {}, "infinite"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, extra, said):
    with pytest.raises(InvalidInputError, match=said):
        suggest(*arguments, **extra)
