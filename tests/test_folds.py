"""Folds that keep together what shows one thing."""

import numpy as np
from sklearn.model_selection import RepeatedStratifiedKFold

from fewshot.images.folds import grouped_folds, units_per_class


def test_without_groups_these_are_the_folds_of_scikit_learn():
    labels = ["a"] * 7 + ["b"] * 9
    found = grouped_folds(labels, np.arange(16), n_folds=3, repeats=2, seed=5)
    expected = RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=5).split(np.zeros(16), labels)
    for (train, test), (expected_train, expected_test) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(train, expected_train)
        np.testing.assert_array_equal(test, expected_test)


def test_no_group_is_trained_on_and_tested_on_and_every_class_is_always_trained_on():
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels = rng.choice(["a", "b", "c"], 60).tolist()
        # Groups of any size, within classes and across them.
        first = np.array([int(rng.integers(0, i + 1)) if rng.random() < 0.6 else i for i in range(60)])
        groups = np.array([int(first[first[i]]) for i in range(60)])
        groups = np.array([np.flatnonzero(groups == group)[0] for group in groups])
        units = units_per_class(labels, groups)
        n_folds = min(5, *units.values())
        if n_folds < 2:
            continue
        splits = grouped_folds(labels, groups, n_folds=n_folds, repeats=2, seed=seed)
        assert len(splits) == 2 * n_folds
        for train, test in splits:
            assert not set(groups[train]) & set(groups[test])
            assert {labels[i] for i in train} == {"a", "b", "c"}
            assert sorted([*train, *test]) == list(range(60))
        for repeat in (splits[:n_folds], splits[n_folds:]):
            assert sorted(i for _, test in repeat for i in test) == list(range(60))


def test_versions_of_one_picture_count_once():
    assert units_per_class(["a", "a", "a", "b", "b"], np.array([0, 0, 2, 3, 3])) == {"a": 2, "b": 1}
