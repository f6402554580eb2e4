"""The kept rows of a split, each with what the store holds of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.data.formats import Pair, Record, Text
from ftlab.data.packing.split_builder import Part
from ftlab.data.packing.store import PackedRows, Sample
from ftlab.data.prepare import examples, prepare_split
from ftlab.data.sources.blocks import BLOCK_ROWS
from ftlab.data.tokens.encoder import FastPathMismatch
from ftlab.errors import DataError
from ftlab.policy.tokens import Tokens
from ftlab.schema import Data


@dataclass(frozen=True, slots=True)
class Row:
    """:param where: ``file:row``. :param samples: one, the chunks of a text, or chosen and rejected, as stored."""

    where: str
    record: Record
    samples: list[Sample]


def first_rows(rows: PackedRows, parts: Sequence[Part], count: int, data: Data, tokenizer: Any) -> Iterator[Row]:
    """The first ``count`` kept rows of each data set, in order. Rows that the mix leaves out are passed over."""
    kept = np.asarray(rows.kept)
    for index, part in enumerate(parts):
        units = np.flatnonzero(kept[:, 0] == index)[:count].tolist()
        wanted = {int(kept[unit, 1]): unit for unit in units}
        if not wanted:
            continue
        for example in examples([part]):
            unit = wanted.pop(example.ordinal, None)
            if unit is not None and (samples := rows.unit(unit)):
                yield Row(example.where, example.record, _first_use(samples, example.record, data, tokenizer))
            if not wanted:
                break


def rows_beforehand(
    split: str, parts: Sequence[Part], count: int, data: Data, seed: int, tokens: Tokens
) -> list[Row] | None:
    """What :func:`first_rows` will give, from the beginning of a split alone; None where rows further on have a say."""
    draws = data.num_samples is not None or any(part.source.num_samples is not None for part in parts)
    mixes = len(parts) > 1 and data.mix != "concat"
    if data.packing == "wrapped" or (split == "train" and (draws or mixes)):
        return None
    begins = [part.beginning(BLOCK_ROWS) for part in parts]
    with tempfile.TemporaryDirectory(prefix="ftlab-data-") as folder:
        try:
            rows, _ = prepare_split(split, begins, Path(folder) / "rows", data, seed, tokens.template, tokens.tokenizer)
        except (DataError, FastPathMismatch):
            return None  # to prepare all of it says so, or goes another way
        kept = np.bincount(rows.kept[:, 0], minlength=len(parts))
        if any(found < count and begin.rows < part.rows for found, begin, part in zip(kept, begins, parts)):
            return None
        return list(first_rows(rows, begins, count, data, tokens.tokenizer))


def _first_use(samples: list[Sample], record: Record, data: Data, tokenizer: Any) -> list[Sample]:
    """Of a row that is used again, the samples of its first use."""
    if isinstance(record, Text):
        total = len(tokenizer(record.text, add_special_tokens=False, verbose=False)["input_ids"]) + 1
        # The last token is in no chunk where it would be one of its own, with nothing to learn.
        needed = [start == 0 or start + data.overlap < total - 1 for start in chunk_starts(samples, data)]
        return samples[: needed.index(False)] if False in needed else samples
    return samples[: 2 if isinstance(record, Pair) else 1]


def chunk_starts(samples: Sequence[Sample], data: Data) -> list[int]:
    """Where in its text each chunk begins, in tokens: the next one shares ``data.overlap`` with the last."""
    starts = [0]
    for sample in samples[:-1]:
        starts.append(starts[-1] + len(sample.input_ids) - data.overlap)
    return starts
