"""Batches of packed rows.

Shape suffixes: B rows, L tokens of the longest row, N scored positions of the batch, S samples of the batch; s of
them in one call of the model, the longest of l tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from ftlab.data.packing.batches import batches_by_tokens
from ftlab.data.packing.padded_sizes import padded_size
from ftlab.data.packing.shared import leave_out_shared, prefix_starts, scored_places
from ftlab.data.packing.store import SHARED, PackedRow, spans
from ftlab.data.tokens.encoder import Counts

# How samples of a row are kept apart. segments, segments_sdpa: attention is computed sample by sample, which the model
# is told the places of. position_ids: they begin again at 0 with every sample, from which the model makes its mask.
# block_mask: that mask, given to the model. one_per_row: the model sees each sample in a row of its own.
Isolation = Literal["segments", "segments_sdpa", "position_ids", "block_mask", "one_per_row"]
BY_SEGMENT = ("segments", "segments_sdpa")


class PackedCollator:
    """Rows -> a batch for the packed forward.

    ``input_ids_BL`` and ``position_ids_BL``: positions start again at 0 with every sample, and that alone keeps samples
    apart, so no mask is sent. Padding at a row's end has position 0 throughout: every pad is alone.
    ``scored_N``: places in the flattened (B * L) hidden states that predict a label; ``targets_N``: those labels;
    ``segments_N``: the sample each belongs to, 0 to S - 1. ``ends_S``: places of the last token that each sample learns
    (its last, where it learns none), where an answer is judged; ``starts_S`` and ``lengths_S``: places of their first
    tokens, and how many they have. ``tokens``: how many tokens are no padding;
    ``samples``: S. What rows carry of each sample comes along under its name, shape (S,).

    Where positions do not keep a model's samples apart, ``isolation`` names the other way, and comes along. With
    ``one_per_row`` so does ``calls``: for each call of the model a tensor (s, l) of places in the flattened (B * L),
    one sample to a row, padded with -1. Samples of similar length go together, and a call holds no more tokens than
    the packed rows do. Everything else, and what a step holds, stays as it is. Where attention goes by segments so do
    ``spans_S4``, a numpy array, which stays on the host: of each sample the place of its first token and its length,
    and of a prefix that it shares the place and the length, both 0 where it has none.

    Of rows with a column ``shared`` (attention by segments alone can do with it) tokens that the sample before has are
    left out: the sample's own tokens begin with the position after them, and its starts, lengths and tokens are of its
    own. The last token shared may be scored for both samples: its place then stands twice in ``scored_N``.

    :param flatten: one row of all samples, without padding, for attention that takes variable lengths; always where it
        goes by segments. With ``position_ids`` there come along, as such kernels take them, ``cu_seq_lens``, int32,
        shape (S + 1,): how many tokens come before each sample, and ``longest``: the tokens of the longest.
    :param isolation: how samples are kept apart. :param one_call: all samples in one call, whatever their lengths:
        devices that share a model have to call it equally often.
    :param sizes: numbers of places, in order: rows are padded to the first of them that has room.
    """

    def __init__(
        self, pad_id: int, flatten: bool = False, isolation: Isolation = "position_ids", one_call: bool = False,
        sizes: Sequence[int] = (),
    ):  # fmt: skip
        self._pad_id, self._isolation, self._one_call, self._sizes = pad_id, isolation, one_call, sizes
        self._flatten = flatten or isolation in BY_SEGMENT

    def __call__(self, rows: Sequence[PackedRow]) -> dict[str, Any]:
        columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
        shared_S = columns.pop(SHARED, np.zeros(sum(len(row.lengths) for row in rows), dtype=np.int64))
        if shared_S.any():
            rows = [leave_out_shared(row) for row in rows]
        if self._flatten:
            ids, learned, lengths = (
                np.concatenate([getattr(row, name) for row in rows]) for name in ("input_ids", "learned", "lengths")
            )
            rows = [PackedRow.of_tokens(ids, learned, lengths, columns)]
        width = padded_size(max(row.length for row in rows), self._sizes)
        shape = len(rows), width
        input_ids_BL, position_ids_BL = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        learned_BL = np.empty(shape, dtype=bool)
        shared_of_rows = np.split(shared_S, np.cumsum([len(row.lengths) for row in rows])[:-1])
        for b, (row, shared) in enumerate(zip(rows, shared_of_rows)):
            end = row.length
            input_ids_BL[b, :end], input_ids_BL[b, end:] = row.input_ids, self._pad_id
            position_ids_BL[b, :end], position_ids_BL[b, end:] = spans(shared, row.lengths), 0
            learned_BL[b, :end], learned_BL[b, end:] = row.learned, False
        lengths_S = np.concatenate([row.lengths for row in rows])
        starts_S = np.concatenate([b * width + row.lengths.cumsum() - row.lengths for b, row in enumerate(rows)])
        labelled_N = np.flatnonzero(learned_BL)
        # Labels before the end of each sample: what is more than before its start is its own.
        before_S = np.searchsorted(labelled_N, starts_S + lengths_S)
        counts_S = np.diff(before_S, prepend=0)
        last_labels_S = np.append(labelled_N, 0)[before_S - 1]
        segments_N = np.repeat(np.arange(len(lengths_S)), counts_S)
        return {
            "input_ids": torch.from_numpy(input_ids_BL),
            "position_ids": torch.from_numpy(position_ids_BL),
            "scored": torch.from_numpy(scored_places(labelled_N, segments_N, starts_S, shared_S)),
            "targets": torch.from_numpy(input_ids_BL.reshape(-1).take(labelled_N)),
            "segments": torch.from_numpy(segments_N),
            "ends": torch.from_numpy(np.where(counts_S > 0, last_labels_S, starts_S + lengths_S - 1)),
            "starts": torch.from_numpy(starts_S),
            "lengths": torch.from_numpy(lengths_S),
            "tokens": sum(row.length for row in rows),
            "samples": len(lengths_S),
            **self._apart(starts_S, lengths_S, shared_S, input_ids_BL.size),
            **{name: torch.from_numpy(values) for name, values in columns.items()},
        }

    def _apart(self, starts_S: Counts, lengths_S: Counts, shared_S: Counts, size: int) -> dict[str, Any]:
        if self._isolation == "position_ids":
            if not self._flatten:
                return {}
            cu_seq_lens = np.concatenate([[0], lengths_S.cumsum()]).astype(np.int32)
            return {"cu_seq_lens": torch.from_numpy(cu_seq_lens), "longest": int(lengths_S.max())}
        if self._isolation == "block_mask":
            return {"isolation": self._isolation}
        if self._isolation in BY_SEGMENT:
            spans_S4 = np.stack([starts_S, lengths_S, prefix_starts(starts_S, shared_S), shared_S], axis=1)
            return {"isolation": self._isolation, "spans": spans_S4}
        together = [list(range(len(lengths_S)))] if self._one_call else batches_by_tokens(lengths_S.tolist(), size)
        calls = []
        for members in together:
            starts_s, lengths_s = starts_S[members, None], lengths_S[members, None]
            places_l = np.arange(lengths_s.max())
            calls.append(torch.from_numpy(np.where(places_l < lengths_s, starts_s + places_l, -1)))
        return {"isolation": self._isolation, "calls": tuple(calls), "pad_id": self._pad_id}
