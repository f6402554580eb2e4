"""Which rows, in which order, cut where: arithmetic that loses nothing."""

from __future__ import annotations

import doctest
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.packing.best_fit import shuffled
from ftlab.data.packing.layout import Layout, Views, chunk_spans
from ftlab.data.packing.selection import mix_sources, repeat_units, select_rows

lengths_sizes_overlaps = st.integers(1, 40).flatmap(
    lambda size: st.tuples(st.integers(1, 200), st.just(size), st.integers(0, size - 1))
)


def options(**given):
    split = SimpleNamespace(validation="auto", test="auto", fraction=0.0, test_fraction=0.0)
    defaults = {"max_length": 8, "overlap": 0, "packing": False, "reset_positions": True, "max_samples": None,
                "num_samples": None}  # fmt: skip
    split.__dict__.update({name: given.pop(name) for name in tuple(given) if hasattr(split, name)})
    return SimpleNamespace(**{**defaults, "split": split, **given})


def lay_out(counts, per_unit, order, data, is_text):
    """The views of samples that were stored one after the other, all pieces together."""
    layout = Layout(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), per_unit, order, data, 0, is_text)
    bounds, units = zip((np.empty((0, 3), np.int64), np.empty(0, np.int64)), *layout.views())
    rows, members = layout.rows()
    return Views(np.concatenate(bounds), np.concatenate(units), np.concatenate([np.empty(0, np.int64), *members]), rows)


def texts(lengths, order=None, **given):
    """Views of texts that were stored one after the other."""
    order = np.arange(len(lengths)) if order is None else np.asarray(order, dtype=np.int64)
    return lay_out(lengths, 1, order, options(**given), is_text=True)


def rows_of(views):
    """Of each row, the stretches ``(start, end, skipped)`` in it."""
    return [[tuple(views.bounds[m].tolist()) for m in views.members[a:b]] for a, b in pairwise(views.rows.tolist())]


# --- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "size", "overlap", "expected"),
    [
        (10, 4, 1, [(0, 4), (3, 7), (6, 10)]),
        (10, 4, 0, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, 0, [(0, 4), (4, 8)]),
        (4, 4, 3, [(0, 4)]),
        (5, 4, 3, [(0, 4), (1, 5)]),
        (3, 4, 2, [(0, 3)]),
        (1, 1, 0, [(0, 1)]),
    ],
)
def test_chunk_spans(length, size, overlap, expected):
    assert chunk_spans(length, size, overlap) == expected


def test_the_example_of_chunk_spans_is_true():
    found = doctest.DocTestFinder().find(chunk_spans, globs={"chunk_spans": chunk_spans})
    results = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(result.attempted for result in results) == 1
    assert sum(result.failed for result in results) == 0


@settings(deadline=None)
@given(lengths_sizes_overlaps)
def test_chunks_cover_everything_and_share_exactly_the_overlap(case):
    length, size, overlap = case
    spans = chunk_spans(length, size, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(end - start == size for start, end in spans[:-1])
    assert 0 < spans[-1][1] - spans[-1][0] <= size
    assert all(before[1] - after[0] == overlap for before, after in pairwise(spans))
    assert all(after[1] > before[1] for before, after in pairwise(spans))


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(2, 20), st.integers(0, 19), st.booleans())
def test_every_token_of_texts_is_learned_once_over_chunks_that_overlap(lengths, size, overlap, packing):
    overlap = min(overlap, size - 1)
    views = texts(lengths, max_length=size, overlap=overlap, packing=packing)
    learned, held = np.zeros(sum(lengths), dtype=int), np.zeros(sum(lengths), dtype=int)
    for start, end, skip in views.bounds.tolist():
        assert 0 < end - start <= size and skip >= 1
        learned[start + skip : end] += 1
        held[start:end] += 1
    assert learned.max() <= 1
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    assert held.min() == 1, "no token is lost"
    if overlap:
        assert set(np.flatnonzero(learned == 0)) == set(begins), "all but the first token of each text"
    else:
        firsts = {b + s for b, n in zip(begins, lengths) for s, _ in chunk_spans(n, size, 0)}
        alone = {b + n - 1 for b, n in zip(begins, lengths) if n > size and n % size == 1}
        assert set(np.flatnonzero(learned == 0)) == firsts - alone, "a last token that is left alone is learned too"
    # Every view is in one row, and no row is over.
    assert sorted(views.members.tolist()) == list(range(len(views.bounds)))
    assert all(sum(end - start for start, end, _ in row) <= size for row in rows_of(views))
    owners = np.searchsorted(np.cumsum(lengths), views.bounds[:, 0], side="right")
    assert views.units.tolist() == owners.tolist() == sorted(views.units.tolist())


