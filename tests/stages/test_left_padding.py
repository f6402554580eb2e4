"""Prompts that are asked together are padded on the left: no family may count the padding."""

from __future__ import annotations

import torch
from transformers import AutoTokenizer

from ftlab.measure.generate import generate
from ftlab.measure.sample import answer_seeds, sample
from tests.compatibility import GENERATING, row_of
from tests.conftest import ROOT
from tests.families import family_model


def test_a_family_with_learned_positions_scores_what_it_sampled():
    """Under grpo it had counted the padding: log-probabilities of answers were off by 0.1."""
    assert row_of("gpt2", GENERATING) == ["", "yes", "yes"]


def test_a_family_whose_convolutions_read_padding_is_refused():
    assert row_of("recurrent_gemma", ("grpo",)) == ["", "refused"]


def test_answers_of_a_family_that_reads_padding_are_those_of_each_prompt_alone():
    """Golden answers and rollouts of ppo. New weights hide it: their padding is embedded as zeros, without biases."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny")
    model = family_model("recurrent_gemma", len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    prompts = ["a b", "b c d e", "f g h", "one two three four five six", "i j k l"]
    limits = {"max_new_tokens": 6, "batch_size": 8, "stop": [0]}

    def answers(some: list[str]) -> list[str]:
        return generate(model, tokenizer, some, max_tokens=10_000, **limits)

    assert answers(prompts) == [answers([prompt])[0] for prompt in prompts]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]

    seeds = answer_seeds([0], len(ids))

    def rollout(rows: list[int]) -> list[list[int]]:
        some = [ids[row] for row in rows]
        return sample(model, some, seeds[rows], pad=tokenizer.pad_token_id, temperature=1.0, **limits)

    assert rollout([*range(len(ids))]) == [rollout([row])[0] for row in range(len(ids))]
