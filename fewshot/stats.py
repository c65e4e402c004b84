"""Intervals for accuracies and for differences of accuracies measured on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fewshot.errors import InvalidInputError


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def proportion_interval(correct: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a mean of values between 0 and 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927. It stays sensible at
    0 and 1 and for few images, where the usual mean plus or minus two standard errors has no width at all. Values
    between 0 and 1 (an image's share of right answers over repeats) vary less than coin flips, so that the interval
    is then wider than needed, never narrower.

    Args:
        correct: (n,) 1 where right, 0 where wrong.
        confidence: nominal coverage.

    Raises:
        InvalidInputError: no values, or values outside 0..1.
    """
    values = _unit_values(correct)
    _check_confidence(confidence)
    n, p = len(values), float(values.mean())
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * float(np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def paired_interval(correct_a: ArrayLike, correct_b: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two accuracies, a minus b, measured on the same images.

    Robert G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 17 (1998), method 10: the Wilson intervals of both accuracies, combined with their
    correlation. A positive correlation is first corrected for continuity: without that, two classifiers that agree on
    all of ten images would get an interval of no width.

    Args:
        correct_a: (n,) 1 where the first is right, 0 where wrong.
        correct_b: (n,) the same images, in the same order, for the second.
        confidence: nominal coverage.

    Raises:
        InvalidInputError: arrays of different lengths, empty, or with values outside 0..1.
    """
    a, b = _unit_values(correct_a), _unit_values(correct_b)
    if len(a) != len(b):
        raise InvalidInputError(f"Paired values need equal lengths; got {len(a)} and {len(b)}.")
    first = proportion_interval(a, confidence=confidence)
    second = proportion_interval(b, confidence=confidence)
    spread = np.sqrt(first.value * (1 - first.value) * second.value * (1 - second.value))
    covariance = float(np.mean((a - a.mean()) * (b - b.mean())))
    if covariance > 0:
        covariance = max(0.0, covariance - 1 / (2 * len(a)))
    correlation = covariance / float(spread) if spread > 0 else 0.0
    difference = first.value - second.value

    def half(da: float, db: float) -> float:
        return float(np.sqrt(max(0.0, da**2 - 2 * correlation * da * db + db**2)))

    low = difference - half(first.value - first.low, second.high - second.value)
    high = difference + half(first.high - first.value, second.value - second.low)
    return Interval(difference, max(-1.0, low), min(1.0, high))


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values, such as accuracies over random draws.

    Args:
        values: (n,) numbers.
        confidence: nominal coverage.

    Raises:
        InvalidInputError: no values, or some that are not finite.
    """
    numbers = _finite_values(values)
    _check_confidence(confidence)
    mean = float(numbers.mean())
    if numbers.size == 1:
        return Interval(mean, float("-inf"), float("inf"))
    error = float(numbers.std(ddof=1) / np.sqrt(numbers.size))
    half = float(stats.t.ppf(0.5 + confidence / 2, numbers.size - 1)) * error
    return Interval(mean, mean - half, mean + half)


class StratifiedMean(NamedTuple):
    """A mean of means, with what a t statistic needs.

    Attributes:
        value: the mean over strata of the mean over a stratum's values.
        error: its standard error; infinite where a stratum has one value only.
        freedom: degrees of freedom; infinite where no stratum varies at all.
    """

    value: float
    error: float
    freedom: float


def stratified_mean(per_set_values: Sequence[ArrayLike]) -> StratifiedMean:
    """Average means over strata, every stratum with the same weight however many values it has.

    Strata vary differently, so that the degrees of freedom are those of F. E. Satterthwaite, "An approximate
    distribution of estimates of variance components", Biometrics Bulletin 2 (1946), and B. L. Welch, "The
    generalization of Student's problem when several different population variances are involved", Biometrika 34
    (1947).

    Args:
        per_set_values: for each stratum, (n,) independent numbers; n may differ.

    Raises:
        InvalidInputError: no strata, or one without values or with values that are not finite.
    """
    strata = [_finite_values(values) for values in per_set_values]
    if not strata:
        raise InvalidInputError("A mean over data sets needs at least one data set.")
    value = float(np.mean([stratum.mean() for stratum in strata]))
    if min(map(len, strata)) < 2:
        return StratifiedMean(value, float("inf"), 1.0)
    variances = np.array([stratum.var(ddof=1) / len(stratum) for stratum in strata])
    total = float(variances.sum())
    # Shares of the variance, not variances: the squares of very small ones would vanish.
    freedom = np.array([len(stratum) - 1 for stratum in strata])
    spread = float(((variances / total) ** 2 / freedom).sum()) if total > 0 else 0.0
    return StratifiedMean(value, float(np.sqrt(total)) / len(strata), 1 / spread if spread > 0 else float("inf"))


def overall_interval(per_set_values: Sequence[ArrayLike], *, confidence: float = 0.95) -> Interval:
    """Interval of the mean over data sets of the mean over episodes, the data sets being given.

    It speaks of new episodes from these very images, and of nothing else: what the mean would be with endlessly many
    episodes. It shrinks with the number of episodes, however few data sets and images there are (the "closed" interval
    of Lafargue et al., "Oops, I Sampled it Again: Reinterpreting Confidence Intervals in Few-Shot Learning", 2024,
    arXiv:2409.02850). For new data sets like these see :func:`across_sets_interval`.

    Student's t with the standard errors of :func:`stratified_mean`; with one value in any data set it has no bounds.

    Args:
        per_set_values: for each data set, (n_episodes,) values; the numbers of episodes may differ.
        confidence: nominal coverage.

    Raises:
        InvalidInputError: no data sets, or one without values or with values that are not finite.
    """
    _check_confidence(confidence)
    mean = stratified_mean(per_set_values)
    if not np.isfinite(mean.error):
        return Interval(mean.value, float("-inf"), float("inf"))
    half = float(stats.t.ppf(0.5 + confidence / 2, mean.freedom)) * mean.error
    return Interval(mean.value, mean.value - half, mean.value + half)


def across_sets_interval(per_set_values: Sequence[ArrayLike], *, confidence: float = 0.95) -> Interval:
    """Interval of the mean over data sets of the mean over episodes, the data sets being a sample.

    It speaks of new data sets like these, as far as these were drawn at random from such: what the mean would be over
    endlessly many of them. It shrinks with the number of data sets; more episodes help only as far as they make each
    data set's own mean exact. For new episodes from these same images see :func:`overall_interval`.

    Student's t over the data sets' means.

    Args:
        per_set_values: for each data set, (n_episodes,) values; at least two data sets.
        confidence: nominal coverage.

    Raises:
        InvalidInputError: fewer than two data sets, or one without values or with values that are not finite.
    """
    means = [float(_finite_values(values).mean()) for values in per_set_values]
    if len(means) < 2:
        raise InvalidInputError(f"Got {len(means)} data set(s); an interval over data sets needs at least 2.")
    return mean_interval(means, confidence=confidence)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence={confidence!r}: needs a number between 0 and 1, such as 0.95.")


def _finite_values(values: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if numbers.size == 0:
        raise InvalidInputError("An interval needs at least one value.")
    if not np.isfinite(numbers).all():
        raise InvalidInputError("An interval needs finite values; some are NaN or infinite.")
    return numbers


def _unit_values(correct: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.asarray(correct, dtype=np.float64).ravel()
    if values.size == 0:
        raise InvalidInputError("An interval needs at least one value.")
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidInputError("Values must lie between 0 and 1.")
    return values
