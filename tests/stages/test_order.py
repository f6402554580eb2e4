"""Which prompts a step of ppo and grpo takes: the same on however many devices, each on one of them."""

from __future__ import annotations

import pytest

from ftlab.stages.order import step_order
from tests.runs import make_run

PPO = ("stage=ppo", "stage.rollout_batch_size=9", "stage.mini_batch_size=3", "stage.ppo_epochs=2")
GRPO = (
    "stage=grpo", "stage.num_generations=4", "stage.steps_per_generation=4", "stage.num_iterations=2",
    "train.gradient_accumulation_steps=2",
)  # fmt: skip
CASES = {
    "ppo": (PPO, ()),
    # As many completions at once on all devices together.
    "grpo": ((*GRPO, "train.micro_batch_size=8"), (*GRPO, "train.micro_batch_size=4")),
    "grpo, a group over both": ((*GRPO, "train.micro_batch_size=4"), (*GRPO, "train.micro_batch_size=2")),
}


@pytest.mark.parametrize("case", CASES)
def test_two_devices_take_what_one_takes(case):
    one, two = CASES[case]
    orders = [
        step_order(make_run("hardware=cpu", "train.max_steps=20", *words, f"hardware.devices={devices}"), 21)
        for words, devices in ((one, 1), (two or one, 2))
    ]
    assert orders[0].steps_per_epoch == orders[1].steps_per_epoch > 1
    for step in range(1, 2 * orders[0].steps_per_epoch + 1):
        alone, shared = (order.rows(step) for order in orders)
        assert len(shared) == 2 * len(alone)
        for at, micro_batch in enumerate(alone):
            dealt = shared[2 * at : 2 * at + 2]
            assert {*micro_batch} == {*dealt[0], *dealt[1]}
            if case == "ppo":
                assert sorted(micro_batch) == sorted(dealt[0] + dealt[1])
