"""Prompts with what is known of their answers, as the reinforcement stages take them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.data.formats import Message, Prompt
from ftlab.data.packing.split_builder import Part
from ftlab.data.packing.store import PackedRows
from ftlab.data.prepare import examples


@dataclass(frozen=True, slots=True)
class PromptRow:
    """:param ids: the prompt's tokens, up to where the answer begins. :param columns: the row's other columns, which
    reward functions get by name. :param where: ``file:row``.
    """

    ids: list[int]
    messages: list[Message]
    answer: str | None
    columns: dict[str, Any]
    where: str


def fingerprint(prompts: Iterable[PromptRow]) -> str:
    """What differs where prompts, their order or their answers differ."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(json.dumps([prompt.ids, prompt.answer, prompt.where]).encode())
    return found.hexdigest()


def prompt_rows(parts: Sequence[Part], rows: PackedRows) -> list[PromptRow]:
    """Return every prompt of a split that was kept, in order. :param rows: the split as it was prepared."""
    units = {(part, ordinal): unit for unit, (part, ordinal, _) in enumerate(rows.kept.tolist())}
    found = []
    for example in examples(parts):
        unit = units.get((example.part, example.ordinal))
        if unit is not None:
            record = example.record
            assert isinstance(record, Prompt)
            (sample,) = rows.unit(unit)
            ids = sample.input_ids.tolist()
            found.append(PromptRow(ids, record.messages, record.answer, record.columns, example.where))
    return found
