"""Two answers beside one prompt: losses and gradients are those of each answer after a prompt of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ftlab.data.packing.collate import PackedCollator
from ftlab.data.packing.store import SHARED, PackedRow, Sample
from ftlab.stages.losses import bradley_terry, dpo, orpo, sums_by_segment
from ftlab.stages.trainer.forward import packed_hidden, packed_logprobs
from ftlab.stages.trainer.isolation import probe_sharing
from tests.stages.test_packed_forward import SMALL


def pair(prompt: int, chosen: int, rejected: int, late: int = 0) -> tuple[Sample, Sample, int]:
    """:param prompt, chosen, rejected: their tokens. :param late: those of the rejected answer that are not learned."""
    draw = np.random.default_rng((prompt, chosen, rejected))
    asked = draw.integers(10, 97, prompt)

    def answer(length: int, late: int = 0) -> Sample:
        ids = np.concatenate([asked, draw.integers(10, 97, length)]).astype(np.int32)
        learned = np.arange(len(ids)) >= max(prompt + late, 1)
        return Sample(ids, learned)

    return answer(chosen), answer(rejected, late), prompt


PAIRS = [pair(30, 9, 12), pair(5, 20, 3), pair(1, 7, 8), pair(0, 6, 9), pair(40, 25, 30, 4)]
ALONE = [[one] for one in PAIRS]
PACKED = [PAIRS[:2], PAIRS[2:]]


def batch_of(rows: list[list[tuple[Sample, Sample, int]]], shares: bool) -> dict[str, Any]:
    return PackedCollator(0, isolation="segments")([
        PackedRow(
            tuple(answer for one in pairs for answer in one[:2]),
            {SHARED: np.array([count for one in pairs for count in (0, one[2])])} if shares else {},
        )
        for pairs in rows
    ])  # fmt: skip


def losses_of(model: Any, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    sums = sums_by_segment(packed_logprobs(model, model, batch), batch["segments"], batch["samples"])
    chosen, rejected = sums[0::2], sums[1::2]
    hidden = packed_hidden(model, batch)[0]
    scores = hidden[batch["ends"]] @ torch.linspace(-1, 1, hidden.shape[-1])
    return {
        "dpo": dpo(
            chosen, rejected, chosen.detach() + 1, rejected.detach() - 1, beta=0.1, loss_type="sigmoid"
        ).losses_P,
        "orpo": orpo(chosen / 30, rejected / 30, 0.1).losses_P,
        "rm": bradley_terry(scores[0::2], scores[1::2], 0.0).losses_P,
    }


@pytest.fixture(scope="module", params=["every token", "a window of 16"])
def model(request) -> Any:
    torch.manual_seed(0)
    if request.param == "every token":
        return LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation="segments")).eval()
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    shape = {name: value for name, value in SMALL.items() if name != "head_dim"}
    return Qwen2ForCausalLM(Qwen2Config(**shape, **window, attn_implementation="segments")).eval()


@pytest.mark.parametrize("rows", [ALONE, PACKED], ids=["a pair to a row", "packed"])
def test_losses_and_gradients_are_those_of_answers_with_a_prompt_each(model, rows):
    once, twice = batch_of(rows, shares=True), batch_of(rows, shares=False)
    assert once["tokens"] == twice["tokens"] - sum(shared for *_, shared in PAIRS)
    for stage in ("dpo", "orpo", "rm"):
        found = []
        for batch in (once, twice):
            model.zero_grad()
            losses = losses_of(model, batch)[stage]
            losses.mean().backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            found.append((losses.detach(), gradient))
        (loss, gradient), (expected, wanted) = found
        assert len(loss) == len(PAIRS) and (loss - expected).abs().max().item() < 1e-5
        assert wanted.norm().item() > 1e-3
        assert (gradient - wanted).norm().item() < 1e-5 * wanted.norm().item()


def test_the_probe_finds_a_rejected_answer_that_does_not_see_the_prompt(model):
    chosen, rejected, shared = PAIRS[0]
    row = PackedRow((chosen, rejected), {SHARED: np.array([0, shared])})
    assert probe_sharing(model, row, 0) is None
    other = Sample(np.concatenate([chosen.input_ids[:1] % 80 + 11, rejected.input_ids[1:]]), rejected.learned)
    reason = probe_sharing(model, PackedRow((chosen, other), row.columns), 0)
    assert reason is not None and "hidden states differ" in reason
