"""What to label next: typical images first, uncertain ones once every class has a few labels.

Guy Hacohen, Avihu Dekel and Daphna Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets", 2022, arXiv:2202.02794 (TypiClust): with few labels a classifier's doubts say little, and outliers, which it
doubts most, teach least. The images are therefore clustered, into as many clusters as there will be labels; from each
of the largest clusters that have no label yet the most typical image is taken, the one with the nearest neighbours.

With one or two labels per class the doubts begin to mean something: margin sampling (Tobias Scheffer, Christian
Decomain and Stefan Wrobel, "Active Hidden Markov Models for Information Extraction", 2001) takes the images whose two
most probable classes are closest. Asked for several at once it would take near-copies, so that, as in Viraj Prabhu et
al., "Active Domain Adaptation via Clustering Uncertainty-weighted Embeddings", 2021, arXiv:2010.08666 (CLUE), images
are clustered with their uncertainty as weight and the image nearest to each centre is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from fewshot.errors import InvalidInputError
from fewshot.heads.base import check_count
from fewshot.heads.linear_probe import LinearProbe

LABELS_PER_CLASS = 1.5
"""From so many on, on average over the classes seen so far, uncertain images are worth more than typical ones."""
_NEIGHBOURS = 20
_MAX_CLUSTERS = 500
_MANY, _DIRECTIONS = 1000, 64
# An image of a class that nothing speaks against still counts a little.
_LEAST_WEIGHT = 1e-6


def suggest(
    features: ArrayLike,
    n: int,
    *,
    labelled_features: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    seed: int = 0,
) -> NDArray[np.intp]:
    """Choose the images whose labels would teach most.

    Args:
        features: (n_images, d) of images without a label.
        n: how many to choose; all of them where there are fewer.
        labelled_features: (n_labelled, d) of images that have a label.
        labels: (n_labelled,) their labels.
        seed: of the clusterings.

    Returns:
        (min(n, n_images),) positions in ``features``, each once, the most wanted first.

    Raises:
        InvalidInputError: arrays that do not fit together, or ``n`` below 1.
    """
    check_count("n", n)
    pool, known, names = _check(features, labelled_features, labels)
    n = min(n, len(pool))
    if not n:
        return np.empty(0, dtype=np.intp)
    pool, known = _few_dimensions(pool, known, seed)
    n_classes = len(np.unique(names))
    if n_classes < 2 or len(known) < LABELS_PER_CLASS * n_classes:
        return _typical(pool, known, n, seed)
    return _uncertain(pool, known, names, n, seed)


def _typical(pool: NDArray[np.float64], known: NDArray[np.float64], n: int, seed: int) -> NDArray[np.intp]:
    """TypiClust: the most typical image of each of the largest clusters that have no label."""
    everything = np.concatenate([pool, known])
    n_clusters = min(len(known) + n, _MAX_CLUSTERS, len(np.unique(everything, axis=0)))
    cluster = KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(everything)
    labelled = np.bincount(cluster[len(pool) :], minlength=n_clusters)
    free = np.bincount(cluster[: len(pool)], minlength=n_clusters)
    queues = {c: _by_typicality(everything, cluster, c, len(pool)) for c in range(n_clusters) if free[c]}
    chosen: list[int] = []
    while len(chosen) < n:
        # Fewest labels first; among these the largest. A cluster of hardly any images is no cluster.
        rank = {c: (labelled[c], -(free[c] + labelled[c]), c) for c in queues if queues[c]}
        best = min(rank, key=rank.__getitem__)
        chosen.append(queues[best].pop(0))
        labelled[best] += 1
    return np.array(chosen, dtype=np.intp)


def _by_typicality(everything: NDArray[np.float64], cluster: NDArray[np.intp], which: int, n_pool: int) -> list[int]:
    """Positions of a cluster's images without a label, by their mean distance to their neighbours in the cluster."""
    members = np.flatnonzero(cluster == which)
    far = np.zeros(1)
    if len(members) > 1:
        neighbours = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(members) - 1)).fit(everything[members])
        far = neighbours.kneighbors()[0].mean(axis=1)
    return [int(i) for i in members[np.argsort(far, kind="stable")] if i < n_pool]


def _uncertain(
    pool: NDArray[np.float64], known: NDArray[np.float64], names: NDArray[Any], n: int, seed: int
) -> NDArray[np.intp]:
    """Margin sampling, one image from each of n clusters that are drawn towards uncertain images."""
    proba = np.sort(LinearProbe(C=10.0).fit(known, names).predict_proba(pool), axis=1)
    doubt = np.clip(1 - (proba[:, -1] - proba[:, -2]), _LEAST_WEIGHT, None)
    n_clusters = min(n, _MAX_CLUSTERS, len(np.unique(pool, axis=0)))
    chosen: list[int] = []
    if n_clusters > 1:
        distance = KMeans(n_clusters, n_init=3, random_state=seed).fit(pool, sample_weight=doubt).transform(pool)
        chosen = list(dict.fromkeys(distance.argmin(axis=0).tolist()))
    taken = set(chosen)
    rest = [int(i) for i in np.argsort(-doubt, kind="stable") if i not in taken]
    return np.array(sorted(chosen, key=lambda i: -doubt[i]) + rest[: n - len(chosen)], dtype=np.intp)


def _few_dimensions(
    pool: NDArray[np.float64], known: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project many images onto their main directions: clustering takes seconds there, and minutes in thousands."""
    if len(pool) + len(known) <= _MANY or pool.shape[1] <= _DIRECTIONS:
        return pool, known
    reduced = PCA(_DIRECTIONS, svd_solver="randomized", random_state=seed).fit(pool)
    return reduced.transform(pool), reduced.transform(known) if len(known) else known[:, :_DIRECTIONS]


def _check(
    features: ArrayLike, labelled_features: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Check arrays, and scale every feature vector to length 1."""
    pool = np.asarray(features, dtype=np.float64)
    if pool.ndim != 2:
        raise InvalidInputError(f"Got features of shape {pool.shape}; needs (n_images, d).")
    if (labelled_features is None) != (labels is None):
        raise InvalidInputError("Give both labelled_features and labels, or neither.")
    known = np.empty((0, pool.shape[1])) if labelled_features is None else np.asarray(labelled_features, np.float64)
    names = np.asarray([] if labels is None else labels)
    if known.ndim != 2 or known.shape[1] != pool.shape[1] or names.shape != known.shape[:1]:
        raise InvalidInputError(
            f"Got features {pool.shape}, labelled features {known.shape} and labels {names.shape}; needs "
            "(n_images, d), (n_labelled, d) and (n_labelled,)."
        )
    if not (np.isfinite(pool).all() and np.isfinite(known).all()):
        raise InvalidInputError("Got features that are NaN or infinite; leave those images out.")
    return _unit(pool), _unit(known), names


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
