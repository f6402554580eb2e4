"""Packing: nothing lost, nothing over, hardly any padding, and no time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.packing.best_fit import best_fit_decreasing

cases = st.integers(1, 64).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)


def realistic(count):
    """Lengths as chat data has them: most short, a long tail, the longest cut to the row."""
    drawn = np.random.default_rng(0).lognormal(mean=5.5, sigma=1.0, size=count)
    return np.clip(drawn.astype(int), 8, 2048).tolist()


def naive_best_fit(lengths, capacity):
    """How full each row gets when every item, longest first, goes into the fullest row that takes it."""
    totals: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, total in enumerate(totals) if total + length <= capacity]
        if fitting:
            totals[max(fitting, key=totals.__getitem__)] += length
        else:
            totals.append(length)
    return sorted(totals)


@pytest.mark.parametrize(
    ("lengths", "capacity", "bins"),
    [
        ([], 10, []),
        ([10], 10, [[0]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([3, 7, 5, 4], 10, [[0, 1], [2, 3]]),
        # 12 leaves 8, 9 + 9 leave 2: the last 2 goes where it fits best, not where it fits first.
        ([12, 9, 9, 2], 20, [[0], [1, 2, 3]]),
        ([2, 9, 12, 9], 20, [[2], [0, 1, 3]]),
        ([1, 1, 1], 1, [[0], [1], [2]]),
    ],
)
def test_bins(lengths, capacity, bins):
    assert best_fit_decreasing(lengths, capacity) == bins


@settings(deadline=None)
@given(cases)
def test_every_index_is_in_one_bin_and_no_bin_is_over(case):
    lengths, capacity = case
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in members) <= capacity for members in bins)
    assert all(members == sorted(members) for members in bins)


@settings(deadline=None)
@given(cases)
def test_it_is_best_fit(case):
    lengths, capacity = case
    totals = sorted(sum(lengths[index] for index in members) for members in best_fit_decreasing(lengths, capacity))
    assert totals == naive_best_fit(lengths, capacity)


@settings(deadline=None)
@given(cases)
def test_the_same_lengths_pack_the_same(case):
    lengths, capacity = case
    assert best_fit_decreasing(lengths, capacity) == best_fit_decreasing(tuple(lengths), capacity)


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"^item 1 has 11 tokens, more than the capacity of 10$"):
        best_fit_decreasing([3, 11, 4], 10)


def test_rows_of_chat_data_are_full():
    lengths = realistic(5_000)
    bins = best_fit_decreasing(lengths, 2048)
    assert sum(lengths) / (len(bins) * 2048) >= 0.99


def test_fifty_thousand_lengths_take_no_time():
    lengths = realistic(50_000)
    started = time.process_time()
    best_fit_decreasing(lengths, 2048)
    assert time.process_time() - started < 3
