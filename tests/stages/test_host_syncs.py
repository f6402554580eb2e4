"""Between two logged steps nothing waits for the device."""

from __future__ import annotations

import pytest
import torch

from tests.stages.trainers import a_trainer, begin
from tests.stages.waits import Between, Sizes, Waits

SHORT = (
    "model=tiny", "train.max_steps=5", "train.logging_steps=10", "train.micro_batch_size=2", "data.max_length=64",
    "train.gradient_accumulation_steps=2", "data.max_samples=40", "hardware.precision=fp32", "data.cache=null",
    "data.split.validation=none",
)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("stage=sft", "data.packing=true"),
        ("stage=kto", "data.packing=false"),
        *(pytest.param((f"stage={stage}",), marks=pytest.mark.matrix) for stage in ("pt", "rm", "dpo", "orpo")),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_nothing_waits_between_logged_steps(words, tmp_path):
    trainer, _ = a_trainer(tmp_path, *SHORT, *words)
    between = Between()
    trainer.add_callback(between)
    begin(trainer)
    trainer.train()
    assert trainer.state.global_step == 5
    assert between.waits.found == {}


def test_what_is_counted():
    waits = Waits()
    values = torch.tensor([1.0, 0.0])
    with waits, Sizes(waits):
        values.tolist(), values[0].item(), bool(values[0]), values[values > 0], values.nonzero(), values.cpu()
        values[values > 0] = 2.0
    assert sum(waits.found.values()) == 7
