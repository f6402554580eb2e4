"""A batch as the model gets it, number by number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.packing.collate import PackedCollator
from ftlab.data.packing.layout import Views
from ftlab.data.packing.store import IGNORE, PackedRow, PackedRows, Sample

PAD = 99


def sample(ids, learned):
    return Sample(np.asarray(ids, dtype=np.int32), np.asarray(learned, dtype=bool))


A = sample([10, 11, 12], [0, 1, 1])
B = sample([20, 21], [0, 1])
C = sample([30, 31, 32, 33], [0, 0, 1, 0])
ROWS = [PackedRow((A, B)), PackedRow((C,))]


def lists(batch):
    return {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def test_two_rows():
    assert lists(PackedCollator(PAD)(ROWS)) == {
        "input_ids": [[10, 11, 12, 20, 21], [30, 31, 32, 33, PAD]],
        "position_ids": [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]],
        "scored": [0, 1, 3, 6],
        "targets": [11, 12, 21, 32],
        "segments": [0, 0, 1, 2],
        "ends": [2, 4, 7],
        "starts": [0, 3, 5],
        "lengths": [3, 2, 4],
        "samples": 3,
        "tokens": 9,
    }


def test_flattened_to_one_row_without_padding():
    assert lists(PackedCollator(PAD, flatten=True)(ROWS)) == {
        "input_ids": [[10, 11, 12, 20, 21, 30, 31, 32, 33]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 2, 3]],
        "scored": [0, 1, 3, 6],
        "targets": [11, 12, 21, 32],
        "segments": [0, 0, 1, 2],
        "ends": [2, 4, 7],
        "starts": [0, 3, 5],
        "lengths": [3, 2, 4],
        "samples": 3,
        "tokens": 9,
        "cu_seq_lens": [0, 3, 5, 9],
        "longest": 4,
    }


def test_every_pad_is_alone_at_position_0():
    batch = lists(PackedCollator(PAD)([PackedRow((B,)), PackedRow((C,))]))
    assert batch["input_ids"] == [[20, 21, PAD, PAD], [30, 31, 32, 33]]
    assert batch["position_ids"] == [[0, 1, 0, 0], [0, 1, 2, 3]]


def test_padding_is_no_target_where_pad_and_end_share_an_id():
    end = 12
    batch = PackedCollator(end)([PackedRow((A,)), PackedRow((C,))])
    assert batch["input_ids"].tolist() == [[10, 11, 12, 12], [30, 31, 32, 33]]
    assert batch["targets"].tolist() == [11, 12, 32]
    assert batch["scored"].tolist() == [0, 1, 5]


def test_no_mask_is_sent_and_indices_are_whole_numbers():
    batch = PackedCollator(PAD)(ROWS)
    assert sorted(batch) == [
        "ends", "input_ids", "lengths", "position_ids", "samples", "scored", "segments", "starts", "targets", "tokens",
    ]  # fmt: skip
    assert {batch[key].dtype for key in batch if key not in ("tokens", "samples")} == {torch.int64}


@pytest.fixture
def stored():
    """A, B and C one after the other, as the store has them: C in a row of its own, then A and B."""
    ids, learned = (np.concatenate([getattr(one, name) for one in (A, B, C)]) for name in ("input_ids", "learned"))
    bounds = np.array([[0, 3, 1], [3, 5, 1], [5, 9, 1]])
    views = Views(bounds, np.array([0, 1, 2]), np.array([2, 0, 1]), np.array([0, 1, 3]))
    return lambda joined: PackedRows(ids, learned, views, np.zeros((3, 3), np.int64), np.zeros(3), joined)


def shown(row):
    return [(one.input_ids.tolist(), one.learned.tolist()) for one in row.samples]


def test_packed_rows_follow_the_bins(stored):
    rows = stored(joined=False)
    assert [shown(row) for row in rows] == [shown(PackedRow((C,))), shown(PackedRow((A, B)))]
    assert [row.length for row in rows] == [4, 5]
    assert shown(rows[-1]) == shown(rows[1]) == shown(rows[np.int64(1)])
    with pytest.raises(IndexError):
        rows[2]
    assert rows.unit(1)[0].input_ids.tolist() == [20, 21]


def test_joined_rows_are_one_sample_whose_positions_go_on(stored):
    rows = stored(joined=True)
    assert shown(rows[1]) == [([10, 11, 12, 20, 21], [False, True, True, False, True])]
    batch = lists(PackedCollator(PAD)(list(rows)))
    assert batch["position_ids"] == [[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]]
    assert batch["targets"] == [32, 11, 12, 21]


def test_tokens_at_the_start_of_a_view_are_not_learned(stored):
    rows = PackedRows(C.input_ids, np.ones(4, bool), Views(np.array([[0, 4, 3]]), *map(np.array, ([0], [0], [0, 1]))),
                      np.zeros((1, 3), np.int64), np.zeros(1))  # fmt: skip
    assert rows[0].samples[0].labels.tolist() == [IGNORE, IGNORE, IGNORE, 33]


def test_a_samples_labels_are_whole_numbers_of_32_bits():
    assert A.labels.dtype == A.input_ids.dtype == np.int32
    assert (A.labels.tolist(), A.trained) == ([IGNORE, 11, 12], 2)


samples = st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1, max_size=6).map(
    lambda tokens: sample([id_ for id_, _ in tokens], [False, *(learned for _, learned in tokens[1:])])
)
packed = st.lists(st.lists(samples, min_size=1, max_size=3).map(lambda found: PackedRow(tuple(found))), min_size=1)


@settings(deadline=None)
@given(packed)
def test_both_ways_learn_the_same(rows):
    padded, flat = PackedCollator(PAD)(rows), PackedCollator(PAD, flatten=True)(rows)
    kept = [one for row in rows for one in row.samples]
    learned = [(int(id_), number) for number, one in enumerate(kept) for id_ in one.labels[one.labels != IGNORE]]
    for batch in (padded, flat):
        assert Counter(zip(batch["targets"].tolist(), batch["segments"].tolist())) == Counter(learned)
        assert batch["tokens"] == sum(len(one.input_ids) for one in kept)
        ids, positions = batch["input_ids"].reshape(-1), batch["position_ids"].reshape(-1)
        # What is scored predicts its target: the token after it, one place further in the same sample.
        assert ids[batch["scored"] + 1].tolist() == batch["targets"].tolist()
        assert (positions[batch["scored"]] + 1).tolist() == positions[batch["scored"] + 1].tolist()
    assert flat["input_ids"].tolist() == [[id_ for one in kept for id_ in one.input_ids.tolist()]]
    assert (padded["position_ids"][padded["input_ids"] == PAD] == 0).all()


@pytest.mark.parametrize("flatten", [False, True])
def test_a_batch_with_nothing_to_learn_is_still_a_batch(flatten):
    batch = PackedCollator(PAD, flatten)([PackedRow((sample([1, 2], [0, 0]),))])
    assert batch["targets"].tolist() == batch["scored"].tolist() == batch["segments"].tolist() == []
    assert batch["input_ids"].tolist() == [[1, 2]]


def test_a_prompt_stands_once_for_two_answers():
    """The first label of both is predicted by the last token that they share, unless one's own tokens begin without."""
    chosen, rejected = sample([10, 11, 12, 13], [0, 0, 1, 1]), sample([10, 11, 20], [0, 0, 1])
    later = sample([10, 11, 30, 31], [0, 0, 0, 1])
    one = PackedRow((chosen, rejected, A, B), {"shared": np.array([0, 2, 0, 0]), "reference": np.arange(4)})
    two = PackedRow((chosen, later), {"shared": np.array([0, 2]), "reference": np.arange(2)})
    found = PackedCollator(PAD, isolation="segments")([one, two])
    assert found.pop("spans").tolist() == [
        [0, 4, 0, 0], [4, 1, 0, 2], [5, 3, 0, 0], [8, 2, 0, 0], [10, 4, 0, 0], [14, 2, 10, 2],
    ]  # fmt: skip
    assert lists(found) == {
        "input_ids": [[10, 11, 12, 13, 20, 10, 11, 12, 20, 21, 10, 11, 12, 13, 30, 31]],
        "position_ids": [[0, 1, 2, 3, 2, 0, 1, 2, 0, 1, 0, 1, 2, 3, 2, 3]],
        "scored": [1, 2, 1, 5, 6, 8, 11, 12, 14],
        "targets": [12, 13, 20, 11, 12, 21, 12, 13, 31],
        "segments": [0, 0, 1, 2, 2, 3, 4, 4, 5],
        "ends": [3, 4, 7, 9, 13, 15],
        "starts": [0, 4, 5, 8, 10, 14],
        "lengths": [4, 1, 3, 2, 4, 2],
        "samples": 6,
        "tokens": 16,
        "isolation": "segments",
        "reference": [0, 1, 2, 3, 0, 1],
    }
