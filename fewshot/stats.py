"""Intervals for accuracies and for differences of accuracies measured on the same images."""

from __future__ import annotations

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
    numbers = np.asarray(values, dtype=np.float64)
    _check_confidence(confidence)
    if numbers.size == 0:
        raise InvalidInputError("An interval needs at least one value.")
    if not np.isfinite(numbers).all():
        raise InvalidInputError("An interval needs finite values; some are NaN or infinite.")
    mean = float(numbers.mean())
    if numbers.size == 1:
        return Interval(mean, float("-inf"), float("inf"))
    error = float(numbers.std(ddof=1) / np.sqrt(numbers.size))
    half = float(stats.t.ppf(0.5 + confidence / 2, numbers.size - 1)) * error
    return Interval(mean, mean - half, mean + half)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence={confidence!r}: needs a number between 0 and 1, such as 0.95.")


def _unit_values(correct: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.asarray(correct, dtype=np.float64).ravel()
    if values.size == 0:
        raise InvalidInputError("An interval needs at least one value.")
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidInputError("Values must lie between 0 and 1.")
    return values
