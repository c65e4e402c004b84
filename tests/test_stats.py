"""Intervals, against scipy, the defining equations and their coverage."""

import numpy as np
import pytest
from scipy import stats

from fewshot.errors import InvalidInputError
from fewshot.stats import (
    across_sets_interval,
    mean_interval,
    overall_interval,
    paired_interval,
    proportion_interval,
    stratified_mean,
)


def answers(right, n):
    return np.arange(n) < right


def pairs(both, only_a, only_b, neither):
    """Right answers of a and of b with these counts."""
    table = [(1, 1)] * both + [(1, 0)] * only_a + [(0, 1)] * only_b + [(0, 0)] * neither
    return np.array(table, dtype=float).T


def newcombe(both, only_a, only_b, neither, confidence=0.95):
    """Newcombe (1998), method 10, in his notation of counts e, f, g, h."""
    e, f, g, h = both, only_a, only_b, neither
    n = e + f + g + h
    first = stats.binomtest(e + f, n).proportion_ci(confidence, method="wilson")
    second = stats.binomtest(e + g, n).proportion_ci(confidence, method="wilson")
    a, b = (e + f) / n, (e + g) / n
    product = (e + f) * (g + h) * (e + g) * (f + h)
    cross = e * h - f * g
    if cross > 0:
        cross = max(cross - n / 2, 0)
    phi = cross / product**0.5 if product else 0.0
    below, above = a - first.low, second.high - b
    low = a - b - (below**2 - 2 * phi * below * above + above**2) ** 0.5
    below, above = b - second.low, first.high - a
    high = a - b + (below**2 - 2 * phi * below * above + above**2) ** 0.5
    return low, high


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 7, 10, 300])
def test_proportion_interval_is_scipys_wilson_interval(n, confidence):
    for right in {0, 1, n // 3, n - 1, n}:
        expected = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
        interval = proportion_interval(answers(right, n), confidence=confidence)
        assert interval.value == pytest.approx(right / n)
        assert interval.low == pytest.approx(expected.low, abs=1e-12)
        assert interval.high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize("right", [0, 1, 5, 9, 10])
def test_wilsons_ends_solve_his_equation(right):
    # An end is the proportion from which the observed one is exactly z standard errors away.
    interval, z = proportion_interval(answers(right, 10)), stats.norm.ppf(0.975)
    for end in (interval.low, interval.high):
        assert (right / 10 - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / 10, abs=1e-9)


def test_a_perfect_score_on_few_images_is_no_certainty():
    interval = proportion_interval([1] * 5)
    assert interval.value == interval.high == 1
    # With all n right, Wilson's lower end is n / (n + z^2).
    assert interval.low == pytest.approx(5 / (5 + stats.norm.ppf(0.975) ** 2))


def test_shares_between_zero_and_one_are_averaged():
    assert proportion_interval([0.5, 0.25, 0.75, 0.5]) == proportion_interval([1, 0, 1, 0])


@pytest.mark.parametrize(
    "table", [(14, 5, 0, 22), (43, 0, 1, 0), (10, 15, 5, 20), (0, 0, 0, 9), (3, 4, 5, 2), (9, 1, 0, 0)]
)
def test_paired_interval_is_newcombes_method_10(table):
    interval = paired_interval(*pairs(*table))
    low, high = newcombe(*table)
    assert interval.value == pytest.approx((table[1] - table[2]) / sum(table))
    assert interval.low == pytest.approx(max(-1, low), abs=1e-12)
    assert interval.high == pytest.approx(min(1, high), abs=1e-12)


def test_the_paired_interval_turns_around_with_its_arguments():
    a, b = pairs(10, 15, 5, 20)
    forward, backward = paired_interval(a, b), paired_interval(b, a)
    assert backward == pytest.approx((-forward.value, -forward.high, -forward.low))


def test_agreement_on_few_images_is_no_certainty():
    interval = paired_interval(answers(5, 10), answers(5, 10))
    assert interval.low < -0.1
    assert interval.high > 0.1


def test_pairing_narrows_the_interval_where_both_agree():
    a, b = pairs(45, 3, 2, 50)
    paired = paired_interval(a, b)
    shuffled = paired_interval(a, np.random.default_rng(0).permutation(b))
    assert paired.high - paired.low < 0.6 * (shuffled.high - shuffled.low)


@pytest.mark.parametrize("n", [12, 40])
@pytest.mark.parametrize("probabilities", [(0.5, 0.1, 0.05, 0.35), (0.4, 0.2, 0.1, 0.3), (0.8, 0.1, 0.05, 0.05)])
def test_the_paired_interval_covers_the_true_difference(n, probabilities):
    # All tables of n images are drawn at once; those that repeat are evaluated once.
    tables = np.random.default_rng(1).multinomial(n, probabilities, size=1500)
    unique, counts = np.unique(tables, axis=0, return_counts=True)
    truth = probabilities[1] - probabilities[2]
    covered = 0
    for table, count in zip(unique, counts, strict=True):
        interval = paired_interval(*pairs(*table))
        covered += count * (interval.low - 1e-12 <= truth <= interval.high + 1e-12)
    assert 0.93 <= covered / counts.sum() <= 0.998


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_mean_interval_is_students(confidence):
    values = np.random.default_rng(0).normal(0.6, 0.1, 9)
    interval = mean_interval(values, confidence=confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval == pytest.approx((values.mean(), low, high))


def test_one_value_has_a_mean_and_no_bounds():
    assert mean_interval([0.7]) == (0.7, -np.inf, np.inf)


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([0.25, 0.25, 0.25]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("function", [proportion_interval, mean_interval, lambda x: paired_interval(x, x)])
def test_no_values_are_refused(function):
    with pytest.raises(InvalidInputError, match="at least one"):
        function([])


@pytest.mark.parametrize("values", [[0, 2], [-0.1, 1], [1, np.nan]])
def test_values_outside_the_unit_range_are_refused(values):
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        proportion_interval(values)
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        paired_interval([0, 1], values)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mean_of_what_is_not_finite_is_refused(value):
    with pytest.raises(InvalidInputError, match="finite"):
        mean_interval([0.5, value])


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(InvalidInputError, match=r"3 .*2"):
        paired_interval([1, 0, 1], [1, 0])


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan")])
@pytest.mark.parametrize("function", [proportion_interval, mean_interval, lambda x, **k: paired_interval(x, x, **k)])
def test_a_confidence_that_is_no_probability_is_refused(function, confidence):
    with pytest.raises(InvalidInputError, match="confidence="):
        function([0, 1], confidence=confidence)


# --- over data sets


def sets(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.5 + 0.1 * i, 0.05 * (i + 1), n) for i, n in enumerate(sizes)]


def test_one_data_set_is_an_ordinary_mean():
    (values,) = sets(9)
    assert overall_interval([values], confidence=0.9) == pytest.approx(mean_interval(values, confidence=0.9))


def test_two_data_sets_have_welchs_interval():
    # The mean of two means is half of the first minus the negated second.
    x, y = sets(8, 20)
    low, high = stats.ttest_ind(x, -y, equal_var=False).confidence_interval(0.95)
    assert overall_interval([x, y]) == pytest.approx(((x.mean() + y.mean()) / 2, low / 2, high / 2))


def test_equal_variances_and_sizes_add_up_their_degrees_of_freedom():
    (values,) = sets(10)
    assert stratified_mean([values, values + 0.2, values - 0.1]).freedom == pytest.approx(27)


def test_every_data_set_counts_the_same_however_many_episodes_it_has():
    assert overall_interval([[0.2, 0.4], [0.8] * 100]).value == pytest.approx((0.3 + 0.8) / 2)


def test_no_spread_has_no_width_and_one_episode_has_no_bounds():
    assert overall_interval([[0.25, 0.25], [0.75, 0.75, 0.75]]) == (0.5, 0.5, 0.5)
    assert overall_interval([[0.25, 0.5], [0.75]]) == (0.5625, -np.inf, np.inf)


def test_the_interval_over_data_sets_is_students_over_their_means():
    values = sets(8, 20, 3)
    assert across_sets_interval(values) == pytest.approx(mean_interval([v.mean() for v in values]))
    assert across_sets_interval(values).value == pytest.approx(overall_interval(values).value)


def test_an_interval_over_data_sets_needs_two():
    with pytest.raises(InvalidInputError, match=r"1 data set.*at least 2"):
        across_sets_interval([[0.1, 0.2]])


def test_no_data_sets_and_empty_ones_are_refused():
    with pytest.raises(InvalidInputError, match="at least one data set"):
        overall_interval([])
    for function in (overall_interval, across_sets_interval):
        with pytest.raises(InvalidInputError, match="at least one value"):
            function([[0.1, 0.2], []])
        with pytest.raises(InvalidInputError, match="finite"):
            function([[0.1, 0.2], [np.nan, 0.2]])
        with pytest.raises(InvalidInputError, match="confidence="):
            function([[0.1, 0.2], [0.3, 0.2]], confidence=95)
