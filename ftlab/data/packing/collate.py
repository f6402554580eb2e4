"""Batches of packed rows.

Shape suffixes: B rows, L tokens of the longest row, N scored positions of the batch, S samples of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ftlab.data.packing.store import PackedRow, Sample


class PackedCollator:
    """Rows -> a batch for the packed forward.

    ``input_ids_BL`` and ``position_ids_BL``: positions start again at 0 with every sample, and that alone keeps samples
    apart, so no mask is sent. Padding at a row's end has position 0 throughout: every pad is alone.
    ``scored_N``: places in the flattened (B * L) hidden states that predict a label; ``targets_N``: those labels;
    ``segments_N``: the sample each belongs to, 0 to S - 1. ``ends_S``: places of the last token that each sample learns
    (its last, where it learns none), where an answer is judged. ``tokens``: how many tokens are no padding;
    ``samples``: S. What rows carry of each sample comes along under its name, shape (S,).

    :param flatten: one row of all samples, without padding, for attention kernels that take variable lengths.
    """

    def __init__(self, pad_id: int, flatten: bool = False):
        self._pad_id, self._flatten = pad_id, flatten

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
            first += len(lengths)
        labelled_N = np.flatnonzero(learned_BL)
        return {
            "input_ids": torch.from_numpy(input_ids_BL),
            "position_ids": torch.from_numpy(position_ids_BL),
            "scored": torch.from_numpy(labelled_N - 1),
            "targets": torch.from_numpy(input_ids_BL.reshape(-1)[labelled_N]),
            "segments": torch.from_numpy(segments_BL.reshape(-1)[labelled_N]),
            "ends": torch.tensor(ends_S),
            "tokens": sum(row.length for row in rows),
            "samples": first,
            **{n: torch.from_numpy(np.concatenate([row.columns[n] for row in rows])) for n in rows[0].columns},
        }


def _unlearned_tail(sample: Sample) -> int:
    """How many tokens stand after the last one that is learned."""
    return int(sample.learned[::-1].argmax())
