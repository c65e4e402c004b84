"""Whether methods differ: paired tests on the same episodes, correction for many tests, ranks over data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fewshot.errors import InvalidInputError
from fewshot.stats import Interval, StratifiedMean, overall_interval, stratified_mean

RESOLUTION = 1e-6
"""Differences up to this are rounding: the same accuracy, computed in float32 and in float64, is no difference."""

_LEVEL = 5 * RESOLUTION
"""Means up to this apart share a rank: they are taken of values that were rounded, each in its own way."""


class PairedTest(NamedTuple):
    """Whether one method is better than another on the same episodes.

    Attributes:
        difference: mean of first minus second, with its 95 % interval.
        p_value: two-sided; how often a mean at least as far from 0 would be seen if there were no difference.
        n: number of pairs.
    """

    difference: Interval
    p_value: float
    n: int


class WinTieLoss(NamedTuple):
    """On how many data sets the first method is better, not distinguished, and worse."""

    wins: int
    ties: int
    losses: int


class RankTest(NamedTuple):
    """Whether any methods differ, by their ranks on the same data sets.

    Attributes:
        statistic: Friedman's chi-square; with two methods, the number of data sets on which the first wins.
        p_value: of no difference.
    """

    statistic: float
    p_value: float


class Ranks(NamedTuple):
    """What a diagram of ranks shows.

    Attributes:
        names: the methods, best mean rank first.
        mean_ranks: mean rank of each, in that order; 1 is best.
        critical_difference: mean ranks at least this far apart differ at ``alpha``.
        p_value: of no difference between any of them, by :func:`friedman`.
        groups: the largest sets of methods that are not distinguished from each other; best first, none of one method.
        n_sets: number of data sets.
        alpha: level of the groups and of the critical difference.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    critical_difference: float
    p_value: float
    groups: tuple[tuple[str, ...], ...]
    n_sets: int
    alpha: float


