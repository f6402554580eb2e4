"""Sampled answers: drawn from the model's own distribution, and the same in whatever company."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ftlab.measure.sample import NoProbabilitiesError, answer_seeds, sample
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from tests.runs import make_run

TEXTS = ["Where does it live?", "Name it.", "What does the word that you see here at the end mean? " * 3, "Why?"]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, list[list[int]], dict[str, Any]]:
    """A model, prompts, and the options that never change."""
    run = make_run("model=tiny_instruct", "hardware.precision=fp32")
    tokens = load_tokens(run)
    template = tokens.template
    assert template is not None
    prompts = [template.prompt([{"role": "user", "content": text}], None) for text in TEXTS]
    ids = tokens.tokenizer(prompts, add_special_tokens=False)["input_ids"]
    return build_model(run, tokens)[0].eval(), ids, {"stop": tokens.stop, "pad": tokens.tokenizer.pad_token_id}


def test_an_answer_has_its_end_and_the_random_state_stays(loaded):
    model, prompts, options = loaded
    state = torch.get_rng_state()
    seeds = answer_seeds([7], len(prompts))
    long, short = (
        sample(model, prompts, seeds, temperature=1.0, batch_size=6, max_new_tokens=n, **options) for n in (24, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert any(len(answer) > 2 for answer in long), "or the rest shows nothing"
    assert all(answer[-1] in options["stop"] for answer in long if len(answer) < 24)
    assert not any(set(answer[:-1]) & {*options["stop"]} for answer in long)
    assert short == [answer[:2] for answer in long], "cut, and nothing put in its place"


def test_an_answer_is_the_same_in_any_batch(loaded):
    model, prompts, options = loaded
    seeds = answer_seeds([7], len(prompts))
    options = {**options, "temperature": 1.3, "max_new_tokens": 12}
    together = sample(model, prompts, seeds, batch_size=8, **options)
    for rows in ([0, 2], [1, 3], [3]):  # as ranks would have them
        part = sample(model, [prompts[i] for i in rows], seeds[rows], batch_size=1, **options)
        assert part == [together[i] for i in rows]
    assert sample(model, prompts, answer_seeds([8], len(prompts)), batch_size=8, **options) != together


def test_an_answer_that_was_put_aside_goes_on_with_its_own_random_numbers(loaded):
    model, prompts, options = loaded
    many = [prompts[i % len(prompts)] for i in range(32)]
    seeds = answer_seeds([11], len(many))
    options = {**options, "temperature": 1.0, "max_new_tokens": 48}
    calls = []
    hook = model.get_base_model().register_forward_pre_hook(lambda *call: calls.append(call), with_kwargs=True)
    together = sample(model, many, seeds, batch_size=8, **options)
    hook.remove()
    assert len(calls) < 4 * max(map(len, together)), "or none was put aside"
    assert together == sample(model, many, seeds, batch_size=1, **options)


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_first_tokens_have_the_models_probabilities(loaded, temperature):
    """Of 500 draws each token's share is within four deviations."""
    model, prompts, options = loaded
    count = 500
    answers = sample(
        model, [prompts[1]] * count, answer_seeds([3], count), temperature=temperature, batch_size=count,
        max_new_tokens=1, **options,
    )  # fmt: skip
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(prompts[1:2]), use_cache=False).logits[0, -1]
    expected = (logits.double() / temperature).softmax(-1)
    found = torch.tensor([answer[0] for answer in answers]).bincount(minlength=len(expected)) / count
    deviation = (expected * (1 - expected) / count).sqrt()
    likely = expected > 0.03
    assert likely.sum() > 3
    assert ((found - expected).abs() <= 4 * deviation)[likely].all()
    assert abs(found[~likely].sum() - expected[~likely].sum()) < 0.08


def test_logits_that_are_no_numbers(loaded):
    model, prompts, options = loaded
    head = model.get_output_embeddings().weight
    kept = head.data
    head.data = torch.full_like(kept, torch.nan)
    try:
        with pytest.raises(NoProbabilitiesError):
            sample(
                model, prompts, answer_seeds([7], len(prompts)), temperature=1.0, batch_size=8, max_new_tokens=2,
                **options,
            )  # fmt: skip
    finally:
        head.data = kept
