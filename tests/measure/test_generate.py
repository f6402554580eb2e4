"""Greedy answers: the same however they are batched, and never more tokens at once than allowed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from ftlab.measure.generate import answer_batches, generate
from ftlab.measure.sample import answer_seeds, sample
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from tests.runs import make_run

PROMPTS = ["Where does it live?", "Name it.", "What does the word that you see here at the end mean? " * 3, "Why?"] * 3


@pytest.fixture(scope="module")
def loaded():
    run = make_run("model=tiny_instruct")
    tokens = load_tokens(run)
    return build_model(run, tokens)[0].eval(), tokens


def answers(loaded, batch_size: int, max_tokens: int) -> tuple[list[str], list[tuple[int, ...]]]:
    """And the shapes of the first forward of every batch."""
    model, tokens = loaded
    shapes: list[tuple[int, ...]] = []

    def look(module: object, args: object, given: dict) -> None:
        if given["input_ids"].shape[1] > 1:
            shapes.append(tuple(given["input_ids"].shape))

    hook = model.get_base_model().register_forward_pre_hook(look, with_kwargs=True)
    prompts = [tokens.template.prompt([{"role": "user", "content": text}], None) for text in PROMPTS]
    found = generate(
        model, tokens.tokenizer, prompts, max_new_tokens=6, batch_size=batch_size, max_tokens=max_tokens,
        stop=tokens.stop,
    )  # fmt: skip
    hook.remove()
    return found, shapes


def test_however_they_are_batched_each_prompt_has_its_answer(loaded):
    together, shapes = answers(loaded, 16, 10**6)
    assert [shape[0] for shape in shapes] == [12]
    alone, shapes = answers(loaded, 1, 10**6)
    assert [shape[0] for shape in shapes] == [1] * 12
    assert together == alone and len(set(together)) > 1 and together[:4] == together[4:8]


def test_answers_that_are_expected_to_be_long_are_written_together_and_are_the_same(loaded):
    model, tokens = loaded
    prompts = tokens.tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    expected = [1 if i % 3 else 6 for i in range(12)]

    def found(**more) -> tuple[list[list[int]], dict[int, list[int]]]:
        batches = list(answer_batches(model, prompts, stop=tokens.stop, pad=0, max_new_tokens=6, batch_size=4, **more))
        return [batch for batch, _ in batches], {i: ids for batch, of in batches for i, ids in zip(batch, of)}

    (_, plain), (batches, sorted_) = found(), found(expected=expected)
    assert plain == sorted_
    assert sorted(batches[-1]) == [0, 3, 6, 9] and all(expected[i] == 1 for batch in batches[:-1] for i in batch)


def test_an_answer_without_an_end_does_not_hold_up_its_batch(loaded):
    """Of eight answers two go on to the limit: they are put aside, and come to what they come to alone."""
    model, tokens = loaded
    prompts = tokens.tokenizer(PROMPTS[:8], add_special_tokens=False)["input_ids"]
    limit = 40
    forced = {3: limit, 5: limit}  # how many tokens an answer has at least; of the others, two

    def processors(batch: list[int], before: list[int]) -> LogitsProcessorList:
        def end_in_time(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            for row, (i, width) in enumerate(zip(batch, before)):
                is_due = input_ids.shape[1] - width + 1 >= forced.get(i, 2)
                scores[row, tokens.stop] = scores[row].max() + 1 if is_due else -torch.inf
            return scores

        return LogitsProcessorList([end_in_time])

    def run(size: int) -> tuple[dict[int, list[int]], list[int]]:
        rows: list[int] = []
        hook = model.get_base_model().register_forward_pre_hook(
            lambda module, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
        )
        batches = answer_batches(
            model, prompts, stop=tokens.stop, pad=0, max_new_tokens=limit, batch_size=size, processors=processors
        )
        found = {i: ids for batch, of in batches for i, ids in zip(batch, of)}
        hook.remove()
        return found, rows

    together, rows = run(8)
    assert together == run(1)[0]
    assert [len(together[i]) for i in range(8)] == [limit if i in forced else 2 for i in range(8)]
    assert rows == [8] * 4 + [2] * (limit - 4), "twice as many steps as the six took"


@pytest.mark.parametrize("max_tokens", [60, 120, 200])
def test_a_batch_has_no_more_tokens_than_allowed_unless_it_is_one_prompt(loaded, max_tokens):
    found, shapes = answers(loaded, 16, max_tokens)
    assert found == answers(loaded, 16, 10**6)[0]
    assert all(rows * (width + 6) <= max_tokens or rows == 1 for rows, width in shapes)
    assert sum(rows for rows, _ in shapes) == 12 and len(shapes) > 1
    # And no fewer: the next batch's first prompt would not have fitted.
    assert all((rows + 1) * (width + 6) > max_tokens for (rows, _), (_, width) in pairwise(shapes))


def test_the_training_mode_and_the_random_state_stay(loaded):
    model, _ = loaded
    model.train()
    before = torch.get_rng_state()
    answers(loaded, 4, 10**6)
    assert model.training and torch.equal(torch.get_rng_state(), before)
    model.eval()  # as it was: dropout would draw


OTHER_WAYS = {
    "beams": {"num_beams": 3, "length_penalty": 3.0},
    "repetition": {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "temperature": 3.0, "min_p": 0.5},
    "tokens": {"suppress_tokens": [*range(40, 2000)], "min_new_tokens": 6, "forced_eos_token_id": 9},
}


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_the_way_that_a_models_folder_would_generate_is_not_the_runs(loaded, name):
    """Of its generation_config.json: golden answers are greedy, and ppo's are drawn from the whole distribution."""
    model, tokens = loaded
    prompts = [tokens.tokenizer(text)["input_ids"] for text in PROMPTS[:4]]

    def found() -> tuple[list[str], list[list[int]]]:
        sampled = sample(
            model, prompts, answer_seeds([3], 4), stop=tokens.stop, pad=tokens.tokenizer.pad_token_id, temperature=1.0,
            max_new_tokens=6, batch_size=4,
        )  # fmt: skip
        return answers(loaded, 16, 10**6)[0], sampled

    base, before = model.get_base_model(), found()
    kept, base.generation_config = base.generation_config, GenerationConfig(**OTHER_WAYS[name])
    try:
        assert found() == before
        assert base.generation_config.to_dict() == GenerationConfig(**OTHER_WAYS[name]).to_dict(), (
            "it is saved as it was"
        )
    finally:
        base.generation_config = kept
