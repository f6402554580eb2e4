"""Packed rows as TRL's trainers take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ftlab.data.packing.store import PackedRows, Sample


def packed_dataset(rows: PackedRows) -> Dataset:
    packed = [rows[i] for i in range(len(rows))]
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in packed],
            "labels": [np.concatenate([s.labels for s in row.samples]) for row in packed],
            "seq_lengths": [row.lengths.tolist() for row in packed],
        }
    )


def pad_samples(samples: Sequence[Sample], pad_id: int) -> dict[str, Tensor]:
    """Samples below each other, padded on the right, each shape (S, L); ``completion_mask``: what is learned."""
    shape = len(samples), max(len(sample.input_ids) for sample in samples)
    ids_SL, attended_SL, learned_SL = np.full(shape, pad_id), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for s, sample in enumerate(samples):
        length = len(sample.input_ids)
        ids_SL[s, :length], attended_SL[s, :length], learned_SL[s, :length] = sample.input_ids, 1, sample.learned
    names = ("input_ids", "attention_mask", "completion_mask")
    return dict(zip(names, map(torch.from_numpy, (ids_SL, attended_SL, learned_SL))))


def cut_after_answer(sample: Sample) -> Sample:
    """Up to the last token that is learned, where an answer is judged."""
    length = len(sample.learned) - int(sample.learned[::-1].argmax())
    return Sample(sample.input_ids[:length], sample.learned[:length])
