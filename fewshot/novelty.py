"""None of these: how far an image is from every class, and from where on it is of none of them.

Score. A class is its prototype, the mean of its unit features scaled to length 1 (Jake Snell, Kevin Swersky and Richard
Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175), and an image is as novel as it is far
from the nearest: sqrt(2 - 2 cos), the distance of unit vectors. Two changes make it fit to compare images by:

- Images share what all of them look alike in, and some look more like everything than others do. Angles are therefore
  taken about the prototypes' mean m (centring: Yan Wang et al., "SimpleShot", 2019, arXiv:1911.04623), shrunk to
  (n - 1) / n of it, because the mean of n prototypes holds 1 / n of each; with one class there is no centring.
- Some classes vary more than others. With r_k the mean squared distance of a class's images from the prototype of its
  others, shrunk towards the mean r over classes, s_k = (n_k r_k + 2 r) / (n_k + 2), distances to it are divided by
  (s_k / r)^(1/4): half of the way to distances in units of the class's own spread, which few images tell badly.

Threshold, three classes and more. One image does not tell how far a class's other images are from it, but it does tell
how far images of other classes are: every class in turn is left out, and its images' scores against the classes that
are left have the mean u. The quantile of known images' scores, over u, is taken from other data sets (``_SHARES``). It
is joined with the quantile of the scores of the support's images, each compared with all images but itself, as if the
former had been seen in ``_SHARES_WORTH`` images. Views are not asked: they tell little of how far other images are.

Threshold, one or two classes, where none can be left out. Scores of known classes' images are about normal. What is
known of their mean and variance are the scores of the support's images, as above, and, before that, a prior: the mean
is about ``view_ratio`` times the distance between views of one image, the standard deviation about 0.13. Both are
joined as the conjugate normal-inverse-gamma prior asks (Andrew Gelman et al., "Bayesian Data Analysis", 3rd edition,
section 3.3), and the threshold is the quantile of the predictive distribution, Student's t. Two images alone give a
threshold that allows for how little two images say; a thousand, one that is their own quantile.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from fewshot.errors import InvalidInputError
from fewshot.heads.base import check_positive

# Share of known images to be rejected, and the score above which as many are, over the mean score u of images of a
# class left out. From `python benchmarks/novelty_threshold.py FOLDER ...` on nine data sets (clip art, emoji, fashion,
# furniture, icons, materials, photos, stamps, surfaces), each with the same weight: one image per class of 3, 5 and 10
# classes, tuned features of `efficientnet_lite0`.
_SHARES = {0.01: 1.119, 0.02: 1.091, 0.05: 1.053, 0.1: 1.029, 0.2: 1.002, 0.5: 0.918}
# Chosen on the same nine.
_SHARES_WORTH = 5.0
# A mean over so many classes left out is as good as one over all, and the time does not grow with their square.
_MOST_LEFT_OUT = 200
# With fewer classes there is none to leave out: what is left would have no centre.
_FEWEST_CLASSES = 3
# Of scores of known images, over data sets: their standard deviation, and how many images' worth it is known.
_DEVIATION = 0.13
_IMAGES_WORTH = 6.0
# The mean that views predict is known no better than if half an image had been seen.
_VIEWS_WORTH = 0.5
_SHRINKAGE = 2.0


class NoveltyDetector:
    """Tells images that are of none of the known classes; one class is enough.

    Args:
        rejection_rate: share of images of the known classes that may be taken for novel; three classes or more have no
            threshold for rates below 0.01 or above 0.5 but for those very rates.
        view_ratio: distance of a new image from its class, over the distance between two views of one image; used with
            one or two classes only. It differs between data sets by more than a quarter, so that with one image per
            class ``rejection_rate`` is only aimed at: of a single class one known image in six was rejected.

    Attributes:
        threshold_: scores above it are novel. Infinite, so that nothing is, where there is nothing to set it by: one or
            two classes of one image, and no views.
        prototypes_: (n_classes, d) unit vectors about the centre.
        centre_: (d,) subtracted from unit features.
        scales_: (n_classes,) what distances are divided by, about 1.

    Example:
        >>> detector = NoveltyDetector().fit([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [1.0, 0.0, 0.2]])
        >>> detector.is_novel([[1.0, 0.1, 0.1], [0.0, 1.0, 0.0]]).tolist()
        [False, True]
    """

    threshold_: float
    prototypes_: NDArray[np.float64]
    centre_: NDArray[np.float64]
    scales_: NDArray[np.float64]

    def __init__(self, rejection_rate: float = 0.05, view_ratio: float = 1.7) -> None:
        self.rejection_rate = rejection_rate
        self.view_ratio = view_ratio

    def fit(self, X: ArrayLike, y: ArrayLike | None = None, views: ArrayLike | None = None) -> Self:
        """Learn what known images look like.

        Args:
            X: (n, d) features, at least one.
            y: (n,) labels; ``None`` where all are of one class.
            views: (n, n_views, d) features of at least two views of each image; used with one or two classes only.

        Raises:
            InvalidInputError: arrays that do not fit, or a parameter out of range.
        """
        check_positive("view_ratio", self.view_ratio)
        check_positive("rejection_rate", self.rejection_rate)
        if self.rejection_rate >= 1:
            raise InvalidInputError(f"rejection_rate={self.rejection_rate!r}: needs a share between 0 and 1.")
        rows = _unit(_finite("features", X, 2))
        labels = np.zeros(len(rows)) if y is None else np.asarray(y)
        if not len(rows) or labels.shape != rows.shape[:1]:
            raise InvalidInputError(f"Got features {rows.shape} and labels {labels.shape}; needs (n, d) and (n,).")
        codes = np.unique(labels, return_inverse=True)[1]
        counts = np.bincount(codes)
        means = np.stack([rows[codes == code].mean(axis=0) for code in range(len(counts))])
        self.prototypes_, self.centre_ = _about_centre(means)
        own, near = _left_out(rows, codes, means * counts[:, None], counts)
        self.scales_ = _scales(own, codes, counts)
        views = None if views is None else _views(views, rows.shape)
        scores = (near / self.scales_)[counts[codes] > 1].min(axis=1)
        # The two images of a class are as far from each other as the other way round: one distance, not two.
        size = float((counts - 1).sum())
        if len(counts) < _FEWEST_CLASSES:
            self.threshold_ = self._predicted(scores, size, views)
        else:
            expected = share(self.rejection_rate) * class_left_out(rows, codes, means, self.scales_)
            self.threshold_ = joined(scores, size, expected, self.rejection_rate)
        return self

    def score(self, X: ArrayLike) -> NDArray[np.float64]:
        """Say how novel (n, d) features are: (n,) scores, 0 on a prototype, about sqrt(2) where nothing is alike."""
        rows = _finite("features", X, 2)
        if rows.shape[1] != self.prototypes_.shape[1]:
            raise InvalidInputError(f"Got {rows.shape[1]} features; fitted on {self.prototypes_.shape[1]}.")
        cosine = _unit(_unit(rows) - self.centre_) @ self.prototypes_.T
        return np.asarray((_distance(cosine) / self.scales_).min(axis=1), dtype=np.float64)

    def is_novel(self, X: ArrayLike) -> NDArray[np.bool_]:
        """Tell which of (n, d) features are of none of the classes: (n,) booleans."""
        return self.score(X) > self.threshold_

    def _predicted(self, scores: NDArray[np.float64], size: float, views: NDArray[np.float64] | None) -> float:
        """Predictive quantile of scores, from those of images left out and from unit views (n, n_views, d)."""
        prior, worth = 0.0, 0.0
        if views is not None:
            prior, worth = self.view_ratio * self._view_distance(views), _VIEWS_WORTH
        if size + worth == 0:
            return float("inf")
        mean, spread = (scores.mean(), scores.var()) if len(scores) else (0.0, 0.0)
        freedom, total = _IMAGES_WORTH + size, worth + size
        off = worth * size / total * (mean - prior) ** 2
        variance = (_IMAGES_WORTH * _DEVIATION**2 + size * spread + off) / freedom
        reach = student.ppf(1 - self.rejection_rate, freedom) * np.sqrt(variance * (1 + 1 / total))
        return float((worth * prior + size * mean) / total + reach)

    def _view_distance(self, views: NDArray[np.float64]) -> float:
        """Root mean square distance between two views of one image, about the centre; (n, n_views, d) unit views."""
        rows = _unit(views - self.centre_)
        n_views = rows.shape[1]
        alike = (np.linalg.norm(rows.sum(axis=1), axis=1) ** 2 - n_views) / (n_views * (n_views - 1))
        return float(_distance(alike.mean()))


def share(rate: float) -> float:
    """Tell which score, over that of classes left out, this share of known images is above: see ``_SHARES``."""
    return float(np.interp(rate, list(_SHARES), list(_SHARES.values())))


def joined(scores: NDArray[np.float64], size: float, expected: float, rate: float) -> float:
    """Join the quantile of (n,) scores of known images, worth ``size`` images, with one expected beforehand."""
    if not len(scores):
        return expected
    found = float(np.quantile(scores, 1 - rate))
    return (size * found + _SHARES_WORTH * expected) / (size + _SHARES_WORTH)


def class_left_out(
    rows: NDArray[np.float64], codes: NDArray[np.intp], means: NDArray[np.float64], scales: NDArray[np.float64]
) -> float:
    """Mean score of images against all classes but their own, which the centre does not know of either.

    Args:
        rows: (n, d) unit features.
        codes: (n,) positions of their classes.
        means: (n_classes, d) of the classes' features.
        scales: (n_classes,) what distances are divided by.
    """
    total, n_images = 0.0, 0
    for code in np.unique(np.linspace(0, len(means) - 1, min(len(means), _MOST_LEFT_OUT)).astype(np.intp)):
        prototypes, centre = _about_centre(np.delete(means, code, axis=0))
        distance = _distance(_unit(rows[codes == code] - centre) @ prototypes.T) / np.delete(scales, code)
        total, n_images = total + float(distance.min(axis=1).sum()), n_images + len(distance)
    return total / n_images


def _about_centre(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(..., n_classes, d) class means to unit prototypes about the shrunk centre, and that centre (..., d)."""
    prototypes = _unit(means)
    n = means.shape[-2]
    centre = (n - 1) / n * prototypes.mean(axis=-2)
    return _unit(prototypes - centre[..., None, :]), centre


