"""Packing: nothing lost, nothing over, hardly any padding, and no time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.packing.best_fit import best_fit, pack_shuffled

cases = st.integers(1, 64).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)


def realistic(count):
    """Lengths as chat data has them: most short, a long tail, the longest cut to the row."""
    drawn = np.random.default_rng(0).lognormal(mean=5.5, sigma=1.0, size=count)
    return np.clip(drawn.astype(int), 8, 2048).tolist()


def naive_best_fit(lengths, capacity, order):
    """How full each row gets when every item, in order, goes into the fullest row that takes it."""
    totals: list[int] = []
    for index in order:
        fitting = [i for i, total in enumerate(totals) if total + lengths[index] <= capacity]
        if fitting:
            totals[max(fitting, key=totals.__getitem__)] += lengths[index]
        else:
            totals.append(lengths[index])
    return sorted(totals)


def packed(lengths, capacity, order=None):
    """The items of each row: best fit in the given order, or as a run packs them."""
    lengths = np.asarray(lengths, dtype=np.int64)
    rows = pack_shuffled(lengths, capacity, 0) if order is None else best_fit(lengths, capacity, np.array(order, int))
    assert rows.dtype.kind == "i" and rows.shape == lengths.shape
    return [np.flatnonzero(rows == row).tolist() for row in range(rows.max(initial=-1) + 1)]


@pytest.mark.parametrize(
    ("lengths", "capacity", "bins"),
    [
        ([], 10, []),
        ([10], 10, [[0]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([3, 7, 5, 4], 10, [[0, 1], [2, 3]]),
        # 12 leaves 8, 9 + 9 leave 2: the last 2 goes where it fits best, not where it fits first.
        ([12, 9, 9, 2], 20, [[0], [1, 2, 3]]),
        ([2, 9, 12, 9], 20, [[0, 1, 3], [2]]),
        ([1, 1, 1], 1, [[0], [1], [2]]),
    ],
)
def test_rows_in_the_order_given(lengths, capacity, bins):
    assert packed(lengths, capacity, range(len(lengths))) == bins
    backwards = [[len(lengths) - 1 - index for index in reversed(members)] for members in bins]
    assert packed(lengths[::-1], capacity, range(len(lengths))[::-1]) == backwards


@settings(deadline=None)
@given(cases)
def test_every_item_is_in_one_row_and_no_row_is_over(case):
    lengths, capacity = case
    bins = packed(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in members) <= capacity for members in bins)


@settings(deadline=None)
@given(cases, st.randoms())
def test_it_is_best_fit(case, random):
    lengths, capacity = case
    order = random.sample(range(len(lengths)), len(lengths))
    totals = sorted(sum(lengths[index] for index in members) for members in packed(lengths, capacity, order))
    assert totals == naive_best_fit(lengths, capacity, order)


def test_the_seed_alone_decides_who_meets():
    lengths = np.array(realistic(500))
    one, same, other = (pack_shuffled(lengths, 2048, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_sample_larger_than_half_a_row_never_waits_for_a_row_of_its_own():
    """Those come first, and the small ones fill what they leave: no more rows than large ones."""
    lengths = np.array([30, 70] * 200)
    assert all(pack_shuffled(lengths, 100, seed).max() + 1 == 200 for seed in range(5))


def test_an_item_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"^item 1 has 11 tokens, more than the capacity of 10$"):
        packed([3, 11, 4], 10)


def test_rows_of_chat_data_are_full():
    bins = packed(realistic(5_000), 2048)
    assert sum(realistic(5_000)) / (len(bins) * 2048) >= 0.99


def test_fifty_thousand_lengths_take_no_time():
    lengths = np.array(realistic(50_000))
    started = time.process_time()
    pack_shuffled(lengths, 2048, 0)
    assert time.process_time() - started < 1
