"""The rows of an evaluation: which they are, what is asked of each, and what the model has to say of them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.data.formats import Labelled, Message, Pair, Prompt, Record, RowError, Text
from ftlab.data.packing.split_builder import Part
from ftlab.data.packing.store import PackedRows, Sample
from ftlab.data.prepare import examples, prepare_split, split_parts
from ftlab.data.sources.resolve import STAGE_FORMATS, Source, resolve
from ftlab.data.tokens.encoder import FastPathMismatch
from ftlab.data.tokens.templates import prompt_and_answer
from ftlab.errors import ConfigError, DataError, Mistake
from ftlab.policy.prompts import PromptWriter
from ftlab.policy.tokens import Tokens
from ftlab.schema import Data, Run

_AUTO = ("test", "validation", "golden", "train")  # the first that there is


@dataclass(frozen=True)
class Row:
    """A good row. :param place: part and ordinal, as the store names it. :param columns: as the file has them."""

    number: int
    where: str
    place: tuple[int, int]
    record: Record
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked of a row. :param ids: of the prompt, up to where the answer begins. :param reference: the wanted
    answer, None where the row has none."""

    row: Row
    ids: list[int]
    messages: list[Message]
    reference: str | None


@dataclass(frozen=True)
class Split:
    """Rows that are evaluated. :param reason: why it is this split, where nobody said which."""

    name: str
    sources: str
    parts: list[Part]
    rows: list[Row]
    reason: str | None

    def fingerprint(self) -> str:
        """What differs where a row differs."""
        found = hashlib.sha256()
        for row in self.rows:
            found.update(repr(row.record).encode("utf-8", "surrogatepass"))
        return found.hexdigest()


def read_split(config: Run, wanted: str, limit: int | None, is_other: bool, progress: Any) -> Split:
    """The rows of a split, in order.

    :param wanted: the split, or ``auto``. :param limit: rows at most. :param is_other: whether the data is another than
        the run was trained on, so that all of it may be asked.
    :raises ConfigError: there is no such split, or no such data. :raises DataError: a file is missing, or no
        row is good.
    """
    parts = split_parts(find_sources(config.data, config.stage.name), config.data, config.seed, progress)
    known = [name for name in _AUTO if any(part.rows for part in parts.get(name, []))]
    usable = known if is_other else [name for name in known if name != "train"]
    name = wanted if wanted != "auto" else next(iter(usable), None)
    if name is None:
        reason = "the run has no rows that it was not trained on. Give a file, data.split.test=FILE, other data, "
        raise ConfigError([Mistake("task.split", f"{reason}data=NAME, or ask the trained rows: split=train", wanted)])
    if name not in known:
        raise ConfigError([Mistake("task.split", f"this data has no such rows. It has: {', '.join(known)}.", wanted)])
    chosen = [part for part in parts[name] if part.rows]
    if limit is not None:
        chosen = list(_first(chosen, limit))
    rows = [
        Row(number, example.where, (example.part, example.ordinal), example.record, _columns(example.row))
        for number, example in enumerate(examples(chosen))
    ]
    if not rows:
        raise DataError(f"{', '.join(str(part.location) for part in chosen)}: no row of {name} can be read.")
    names = " + ".join(dict.fromkeys(part.source.name for part in chosen))
    others = [other for other in known if other != name]
    more = f"; split={' or '.join(others)} is there too" if others else ""
    return Split(name, names, chosen, rows, f"its {name} rows{more}" if wanted == "auto" else None)


def find_sources(data: Data, stage: str) -> list[Source]:
    """The data, of whatever format: a run may be asked rows of another kind than it was trained on.

    :raises ConfigError, DataError: as :func:`ftlab.data.sources.resolve.resolve` does for the run's own stage.
    """
    try:
        return resolve(data, stage)
    except ConfigError as error:
        for other in dict.fromkeys(STAGE_FORMATS):
            try:
                return resolve(data, other)
            except ConfigError:
                continue
        raise error


def _first(parts: Sequence[Part], limit: int) -> Iterator[Part]:
    for part in parts:
        taken = part.beginning(limit)
        if taken.rows:
            yield taken
        limit -= taken.rows


def _columns(row: Any) -> dict[str, Any]:
    return dict(row) if isinstance(row, Mapping) else {}


# --- what is asked ---------------------------------------------------------------------------------------------------


