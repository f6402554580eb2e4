"""Packed rows and batches of them.

Shape suffixes: B rows, L tokens of the longest row, N scored positions of the batch, S samples of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ftlab.data.encode import IGNORE, Sample


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Samples side by side, none attending to another."""

    samples: tuple[Sample, ...]

    @property
    def length(self) -> int:
        return sum(len(sample.input_ids) for sample in self.samples)


class PackedRows(Dataset[PackedRow]):
    """:param bins: indices into ``samples``, one list per row."""

    def __init__(self, samples: Sequence[Sample], bins: Sequence[Sequence[int]]):
        self._samples, self._bins = samples, bins

    def __len__(self) -> int:
        return len(self._bins)

    def __getitem__(self, index: int) -> PackedRow:
        return PackedRow(tuple(self._samples[i] for i in self._bins[index]))


class PackedCollator:
    """Rows -> a batch for the packed forward.

    ``input_ids_BL`` and ``position_ids_BL``: positions start again at 0 with every sample, and that alone keeps samples
    apart, so no mask is sent. Padding at a row's end has position 0 throughout: every pad is alone.
    ``scored_N``: places in the flattened (B * L) hidden states that predict a label; ``targets_N``: those labels;
    ``segments_N``: the sample each belongs to, 0 to S - 1. ``tokens``: how many tokens are no padding.

    :param flatten: one row of all samples, without padding, for attention kernels that take variable lengths.
    """

    def __init__(self, pad_id: int, flatten: bool = False):
        self._pad_id, self._flatten = pad_id, flatten

    def __call__(self, rows: Sequence[PackedRow]) -> dict[str, Any]:
        if self._flatten:
            rows = [PackedRow(tuple(sample for row in rows for sample in row.samples))]
        width = max(row.length for row in rows)
        input_ids_BL = np.full((len(rows), width), self._pad_id, dtype=np.int64)
        position_ids_BL = np.zeros((len(rows), width), dtype=np.int64)
        labels_BL = np.full((len(rows), width), IGNORE, dtype=np.int64)
        segments_BL = np.zeros((len(rows), width), dtype=np.int64)
        segment = 0
        for b, row in enumerate(rows):
            start = 0
            for sample in row.samples:
                end = start + len(sample.input_ids)
                input_ids_BL[b, start:end] = sample.input_ids
                position_ids_BL[b, start:end] = np.arange(end - start)
                labels_BL[b, start:end] = sample.labels
                segments_BL[b, start:end] = segment
                segment += 1
                start = end
        labelled_N = np.flatnonzero(labels_BL.reshape(-1) != IGNORE)
        return {
            "input_ids": torch.from_numpy(input_ids_BL),
            "position_ids": torch.from_numpy(position_ids_BL),
            "scored": torch.from_numpy(labelled_N - 1),
            "targets": torch.from_numpy(labels_BL.reshape(-1)[labelled_N]),
            "segments": torch.from_numpy(segments_BL.reshape(-1)[labelled_N]),
            "tokens": sum(row.length for row in rows),
        }
