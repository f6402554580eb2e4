"""The whole path from a source to packed rows, with its ledger."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.data import encode
from ftlab.data.encode import Sample
from ftlab.data.formats import CONVERTERS, Columns, Conversation, Record, RowError, Text
from ftlab.data.ledger import Ledger, SplitLedger
from ftlab.data.pack import best_fit_decreasing
from ftlab.data.read import read_rows
from ftlab.data.registry import Source
from ftlab.data.templates import Rendered, Template
from ftlab.errors import DataError
from ftlab.schema import Data

if TYPE_CHECKING:
    from ftlab.data.collate import PackedRows


@dataclass
class Records:
    """Canonical records of each split, each with ``file:row``, and the ledger begun. Needs no tokenizer."""

    splits: dict[str, list[tuple[str, Record]]]
    ledger: Ledger


@dataclass
class Prepared:
    """What a trainer takes."""

    train: PackedRows
    validation: PackedRows | None
    ledger: Ledger


def read_records(source: Source, data: Data, seed: int) -> Records:
    """Read and convert every row of every split; without a validation file, part of train becomes one.

    :raises DataError: a malformed row under ``data.on_invalid=error``; no row left to train on.
    """
    splits, ledgers = {}, {}
    for split, file in source.files.items():
        ledgers[split] = SplitLedger()
        splits[split] = _read_split(file, source, data.on_invalid == "drop", ledgers[split])
    if data.max_samples is not None and data.max_samples < len(splits["train"]):
        chosen = sorted(random.Random(f"{seed}/max_samples").sample(range(len(splits["train"])), data.max_samples))
        for _ in range(len(splits["train"]) - data.max_samples):
            ledgers["train"].dropped["left out by data.max_samples"] += 1
        splits["train"] = [splits["train"][i] for i in chosen]
    if "validation" not in splits and data.split.validation == "auto":
        splits["validation"], ledgers["validation"] = _held_out(splits["train"], ledgers["train"], data, seed)
    if not splits["train"]:
        raise DataError(f"{source.files['train']}: no row is left to train on.")
    return Records(splits, Ledger(source.name, {name: str(file) for name, file in source.files.items()}, ledgers))


def prepare(records: Records, data: Data, template: Template | None, tokenizer: Any) -> Prepared:
    """Encode, cut or chunk, and pack train and validation.

    :param template: for conversations; None for plain text.
    """
    from ftlab.data.collate import PackedRows

    packed: dict[str, PackedRows] = {}
    for split, ledger in records.ledger.splits.items():
        if not records.splits[split]:
            continue
        rendered = None if template is None else _rendered(records, split, template, data)
        if split not in ("train", "validation"):  # read to be answered, not to be learned
            ledger.rows_kept = len(records.splits[split])
            continue
        if rendered is None:
            samples = _encode_texts(records.splits[split], data, tokenizer, ledger)
        else:
            samples = _encode_rendered(rendered, data, tokenizer, ledger)
        if not samples:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in ledger.dropped.items())
            raise DataError(f"{records.ledger.source}, {split}: no row has anything to learn from ({reasons}).")
        lengths = [len(sample.input_ids) for sample in samples]
        bins = best_fit_decreasing(lengths, data.max_length) if data.packing else [[i] for i in range(len(samples))]
        ledger.packed_rows, ledger.packed_capacity = len(bins), len(bins) * data.max_length
        packed[split] = PackedRows(samples, bins)
    return Prepared(packed["train"], packed.get("validation"), records.ledger)


def _read_split(file: Path, source: Source, drop_invalid: bool, ledger: SplitLedger) -> list[tuple[str, Record]]:
    convert = CONVERTERS[source.format]
    records = []
    for row in read_rows(file):
        ledger.rows_in += 1
        where = f"{file}:{row.number}"
        try:
            if row.problem is not None:
                raise RowError(row.problem)
            records.append((where, convert(Columns(row.value, source.columns))))
        except RowError as error:
            _refuse(where, str(error), drop_invalid, ledger)
    return records


def _refuse(where: str, reason: str, drop_invalid: bool, ledger: SplitLedger) -> None:
    if not drop_invalid:
        file, _, number = where.rpartition(":")
        raise DataError(
            f"{file}, row {number}: {reason}.\n"
            "Mend the row, name your columns with data.columns, or leave such rows out with data.on_invalid=drop."
        )
    ledger.drop(reason, where)


def _held_out(
    train: list[tuple[str, Record]], ledger: SplitLedger, data: Data, seed: int
) -> tuple[list[tuple[str, Record]], SplitLedger]:
    """Move a fraction of ``train``, drawn by seed, into a validation split."""
    count = max(int(len(train) * data.split.fraction), 1) if data.split.fraction and len(train) > 1 else 0
    drawn = set(random.Random(f"{seed}/validation").sample(range(len(train)), count))
    held = [record for i, record in enumerate(train) if i in drawn]
    train[:] = [record for i, record in enumerate(train) if i not in drawn]
    ledger.rows_in -= count
    return held, SplitLedger(rows_in=count)


def _rendered(records: Records, split: str, template: Template, data: Data) -> list[tuple[str, Rendered]]:
    """The text of every conversation; those that the template refuses leave the split, or stop the run."""
    kept, rendered = [], []
    for where, record in records.splits[split]:
        assert isinstance(record, Conversation)
        try:
            rendered.append((where, template.render(record)))
            kept.append((where, record))
        except RowError as error:
            _refuse(where, str(error), data.on_invalid == "drop", records.ledger.splits[split])
    records.splits[split][:] = kept
    return rendered


def _encode_texts(
    records: Sequence[tuple[str, Record]], data: Data, tokenizer: Any, ledger: SplitLedger
) -> list[Sample]:
    texts = [record.text for _, record in records if isinstance(record, Text)]
    found = encode.encode_texts(tokenizer, texts, tokenizer.eos_token_id)
    return [part for sample in found for part in _chunked(sample, data, ledger)]


def _encode_rendered(
    rendered: Sequence[tuple[str, Rendered]], data: Data, tokenizer: Any, ledger: SplitLedger
) -> list[Sample]:
    samples = encode.encode_rendered(tokenizer, [item for _, item in rendered], data.train_on)
    fitted = [_fitted(sample, where, data, ledger) for (where, _), sample in zip(rendered, samples)]
    return [sample for sample in fitted if sample is not None]


def _chunked(sample: Sample, data: Data, ledger: SplitLedger) -> list[Sample]:
    # A chunk of one token, at the end of a text cut without overlap, has nothing to learn: it is counted as cut.
    chunks = [part for part in encode.chunk(sample, data.max_length, data.overlap) if part.trained]
    repeated = data.overlap * (len(chunks) - 1)
    _count(chunks, len(sample.input_ids), ledger, repeated)
    return chunks


def _fitted(sample: Sample, where: str, data: Data, ledger: SplitLedger) -> Sample | None:
    length = len(sample.input_ids)
    if length > data.max_length:
        if data.truncation == "error":
            raise DataError(f"{where}: {length} tokens, more than data.max_length={data.max_length}.")
        if data.truncation == "drop":
            ledger.drop(f"longer than data.max_length={data.max_length}", where, length)
            return None
        sample = encode.cut(sample, data.max_length)
        if not sample.trained:
            ledger.drop(f"nothing to learn within data.max_length={data.max_length}", where, length)
            return None
        ledger.rows_truncated += 1
    elif not sample.trained:
        ledger.drop("nothing to learn from", where, length)
        return None
    _count([sample], length, ledger)
    return sample


def _count(parts: Sequence[Sample], length: int, ledger: SplitLedger, repeated: int = 0) -> None:
    held, trained = sum(len(part.input_ids) for part in parts), sum(part.trained for part in parts)
    ledger.rows_kept += 1
    ledger.lengths.append(length)
    ledger.tokens_in += length
    ledger.tokens_cut += length - (held - repeated)
    ledger.tokens_trained += trained
    ledger.tokens_masked += held - trained - repeated
    ledger.tokens_repeated += repeated