def paired_test(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> PairedTest:
    """Student's paired t test of two methods on the same episodes.

    It speaks of new episodes from the same images; see :func:`fewshot.stats.overall_interval`. One pair says nothing:
    p is 1 and the interval has no bounds. Where all differences are equal the interval has no width, and p is 0, or 1
    if they are 0. Differences up to :data:`RESOLUTION` count as 0.

    Args:
        a: (n,) the first method's values, such as accuracies in 0..1.
        b: (n,) the second's, on the same episodes in the same order.
        confidence: nominal coverage of the interval.

    Raises:
        InvalidInputError: arrays of different lengths, empty, or with values that are not finite.
    """
    first, second = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if len(first) != len(second):
        raise InvalidInputError(f"Paired values need equal lengths; got {len(first)} and {len(second)}.")
    # A stratified mean of one stratum is an ordinary mean, with n - 1 degrees of freedom.
    return stratified_test([first - second], confidence=confidence)


def stratified_test(differences: Sequence[ArrayLike], *, confidence: float = 0.95) -> PairedTest:
    """Test the mean over data sets of the mean paired difference over episodes, the data sets being given.

    As :func:`paired_test`, with every data set at the same weight; the t distribution is that of
    :func:`fewshot.stats.overall_interval`.

    Args:
        differences: for each data set, (n_episodes,) first method's value minus the second's.
        confidence: nominal coverage of the interval.

    Raises:
        InvalidInputError: no data sets, or one without values or with values that are not finite.
    """
    strata = [np.asarray(values, dtype=np.float64).ravel() for values in differences]
    strata = [np.where(np.abs(values) <= RESOLUTION, 0.0, values) for values in strata]
    interval, mean = overall_interval(strata, confidence=confidence), stratified_mean(strata)
    if all(np.ptp(values) <= RESOLUTION for values in strata) and np.isfinite(mean.error):
        # What is left of a spread is rounding, and would make t any large number.
        interval, mean = Interval(mean.value, mean.value, mean.value), StratifiedMean(mean.value, 0.0, np.inf)
    return PairedTest(interval, _p_value(mean), sum(map(len, strata)))


def _p_value(mean: StratifiedMean) -> float:
    if mean.error == 0:
        return 1.0 if abs(mean.value) <= RESOLUTION else 0.0
    return float(2 * stats.t.sf(abs(mean.value) / mean.error, mean.freedom))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Correct p-values for being many: with all below 0.05 called differences, one error in 20 such families.

    Sture Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none may end up below a smaller one.

    Args:
        p_values: (m,) p-values in any order; NaN for a test that was not made, which stays NaN and does not count.

    Returns:
        (m,) adjusted p-values, in the same order.

    Raises:
        InvalidInputError: values outside 0..1.
    """
    values = np.asarray(p_values, dtype=np.float64).ravel()
    made = np.flatnonzero(~np.isnan(values))
    if not ((values[made] >= 0) & (values[made] <= 1)).all():
        raise InvalidInputError("p-values must lie between 0 and 1.")
    order = made[np.argsort(values[made], kind="stable")]
    adjusted = values.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return adjusted


def win_tie_loss(tests: Iterable[PairedTest], *, alpha: float = 0.05) -> WinTieLoss:
    """Count data sets on which the first method is better, not distinguished, and worse.

    Args:
        tests: one paired test per data set. For counts that hold together, correct the p-values first with
            :func:`holm`.
        alpha: a difference with a p-value of at least this is a tie.
    """
    signs = [int(np.sign(test.difference.value)) if test.p_value < alpha else 0 for test in tests]
    return WinTieLoss(signs.count(1), signs.count(0), signs.count(-1))


def mean_ranks(table: ArrayLike) -> NDArray[np.float64]:
    """Rank methods on each data set, 1 for the best, and average over data sets; equal methods share their mean rank.

    Values up to five times :data:`RESOLUTION` apart are equal: the rounding of what they are means of decides nothing.

    Args:
        table: (n_sets, n_methods) of what is better when larger, such as accuracies in 0..1.

    Returns:
        (n_methods,) mean ranks.

    Raises:
        InvalidInputError: not such a table, fewer than two methods, or values that are not finite.
    """
    ranks: NDArray[np.float64] = stats.rankdata(-_checked(table), axis=1).mean(axis=0)
    return ranks


def friedman(table: ArrayLike) -> RankTest:
    """Test whether any methods differ, by their ranks on the same data sets.

    Milton Friedman, "The use of ranks to avoid the assumption of normality implicit in the analysis of variance", 1937,
    corrected for ties as :func:`mean_ranks` sees them. With two methods his test is an approximate sign test; then the
    exact sign test is made, on the data sets where they differ.

    Args:
        table: (n_sets, n_methods) of what is better when larger.

    Raises:
        InvalidInputError: as :func:`mean_ranks`.
    """
    values = _checked(table)
    if values.shape[1] == 2:
        wins, losses = int((values[:, 0] > values[:, 1]).sum()), int((values[:, 0] < values[:, 1]).sum())
        return RankTest(wins, float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0)
    if (values == values[:, :1]).all():
        return RankTest(0.0, 1.0)
    statistic, p_value = stats.friedmanchisquare(*values.T)
    return RankTest(float(statistic), float(p_value))


@lru_cache
def critical_difference(n_methods: int, n_sets: int, alpha: float = 0.05) -> float:
    """How far mean ranks must be apart for two methods to differ, all pairs of methods being compared.

    Peter Nemenyi, "Distribution-free multiple comparisons", 1963, as in Janez Demšar, "Statistical comparisons of
    classifiers over multiple data sets", JMLR 7 (2006).

    Args:
        n_methods: compared methods, at least 2.
        n_sets: data sets they were ranked on.
        alpha: how often any two equal methods may be told apart.

    Raises:
        InvalidInputError: fewer than two methods, no data sets, or an ``alpha`` outside 0..1.
    """
    if n_methods < 2 or n_sets < 1:
        raise InvalidInputError(f"Got {n_methods} methods on {n_sets} data sets; ranks need at least 2 on 1.")
    if not 0 < alpha < 1:
        raise InvalidInputError(f"alpha={alpha!r}: needs a number between 0 and 1, such as 0.05.")
    quantile = float(stats.studentized_range.ppf(1 - alpha, n_methods, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_sets)))


def cliques(ranks: ArrayLike, difference: float) -> tuple[tuple[int, ...], ...]:
    """Find the largest sets of methods whose mean ranks all lie less than ``difference`` apart: a diagram's bars.

    Args:
        ranks: (n_methods,) mean ranks.
        difference: the critical difference.

    Returns:
        Positions in ``ranks``, best rank first; a set of one method, distinguished from all others, is left out.
    """
    values = np.asarray(ranks, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    found, reached = [], 0
    for start, first in enumerate(order):
        end = start + int((values[order[start:]] - values[first] < difference).sum())
        if end - start > 1 and end > reached:
            found.append(tuple(int(i) for i in order[start:end]))
            reached = end
    return tuple(found)


def rank_strategies(names: Sequence[str], table: ArrayLike, *, alpha: float = 0.05) -> Ranks:
    """Rank methods over data sets and say which are not distinguished: all of a diagram of ranks.

    With two methods, whether they are distinguished is the exact sign test's answer, :func:`friedman`'s.

    Args:
        names: (n_methods,) names.
        table: (n_sets, n_methods) of what is better when larger, such as mean accuracies.
        alpha: level of the test.

    Raises:
        InvalidInputError: as :func:`mean_ranks` and :func:`critical_difference`, or names that do not fit the table.
    """
    values = _checked(table)
    if len(names) != values.shape[1]:
        raise InvalidInputError(f"Got {len(names)} names for a table with {values.shape[1]} columns.")
    ranks, test = mean_ranks(values), friedman(values)
    difference = critical_difference(values.shape[1], len(values), alpha)
    order = np.argsort(ranks, kind="stable")
    groups = cliques(ranks, difference)
    if len(names) == 2:
        groups = ((int(order[0]), int(order[1])),) if test.p_value >= alpha else ()
    return Ranks(
        names=tuple(names[i] for i in order),
        mean_ranks=tuple(float(ranks[i]) for i in order),
        critical_difference=difference,
        p_value=test.p_value,
        groups=tuple(tuple(names[i] for i in group) for group in groups),
        n_sets=len(values),
        alpha=alpha,
    )


def _checked(table: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise InvalidInputError(
            f"Got a table of shape {values.shape}; needs (n_sets, n_methods) with 2 methods or more."
        )
    if not np.isfinite(values).all():
        raise InvalidInputError("Ranks need finite values; some are NaN or infinite. Leave incomplete methods out.")
    return _levelled(values)


def _levelled(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make values of a row equal that differ by rounding; rounding them again could part them at a boundary."""
    order = np.argsort(table, axis=1, kind="stable")
    ascending = np.take_along_axis(table, order, axis=1)
    level = np.zeros_like(table)
    level[:, 1:] = np.cumsum(np.diff(ascending, axis=1) > _LEVEL, axis=1)
    found = np.empty_like(table)
    np.put_along_axis(found, order, level, axis=1)
    return found
