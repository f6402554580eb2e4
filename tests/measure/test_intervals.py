"""Intervals hold what they promise on simulated data, and the test of a difference errs as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftlab.measure.intervals import _t_quantile, difference, interval, mean, wilson


def rows(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)


def coverage(draw, truth: float, statistic=mean, trials: int = 250) -> float:
    """Of ``trials`` samples, the share whose interval holds the truth."""
    held = 0
    for trial in range(trials):
        low, high = interval(draw(np.random.default_rng([7, trial])), statistic, trial)
        held += low <= truth <= high
    return held / trials


# With 250 trials an interval that covers at 95 % is within 3.6 points of it in 99 of 100 such tests.
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda random: rows((random.random(40) < 0.8).astype(float)), 0.8),
        (lambda random: rows((random.random(25) < 0.1).astype(float)), 0.1),
        (lambda random: rows(random.beta(0.6, 0.3, 30)), 0.6 / 0.9),
        (lambda random: rows(random.normal(3.0, 2.0, 8)), 3.0),
    ],
    ids=["hits", "few hits", "f1", "eight rows"],
)
def test_an_interval_covers_as_often_as_it_says(draw, truth):
    assert coverage(draw, truth) == pytest.approx(0.95, abs=0.036)


def test_so_does_that_of_a_ratio_of_sums():
    """A loss per token: rows of many tokens weigh more."""

    def draw(random: np.random.Generator) -> np.ndarray:
        tokens = random.integers(1, 60, 40).astype(float)
        return np.stack([tokens * random.gamma(4.0, 0.5, 40), tokens], axis=1)

    assert coverage(draw, 2.0) == pytest.approx(0.95, abs=0.036)


def test_where_all_are_hits_the_interval_is_no_point():
    assert interval(rows(np.ones(20)), mean, 0) == wilson(20, 20)
    low, high = wilson(20, 20)
    assert low == pytest.approx(20 / (20 + 1.959964**2)) and high == 1.0
    assert wilson(0, 20) == (0.0, pytest.approx(1 - low))


def test_one_row_has_none_and_the_same_seed_gives_the_same():
    assert interval(rows(np.array([0.5])), mean, 0) is None
    values = rows(np.random.default_rng(0).random(50))
    assert interval(values, mean, 3) == interval(values, mean, 3) != interval(values, mean, 4)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (30, 2.042)])
def test_students_quantiles_are_those_of_the_tables(freedom, quantile):
    assert _t_quantile(0.975, freedom) == pytest.approx(quantile, rel=0.005)


def test_a_difference_that_is_none_is_found_as_often_as_the_level_says():
    """Pairs with much in common, of which neither side is better."""
    p_values, held = [], 0
    for trial in range(150):
        random = np.random.default_rng([11, trial])
        common = random.normal(0, 3, 30)
        found = difference(rows(common + random.normal(0, 1, 30)), rows(common + random.normal(0, 1, 30)), mean, trial)
        p_values.append(found.p_value)
        held += found.low <= 0 <= found.high
    assert np.mean(np.array(p_values) < 0.05) <= 0.1
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.11)
    assert held / 150 == pytest.approx(0.95, abs=0.046)


def test_a_paired_difference_is_found_where_two_intervals_overlap():
    random = np.random.default_rng(5)
    common = random.normal(0, 3, 60)
    ours, theirs = rows(common + 0.6 + random.normal(0, 0.5, 60)), rows(common + random.normal(0, 0.5, 60))
    a, b = interval(ours, mean, 0), interval(theirs, mean, 0)
    assert a[0] < b[1]
    found = difference(ours, theirs, mean, 0)
    assert found.p_value < 0.001 and 0.3 < found.low < found.value < found.high < 0.9
    other = difference(theirs, ours, mean, 0)
    assert (other.value, other.p_value) == (-found.value, pytest.approx(found.p_value, abs=1e-3))


def test_the_same_answers_differ_by_nothing():
    values = rows((np.random.default_rng(2).random(30) < 0.5).astype(float))
    found = difference(values, values, mean, 0)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert difference(values[:1], values[:1], mean, 0) is None


def test_it_is_the_exact_test_of_discordant_pairs():
    """Of hits, exchanging sides is tossing a coin for each pair of which one is a hit: McNemar's exact test."""
    ours, theirs = np.array([1.0] * 12 + [0.0] * 3 + [1.0] * 20), np.array([0.0] * 12 + [1.0] * 3 + [1.0] * 20)
    exact = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert difference(rows(ours), rows(theirs), mean, 1).p_value == pytest.approx(exact, abs=0.006)