def test_chunks_number_by_number():
    views = texts([5, 11, 3], max_length=8, overlap=2)
    assert rows_of(views) == [[(0, 5, 1)], [(5, 13, 1)], [(11, 16, 2)], [(16, 19, 1)]]
    assert views.units.tolist() == [0, 1, 1, 2]
    packed = texts([5, 11, 3], max_length=8, overlap=2, packing=True)
    assert rows_of(packed) == [[(5, 13, 1)], [(0, 5, 1)], [(11, 16, 2), (16, 19, 1)]]


def test_a_text_that_is_taken_twice_is_chunked_twice():
    assert rows_of(texts([3, 9], order=[1, 0, 1], max_length=8, overlap=1)) == [
        [(3, 11, 1)], [(10, 12, 1)], [(0, 3, 1)], [(3, 11, 1)], [(10, 12, 1)],
    ]  # fmt: skip


# --- wrapped ---------------------------------------------------------------------------------------------------------


def test_wrapped_rows_number_by_number():
    apart = texts([5, 11, 3], max_length=8, packing="wrapped")  # in the drawn order: the second text, first, third
    assert shuffled(3, 0).tolist() == [1, 0, 2]
    assert rows_of(apart) == [[(5, 13, 1)], [(13, 16, 1), (0, 5, 1)], [(16, 19, 1)]]
    joined = texts([5, 11, 3], max_length=8, packing="wrapped", reset_positions=False)
    assert rows_of(joined) == [[(0, 5, 1), (5, 8, 0)], [(8, 16, 1)], [(16, 19, 1)]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(2, 20), st.booleans(), st.randoms())
def test_wrapped_rows_hold_the_stream_and_only_the_last_is_short(lengths, size, reset, random):
    order = [random.randrange(len(lengths)) for _ in range(random.randint(1, 10))]
    views = texts(lengths, order, max_length=size, packing="wrapped", reset_positions=reset)
    rows = rows_of(views)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if reset:  # texts that do not see each other are mixed; a row that is read as one text keeps theirs
        order = [order[place] for place in shuffled(len(order), 0).tolist()]
    stream = [token for unit in order for token in range(starts[unit], starts[unit + 1])]
    assert [token for row in rows for start, end, _ in row for token in range(start, end)] == stream
    totals = [sum(end - start for start, end, _ in row) for row in rows]
    assert totals[:-1] == [size] * (len(rows) - 1) and 0 < totals[-1] <= size
    assert all(skip == (1 if reset or not place else 0) for row in rows for place, (_, _, skip) in enumerate(row))


@pytest.mark.parametrize("given_", [{}, {"packing": True}, {"packing": "wrapped"}])
def test_nothing_is_arranged_to_nothing(given_):
    assert rows_of(texts([], **given_)) == []


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [True, False])
def test_both_answers_of_a_pair_stand_side_by_side_in_one_row(packing):
    counts = np.array([3, 4, 8, 7, 1, 2, 2, 2])
    views = lay_out(counts, 2, np.array([0, 1, 2, 3]), options(packing=packing), is_text=False)
    rows = rows_of(views)
    starts = np.concatenate([[0], counts.cumsum()])
    pairs = {(starts[i], starts[i + 1]) for i in (0, 2, 4, 6)}
    for row in rows:
        assert len(row) % 2 == 0
        assert all((a[0], a[1]) in pairs and a[1] == b[0] for a, b in zip(row[::2], row[1::2]))
        assert sum(end - start for start, end, _ in row) <= 2 * 8
    assert Counter(stretch for row in rows for stretch in row) == Counter(
        (a, b, 1) for a, b in pairwise(starts.tolist())
    )
    assert len(rows) == (2 if packing else 4)  # 7 + 3 + 4 fit into one of 16
    assert views.units.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


# --- which rows ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 5))
def test_repetition_takes_each_row_as_often_as_every_other_or_once_more(units, wanted, seed):
    order = repeat_units(units, wanted, seed)
    uses = np.bincount(order, minlength=units)
    assert len(order) == max(units, wanted)
    assert uses.min() >= 1
    assert uses.max() - uses.min() <= 1
    assert np.array_equal(order, repeat_units(units, wanted, seed))


def test_repetition_follows_the_seed_and_is_in_order():
    assert repeat_units(3, None, 0).tolist() == repeat_units(3, 2, 0).tolist() == [0, 1, 2]
    assert repeat_units(3, 6, 0).tolist() == [0, 1, 2, 0, 1, 2]
    assert repeat_units(0, 5, 0).tolist() == []
    drawn = {tuple(repeat_units(40, 50, seed)[40:].tolist()) for seed in range(4)}
    assert len(drawn) == 4 and all(list(one) == sorted(one) for one in drawn)