def _left_out(
    rows: NDArray[np.float64], codes: NDArray[np.intp], sums: NDArray[np.float64], counts: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of every image, with prototypes of all others: (n,) to its own class, (n, n_classes) to all.

    Where an image is the only one of its class these are no distances, and nobody uses them.
    """
    distance = np.ones((len(rows), len(counts)))
    for i in np.flatnonzero(counts[codes] > 1):
        others = sums.copy()
        others[codes[i]] -= rows[i]
        prototypes, centre = _about_centre(others)
        distance[i] = _distance(prototypes @ _unit(rows[i] - centre))
    return distance[np.arange(len(rows)), codes], distance


def _scales(own: NDArray[np.float64], codes: NDArray[np.intp], counts: NDArray[np.intp]) -> NDArray[np.float64]:
    """(n_classes,) what to divide distances by, see the module; 1 for classes of one image."""
    several = counts > 1
    if several.sum() < 2:
        return np.ones(len(counts))
    spread = np.bincount(codes, own**2) / counts
    typical = float(spread[several].mean())
    if typical <= 0:
        return np.ones(len(counts))
    shrunk = (counts * spread + _SHRINKAGE * typical) / (counts + _SHRINKAGE)
    return np.asarray(np.where(several, (shrunk / typical) ** 0.25, 1.0), dtype=np.float64)


def _distance(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of unit vectors from the cosine between them."""
    return np.asarray(np.sqrt(np.clip(2 - 2 * cosine, 0, None)), dtype=np.float64)


def _views(views: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Unit views (n, n_views, d) of (n, d) features."""
    rows = _finite("views", views, 3)
    if rows.shape[0] != shape[0] or rows.shape[2] != shape[1] or rows.shape[1] < 2:
        raise InvalidInputError(
            f"Got views {rows.shape} of features {shape}; needs (n, n_views, d), at least two views of each."
        )
    return _unit(rows)


def _finite(name: str, values: ArrayLike, ndim: int) -> NDArray[np.float64]:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != ndim or not np.isfinite(rows).all():
        raise InvalidInputError(f"Got {name} of shape {rows.shape}; needs finite numbers, in {ndim} dimensions.")
    return rows


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0), dtype=np.float64)
