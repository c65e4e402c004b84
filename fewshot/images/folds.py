"""Folds for cross-validation that keep together what shows one thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_FOLDS = 5


def units_per_class(labels: Sequence[str], groups: NDArray[np.intp]) -> dict[str, int]:
    """Count what each class has to be split: images, where a group of images that belong together counts once."""
    first = _first_of(groups)
    counts = dict.fromkeys(sorted(set(labels)), 0)
    for position in first:
        counts[labels[position]] += 1
    return counts


def grouped_folds(
    labels: Sequence[str], groups: NDArray[np.intp], *, n_folds: int, repeats: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Split images into folds, stratified by class, no group in two folds; again and again.

    Groups are dealt out rather than images, each as one of its first image's class: so that every class is in the
    training images of every fold, which no rule that balances sizes can promise. Without groups these are the folds of
    scikit-learn's ``RepeatedStratifiedKFold``.

    Args:
        labels: (n,) class names.
        groups: (n,) equal numbers for images that belong together.
        n_folds: at most the smallest of :func:`units_per_class`.
        repeats: how often.
        seed: of the splits.

    Returns:
        (training positions, test positions), ``n_folds`` for each repeat.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    first = _first_of(groups)
    codes = np.unique(np.asarray(labels)[first], return_inverse=True)[1]
    splitter = RepeatedStratifiedKFold(n_splits=n_folds, n_repeats=repeats, random_state=seed)
    splits = []
    for _, tested in splitter.split(np.zeros(len(first)), codes):
        is_test = np.isin(groups, groups[first[tested]])
        splits.append((np.flatnonzero(~is_test), np.flatnonzero(is_test)))
    return splits


def _first_of(groups: NDArray[np.intp]) -> NDArray[np.intp]:
    """Give the position of each group's first member, in order."""
    first: NDArray[np.intp] = np.sort(np.unique(groups, return_index=True)[1])
    return first