def test_splits_are_drawn_apart_and_cover_what_is_drawn():
    def drawn(seed):
        found = select_rows(100, options(max_samples=50, fraction=0.2, test_fraction=0.1), seed, set())
        return {name: rows.tolist() for name, rows in found.items()}

    found = drawn(3)
    assert {name: len(rows) for name, rows in found.items()} == {"train": 36, "validation": 10, "test": 4}
    assert len({row for rows in found.values() for row in rows}) == 50
    assert all(rows == sorted(rows) for rows in found.values())
    assert found == drawn(3)
    assert found != drawn(4)
    own = select_rows(100, options(fraction=0.2, test_fraction=0.1), 3, {"validation"})
    assert {name: len(rows) for name, rows in own.items()} == {"train": 90, "test": 10}
    assert select_rows(100, options(), 3, set()) == {"train": None}
    assert select_rows(1, options(fraction=0.5), 3, set()) == {"train": None}, "the only row is for training"


# --- several sets ----------------------------------------------------------------------------------------------------

sizes_of_sets = st.lists(st.integers(1, 12), min_size=2, max_size=4)


def orders_of(sizes):
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for size, end in zip(sizes, ends)]


def of_datasets(sizes, how, **given):
    import datasets

    sets = [datasets.Dataset.from_dict({"unit": order.tolist()}) for order in orders_of(sizes)]
    stopping = {"interleave_under": "first_exhausted", "interleave_over": "all_exhausted"}[how]
    return datasets.interleave_datasets(sets, stopping_strategy=stopping, **given)["unit"][:]


def test_one_after_the_other():
    assert mix_sources(orders_of([2, 3]), "concat", None, 0).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("how", ["interleave_under", "interleave_over"])
def test_in_turns_as_datasets_interleaves(how):
    @settings(max_examples=25, deadline=None)
    @given(sizes_of_sets)
    def check(sizes):
        assert mix_sources(orders_of(sizes), how, None, 0).tolist() == of_datasets(sizes, how)

    check()
    expected = {"interleave_under": [0, 3, 1, 4], "interleave_over": [0, 3, 1, 4, 2, 3]}
    assert mix_sources(orders_of([3, 2]), how, None, 0).tolist() == expected[how]


@pytest.mark.parametrize("how", ["interleave_under", "interleave_over"])
def test_by_probabilities_until_the_first_or_the_last_set_is_used_up(how):
    @settings(max_examples=60, deadline=None)
    @given(sizes_of_sets, st.integers(0, 100), st.data())
    def check(sizes, seed, data):
        shares = data.draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes)))
        orders = orders_of(sizes)
        found = mix_sources(orders, how, shares, seed)
        doubled = [2 * share for share in shares]
        assert np.array_equal(found, mix_sources(orders, how, doubled, seed)), "seed and shares decide"
        uses = [np.bincount(found, minlength=sum(sizes))[order] for order in orders]
        whole = [bool(of_set.min() >= 1) for of_set in uses]
        assert all(of_set.max() - of_set.min() <= 1 for of_set in uses), "each begins again only when it is through"
        # What ends it is the last row taken: without it, too few sets are used up.
        last = next(i for i, order in enumerate(orders) if found[-1] in order)
        if how == "interleave_under":
            assert sum(whole) == 1 and whole[last]
        else:
            assert all(whole) and uses[last].max() == 1 and found[-1] == orders[last][-1]

    check()


def test_probabilities_are_the_shares_and_the_seed_decides_the_order():
    orders = orders_of([4000, 4000])
    found = mix_sources(orders, "interleave_under", [3, 1], 5)
    share = float((found < 4000).mean())
    assert abs(share - 0.75) < 0.02
    assert not np.array_equal(found[:100], mix_sources(orders, "interleave_under", [3, 1], 6)[:100])


@pytest.mark.parametrize("shares", [None, [0.2, 0.5, 0.3]])
@pytest.mark.parametrize("how", ["interleave_under", "interleave_over"])
def test_a_set_of_which_no_row_is_left_takes_no_turn(how, shares):
    nothing = np.empty(0, np.int64)
    found = mix_sources([np.arange(3), nothing, np.arange(3, 5)], how, shares, 1)
    without = mix_sources([np.arange(3), np.arange(3, 5)], how, shares and [shares[0], shares[2]], 1)
    assert len(found) and found.tolist() == without.tolist()
    assert mix_sources([nothing, nothing], how, shares and shares[:2], 1).tolist() == []
