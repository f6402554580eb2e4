"""The prompts that a phase's model is asked while it trains, and whether the model has room for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from typing import Any

from ftlab.data.formats import Labelled, Message, Text
from ftlab.data.prepare import Example, Parts, examples
from ftlab.data.tokens.templates import prompt_and_answer
from ftlab.errors import DataError
from ftlab.policy.tokens import Tokens
from ftlab.pretrained.architecture import is_bounded
from ftlab.schema import Run


def asked_split(parts: Parts) -> str:
    """The golden split, or, without any rows in it, the validation split."""
    return "golden" if parts.get("golden") else "validation"


def asked_examples(run: Run, parts: Parts, tokens: Tokens) -> list[Example]:
    """The examples whose answers are wanted: golden ones, or, without any, a few of the validation split."""
    if tokens.template is None or run.stage.name == "rm":
        return []
    split = asked_split(parts)
    limit = run.eval.golden_rows if split == "golden" else run.eval.samples
    wanted = (
        one
        for one in examples(parts.get(split, []))
        if not isinstance(one.record, Text) and (not isinstance(one.record, Labelled) or one.record.label)
    )
    return list(islice(wanted, limit))


def has_golden_answers(run: Run, parts: Parts, tokens: Tokens) -> bool:
    """Whether a golden prompt that is asked has an answer to compare with."""
    if asked_split(parts) != "golden":
        return False
    return any(prompt_and_answer(one.record)[1] for one in asked_examples(run, parts, tokens))  # type: ignore[arg-type]


def prompt_text(messages: Sequence[Message]) -> str:
    """A prompt for people to read: the question, or, where more than one turn was said, each turn after its role."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n".join(f"{message['role']}: {_said(message)}" for message in messages)


def _said(message: Message) -> str:
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join([*([message["content"]] if message.get("content") else []), *calls])


def check_room(run: Run, parts: Parts, tokens: Tokens) -> None:
    """Check that a model whose positions end can read every prompt and write its answer, before any data is prepared.

    :raises DataError: one cannot, with its file and row.
    """
    shape, template = run.model.architecture, tokens.template
    if template is None or not is_bounded(shape.family, shape.position_embeddings):
        return
    for example in asked_examples(run, parts, tokens):
        record: Any = example.record
        text = template.prompt(prompt_and_answer(record)[0], record.tools)
        length = len(tokens.tokenizer(text, add_special_tokens=False)["input_ids"])
        if length + run.eval.max_new_tokens > shape.max_positions:
            split = asked_split(parts)
            leave = "eval.golden_rows=0" if split == "golden" else "eval.samples=0"
            raise DataError(
                f"{example.where}: this {split} prompt has {length:,} tokens, and with "
                f"eval.max_new_tokens={run.eval.max_new_tokens} that is more than the {shape.max_positions:,} "
                f"positions of {run.model.name}. Shorten it, take fewer new tokens, or ask nothing: {leave}."
            )
