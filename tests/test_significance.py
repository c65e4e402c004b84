"""Tests of significance, against scipy, statsmodels and scikit-posthocs."""

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fewshot.errors import InvalidInputError
from fewshot.significance import (
    PairedTest,
    cliques,
    critical_difference,
    friedman,
    holm,
    mean_ranks,
    paired_test,
    rank_strategies,
    stratified_test,
    win_tie_loss,
)
from fewshot.stats import Interval


def accuracies(n=40, gain=0.02, seed=0):
    rng = np.random.default_rng(seed)
    b = rng.normal(0.7, 0.1, n)
    return b + gain + rng.normal(0, 0.05, n), b


def table_of(n_sets, n_methods, seed=0, decimals=3, steps=0.3):
    """Accuracies of methods that differ, rounded so that some are equal."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(steps * np.arange(n_methods), 1, (n_sets, n_methods)), decimals)


# --- pairs


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("n", [2, 5, 600])
def test_paired_test_is_scipys(n, confidence):
    a, b = accuracies(n)
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(confidence)
    found = paired_test(a, b, confidence=confidence)
    assert found.difference == pytest.approx((np.mean(a - b), low, high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.n == n


def test_the_interval_excludes_zero_where_p_is_below_5_percent():
    for seed in range(50):
        found = paired_test(*accuracies(12, seed=seed))
        assert (found.p_value < 0.05) == (not found.difference.low <= 0 <= found.difference.high)


def test_the_test_turns_around_with_its_arguments():
    a, b = accuracies()
    forward, backward = paired_test(a, b), paired_test(b, a)
    assert backward.p_value == pytest.approx(forward.p_value)
    value, low, high = forward.difference
    assert backward.difference == pytest.approx((-value, -high, -low))


def test_one_pair_says_nothing():
    assert paired_test([0.9], [0.1]) == ((pytest.approx(0.8), -np.inf, np.inf), 1.0, 1)


def test_equal_values_are_no_difference_and_equal_differences_are_one():
    assert paired_test([0.1, 0.7, 0.3], [0.1, 0.7, 0.3]) == ((0, 0, 0), 1.0, 3)
    found = paired_test([0.3, 0.8, 0.4], [0.1, 0.6, 0.2])
    assert found.p_value == 0
    assert found.difference == pytest.approx((0.2, 0.2, 0.2))
    assert found.difference.low == found.difference.high


def test_rounding_is_no_difference():
    b = np.arange(1, 60) / 75
    found = paired_test(b.astype(np.float32), b)
    assert found.p_value == 1
    assert found.difference == (0, 0, 0)
    assert paired_test(b.astype(np.float32) + np.float32(0.1), b).p_value == 0


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match=r"3 .*2"):
        paired_test([1, 0, 1], [1, 0])
    with pytest.raises(InvalidInputError, match="at least one"):
        paired_test([], [])
    with pytest.raises(InvalidInputError, match="finite"):
        paired_test([0.5, np.nan], [0.5, 0.5])
    with pytest.raises(InvalidInputError, match="confidence="):
        paired_test([0.5, 0.4], [0.5, 0.5], confidence=95)


def test_one_stratum_is_a_paired_test():
    a, b = accuracies()
    assert stratified_test([a - b]) == paired_test(a, b)


def test_the_sum_of_two_strata_is_welchs_test():
    # The mean of two means is half the difference of the first and minus the second: Welch's t test, halved.
    x, y = accuracies(12)[0], accuracies(30, seed=1)[0] - 0.6
    expected = stats.ttest_ind(x, -y, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    found = stratified_test([x, y])
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(((x.mean() + y.mean()) / 2, low / 2, high / 2))
    assert found.n == 42


def test_a_stratum_of_one_pair_leaves_nothing_to_say():
    assert stratified_test([[0.2, 0.3], [0.1]]).p_value == 1


# --- many tests


@pytest.mark.parametrize("seed", range(8))
def test_holm_is_statsmodels(seed):
    rng = np.random.default_rng(seed)
    p = np.round(rng.uniform(0, 0.2, rng.integers(1, 12)), 2)  # rounded, so that some are equal
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.0, 0.8]), [1, 0, 1])


def test_tests_not_made_stay_so_and_do_not_count():
    found = holm([0.04, np.nan, 0.01, np.nan])
    np.testing.assert_allclose(found, [0.04, np.nan, 0.02, np.nan])
    assert holm([]).shape == (0,)
    assert np.isnan(holm([np.nan])).all()


@pytest.mark.parametrize("p_values", [[0.5, 1.1], [-0.1]])
def test_what_are_no_p_values_is_refused(p_values):
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        holm(p_values)


def test_wins_ties_and_losses_are_counted():
    def outcome(value, p_value):
        return PairedTest(Interval(value, value, value), p_value, 9)

    tests = [outcome(0.1, 0.01), outcome(0.2, 0.04), outcome(-0.1, 0.001), outcome(0.3, 0.05), outcome(0.0, 1.0)]
    assert win_tie_loss(tests) == (2, 2, 1)
    assert win_tie_loss(iter(tests), alpha=0.005) == (0, 4, 1)
    assert win_tie_loss([]) == (0, 0, 0)


# --- ranks


def test_ranks_by_hand():
    # Equal methods share the mean of their ranks.
    np.testing.assert_allclose(mean_ranks([[0.9, 0.8, 0.7], [0.5, 0.5, 0.6]]), [(1 + 2.5) / 2, (2 + 2.5) / 2, 2])


@pytest.mark.parametrize(("decimals", "n_methods"), [(3, 3), (0, 4), (0, 8)])
def test_friedman_is_scipys(decimals, n_methods):
    table = table_of(15, n_methods, decimals=decimals)
    assert friedman(table) == pytest.approx(tuple(stats.friedmanchisquare(*table.T)))


def test_rounding_breaks_no_ties():
    # Means of values rounded to six digits, on either side of where they would be rounded again.
    nearly = [[0.5 + 4e-7, 0.5 - 4e-7, 0.9, 0.1], [0.123455 + 6e-7, 0.123455 - 6e-7, 0.9, 0.1]]
    np.testing.assert_allclose(mean_ranks(nearly), [2.5, 2.5, 1, 4])
    equal = [[round(value, 3) for value in row] for row in nearly]
    assert friedman(nearly) == friedman(equal)
    assert friedman(np.array(nearly)[:, :2]).p_value == 1
    # One query in 45 000 is a difference.
    np.testing.assert_allclose(mean_ranks([[0.5, 0.5 + 1 / 45_000]]), [2, 1])


def test_two_methods_are_compared_by_the_sign_test():
    table = np.array([[0.9, 0.8]] * 7 + [[0.5, 0.6]] + [[0.5, 0.5]] * 3)
    assert friedman(table) == (7, pytest.approx(stats.binomtest(7, 8).pvalue))


@pytest.mark.parametrize("n_methods", [2, 3])
def test_methods_that_are_equal_everywhere_are_not_told_apart(n_methods):
    table = np.full((5, n_methods), 0.5)
    assert friedman(table).p_value == 1
    names = list("abc")[:n_methods]
    assert rank_strategies(names, table).groups == (tuple(names),)


@pytest.mark.parametrize(("n_methods", "quantile"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_from_demsars_table(n_methods, quantile):
    expected = quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * 14))
    assert critical_difference(n_methods, 14) == pytest.approx(expected, rel=5e-4)
    assert critical_difference(n_methods, 14, alpha=0.1) < critical_difference(n_methods, 14)


@pytest.mark.parametrize("seed", range(4))
def test_the_critical_difference_separates_what_nemenyis_test_does(seed):
    table = table_of(20, 5, seed=seed, steps=0.5)
    expected = scikit_posthocs.posthoc_nemenyi_friedman(table).to_numpy() < 0.05
    ranks = mean_ranks(table)
    np.testing.assert_array_equal(np.abs(ranks[:, None] - ranks) >= critical_difference(5, 20), expected)


@pytest.mark.parametrize("seed", range(4))
def test_no_group_holds_two_methods_that_nemenyis_test_separates_and_no_other_pair_is_missing(seed):
    names = list("abcdef")
    table = table_of(20, 6, seed=seed, steps=0.4)
    p = scikit_posthocs.posthoc_nemenyi_friedman(pd.DataFrame(table, columns=names))
    together = {(x, y) for x in names for y in names if x != y and p.loc[x, y] >= 0.05}
    found = rank_strategies(names, table)
    assert {(x, y) for group in found.groups for x in group for y in group if x != y} == together
    assert not any(set(one) < set(other) for one in found.groups for other in found.groups)


def test_groups_by_hand():
    assert cliques([1.0, 3.0, 1.5, 2.4, 9.0], 1.0) == ((0, 2), (2, 3), (3, 1))
    assert cliques([1.0, 2.0, 3.0], 1.0) == ()
    assert cliques([2.0, 2.0, 2.0], 0.5) == ((0, 1, 2),)
    assert cliques([1.0, 1.1, 1.2, 1.3], 0.25) == ((0, 1, 2), (1, 2, 3))


def test_a_ranking_is_best_first():
    table = table_of(30, 4, steps=2)
    found = rank_strategies(["d", "c", "b", "a"], table)
    assert found.names == ("a", "b", "c", "d")
    assert list(found.mean_ranks) == sorted(mean_ranks(table))
    assert found.critical_difference == critical_difference(4, 30)
    assert found.p_value == friedman(table).p_value < 1e-6
    assert (found.n_sets, found.alpha) == (30, 0.05)


@pytest.mark.parametrize(("wins", "groups"), [(5, (("x", "y"),)), (6, ())])
def test_two_methods_are_a_group_until_the_sign_test_separates_them(wins, groups):
    # 5 wins of 5 have p = 0.0625, 6 of 6 have 0.03.
    assert rank_strategies(["y", "x"], [[0.1, 0.2]] * wins).groups == groups


def test_one_data_set_ranks_without_telling_apart():
    found = rank_strategies(["a", "b", "c"], [[0.1, 0.2, 0.3]])
    assert found.names == ("c", "b", "a")
    assert found.groups == (("c", "b", "a"),)


@pytest.mark.parametrize("table", [[0.1, 0.2], [[0.1], [0.2]], np.zeros((0, 3)), [[0.1, np.nan]]])
@pytest.mark.parametrize("function", [mean_ranks, friedman])
def test_what_is_no_table_is_refused(function, table):
    with pytest.raises(InvalidInputError, match=r"n_sets, n_methods|finite"):
        function(table)


def test_names_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInputError, match=r"2 names.*3 columns"):
        rank_strategies(["a", "b"], [[1, 2, 3]])
    with pytest.raises(InvalidInputError, match="at least 2"):
        critical_difference(1, 5)
    with pytest.raises(InvalidInputError, match="alpha="):
        critical_difference(3, 5, alpha=5)
