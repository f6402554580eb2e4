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
from ftlab.data.packing.store import PackedRow, Sample

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

    :param flatten: one row of all samples, without padding, for attention that takes variable lengths; always where it
        goes by segments.
    :param isolation: how samples are kept apart. :param one_call: all samples in one call, whatever their lengths:
        devices that share a model have to call it equally often.
    """

    def __init__(
        self, pad_id: int, flatten: bool = False, isolation: Isolation = "position_ids", one_call: bool = False
    ):
        self._pad_id, self._isolation, self._one_call = pad_id, isolation, one_call
        self._flatten = flatten or isolation in BY_SEGMENT

    def __call__(self, rows: Sequence[PackedRow]) -> dict[str, Any]:
        if self._flatten:
            columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
            rows = [PackedRow(tuple(sample for row in rows for sample in row.samples), columns)]
        width = max(row.length for row in rows)
        input_ids_BL = np.full((len(rows), width), self._pad_id, dtype=np.int64)
        position_ids_BL = np.zeros((len(rows), width), dtype=np.int64)
        learned_BL = np.zeros((len(rows), width), dtype=bool)
        segments_BL = np.zeros((len(rows), width), dtype=np.int64)
        ends_S: list[int] = []
        spans_S: list[tuple[int, int]] = []
        first = 0
        for b, row in enumerate(rows):
            lengths = np.array([len(sample.input_ids) for sample in row.samples])
            ends = lengths.cumsum()
            end = ends[-1]
            np.concatenate([sample.input_ids for sample in row.samples], out=input_ids_BL[b, :end], casting="safe")
            np.concatenate([sample.learned for sample in row.samples], out=learned_BL[b, :end])
            position_ids_BL[b, :end] = np.arange(end) - np.repeat(ends - lengths, lengths)
            segments_BL[b, :end] = np.repeat(np.arange(first, first + len(lengths)), lengths)
            ends_S += [b * width + end - 1 - _unlearned_tail(sample) for end, sample in zip(ends, row.samples)]
            spans_S += [(b * width + end - length, length) for end, length in zip(ends.tolist(), lengths.tolist())]
            first += len(lengths)
        labelled_N = np.flatnonzero(learned_BL)
        return {
            "input_ids": torch.from_numpy(input_ids_BL),
            "position_ids": torch.from_numpy(position_ids_BL),
            "scored": torch.from_numpy(labelled_N - 1),
            "targets": torch.from_numpy(input_ids_BL.reshape(-1)[labelled_N]),
            "segments": torch.from_numpy(segments_BL.reshape(-1)[labelled_N]),
            "ends": torch.tensor(ends_S),
            "starts": torch.tensor([start for start, _ in spans_S]),
            "lengths": torch.tensor([length for _, length in spans_S]),
            "tokens": sum(row.length for row in rows),
            "samples": first,
            **self._apart(spans_S, input_ids_BL.size),
            **{n: torch.from_numpy(np.concatenate([row.columns[n] for row in rows])) for n in rows[0].columns},
        }

    def _apart(self, spans_S: list[tuple[int, int]], size: int) -> dict[str, Any]:
        if self._isolation == "position_ids":
            return {}
        if self._isolation == "block_mask":
            return {"isolation": self._isolation}
        if self._isolation in BY_SEGMENT:
            return {"isolation": self._isolation, "spans": np.array([(*span, 0, 0) for span in spans_S])}
        lengths = [length for _, length in spans_S]
        together = [list(range(len(lengths)))] if self._one_call else batches_by_tokens(lengths, size)
        calls = []
        for members in together:
            places_sl = np.full((len(members), max(lengths[i] for i in members)), -1, dtype=np.int64)
            for row, (start, length) in zip(places_sl, (spans_S[i] for i in members)):
                row[:length] = np.arange(start, start + length)
            calls.append(torch.from_numpy(places_sl))
        return {"isolation": self._isolation, "calls": tuple(calls), "pad_id": self._pad_id}


def _unlearned_tail(sample: Sample) -> int:
    """How many tokens stand after the last one that is learned."""
    return int(sample.learned[::-1].argmax())
