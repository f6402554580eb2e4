"""What a block of rows becomes is what its rows become alone, however many are rendered at a time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from ftlab.data.sources.blocks import Block
from ftlab.data.tokens.block_encoder import BlockEncoder, EncodedBlock, Recipe
from ftlab.data.tokens.shipped_templates import template_names
from ftlab.data.tokens.templates import Template

ARRAYS = ("kept", "label", "digest", "question", "literal", "left_out", "ids", "trained", "counts", "full", "learned")
TOOL = {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object"}}}
WORDS = ("one", "two\n", "é 日本", "<|im_end|>", '"x"', " ", "4", "</think>", "long " * 30, "\ufdd0")


def words(draw: random.Random) -> str:
    weights = [9] * (len(WORDS) - 1) + [0.2]
    return " ".join(draw.choices(WORDS, weights, k=draw.randint(1, 4))).strip() or "x"


def conversation(draw: random.Random) -> dict[str, Any]:
    """A row, now and then one that some template refuses, or all do."""
    messages = [{"role": "system", "content": words(draw)}] if draw.random() < 0.3 else []
    for _ in range(draw.randint(1, 3)):
        messages += [{"role": "user", "content": words(draw)}, {"role": "assistant", "content": words(draw)}]
        messages[-1] |= {"reasoning_content": words(draw)} if draw.random() < 0.2 else {}
    if draw.random() < 0.1:
        messages.pop()
    if draw.random() < 0.1:
        messages[-1] = {**messages[-1], "role": "tool"}
    return {"messages": messages, **({"tools": [TOOL]} if draw.random() < 0.15 else {})}


def pair(draw: random.Random) -> dict[str, Any]:
    prompt = conversation(draw)["messages"][:-1]
    return {"prompt": prompt, "chosen": words(draw), "rejected": words(draw)}


def prompt(draw: random.Random) -> dict[str, Any]:
    return {"prompt": conversation(draw)["messages"][:-1], "answer": words(draw)}


def encode(encode_block: BlockEncoder, rows: list[Any], first: int = 0) -> EncodedBlock:
    places = range(first, first + len(rows))
    return encode_block(Block("here", places, range(first + 1, first + len(rows) + 1), rows, "values"))


@pytest.mark.parametrize(
    ("format_", "row", "truncation", "names"),
    [
        ("messages", conversation, "left", template_names()),
        ("preference", pair, "right", ["qwen3", "gemma", "mistral"]),
        ("prompts", prompt, "turns", ["qwen3", "gemma"]),
    ],
)
def test_a_block_is_its_rows(format_, row, truncation, names, bench):
    kept = 0
    for name in names:
        template = Template.for_tokenizer(bench.tokenizer, name)
        recipe = Recipe(format_, {}, {}, template, "assistant", truncation, 160, bench.tokenizer.eos_token_id,
                        literals=("<|im_end|>", "<|im_start|>"))  # fmt: skip
        one = BlockEncoder(recipe, bench.encoder)
        draw = random.Random(name)
        rows = [row(draw) for _ in range(40)]
        whole = encode(one, rows)
        alone = [encode(one, [row], place) for place, row in enumerate(rows)]
        for array in ARRAYS:
            expected = np.concatenate([getattr(block, array) for block in alone])
            assert np.array_equal(getattr(whole, array), expected), (name, array)
        assert whole.problems == [problem for block in alone for problem in block.problems]
        assert 0 < len(whole.problems) < 40 or format_ != "messages", (name, len(whole.problems))
        kept += len(whole.kept)
    assert kept > 10 * len(names)