def questions(rows: Sequence[Row], tokens: Tokens, data: Data) -> list[Question]:
    """What is asked of every row that has a prompt, as the run's template writes it; nothing of plain text, of answers
    that are bad ones, or after ``stage=pt``, which has no template.

    :raises DataError: the template refuses a row.
    """
    if tokens.template is None:
        return []
    writer = PromptWriter(tokens, data)
    asked, texts = [], []
    for row in rows:
        record = row.record
        if isinstance(record, Text) or (isinstance(record, Labelled) and not record.label):
            continue
        messages, answer = prompt_and_answer(record)
        try:
            texts.append(writer.text(record))
        except RowError as error:
            raise DataError(f"{row.where}: {error}.") from None
        asked.append(Question(row, [], messages, answer if answer and answer.strip() else None))
    return [replace(question, ids=ids) for question, ids in zip(asked, writer.ids(texts), strict=True)]


def that_fit(asked: list[Question], config: Run, too_long: str) -> tuple[list[Question], list[Question]]:
    """The questions that the model's context has room for with an answer, and those that it has not.

    :raises DataError: there are such, and ``too_long`` is not ``skip``.
    """
    room = config.model.architecture.max_positions - config.eval.max_new_tokens
    fitting = [question for question in asked if len(question.ids) <= room]
    longer = [question for question in asked if len(question.ids) > room]
    if longer and too_long != "skip":
        first = longer[0]
        more = f" (and {len(longer) - 1} more like it)" if len(longer) > 1 else ""
        raise DataError(
            f"{first.row.where}: this prompt has {len(first.ids):,} tokens, and with eval.max_new_tokens="
            f"{config.eval.max_new_tokens} that is more than the {config.model.architecture.max_positions:,} of the "
            f"model's context{more}. Take fewer new tokens, or leave such rows out, which is counted: too_long=skip."
        )
    return fitting, longer


def questions_fingerprint(asked: Sequence[Question]) -> str:
    """What differs where a prompt, its tokens or its reference differs."""
    found = hashlib.sha256()
    for question in asked:
        found.update(json.dumps([question.row.number, question.ids, question.reference]).encode())
    return found.hexdigest()


# --- what the model has to say of the rows as they are ---------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """A row's samples, encoded as in training: one, the chunks of a text, or chosen and rejected."""

    row: Row
    samples: list[Sample]

    @property
    def has_loss(self) -> bool:
        record = self.row.record
        return not isinstance(record, Prompt) and (not isinstance(record, Labelled) or record.label)

    @property
    def is_pair(self) -> bool:
        return isinstance(self.row.record, Pair)


def scored_rows(split: Split, tokens: Tokens, config: Run) -> tuple[list[Scored], dict[str, int]]:
    """The rows that have something to learn from, and of how many others there is none, by reason.

    :raises DataError: a malformed row under ``data.on_invalid=error``; nothing that the template can write.
    """
    is_whole = len(split.rows) == sum(part.rows for part in split.parts)
    if is_whole and all(isinstance(row.record, Prompt) for row in split.rows):
        return [], {}
    if tokens.template is None and not all(isinstance(row.record, Text) for row in split.rows):
        raise DataError(
            f"{split.rows[0].where}: the run has no chat template (stage=pt), and this is no plain text. Give texts: "
            "data.format=text."
        )
    with tempfile.TemporaryDirectory(prefix="ftlab-evaluate-") as folder:
        packed, left_out = _encoded(split, tokens, config, Path(folder))
        by_place = {row.place: row for row in split.rows}
        views: dict[int, list[int]] = {}
        for view, unit in enumerate(packed.units_of(np.arange(packed.views)).tolist()):
            views.setdefault(unit, []).append(view)
        found = [
            Scored(by_place[int(part), int(ordinal)], [_copy(packed.view(view)) for view in views[unit]])
            for unit, (part, ordinal, _) in enumerate(packed.kept.tolist())
            if unit in views and not isinstance(by_place[int(part), int(ordinal)].record, Prompt)
        ]
    return sorted(found, key=lambda one: one.row.number), left_out


def _encoded(split: Split, tokens: Tokens, config: Run, folder: Path) -> tuple[PackedRows, dict[str, int]]:
    alone = {"packing": False, "mix": "concat", "probabilities": None}
    given = (config.data.model_copy(update=alone), config.seed, tokens.template, tokens.tokenizer)
    try:
        packed, ledger = prepare_split("evaluation", split.parts, folder / "fast", *given)
    except FastPathMismatch:
        packed, ledger = prepare_split("evaluation", split.parts, folder / "slow", *given, fast=False)
    cut = {"cut at data.max_length": ledger.rows_truncated} if ledger.rows_truncated else {}
    return packed, {**ledger.dropped, **cut}


def _copy(sample: Sample) -> Sample:
    """Its tokens in memory: the folder that they are in is gone soon."""
    return Sample(np.array(sample.input_ids), np.array(sample.learned))
