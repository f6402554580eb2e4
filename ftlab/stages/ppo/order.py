"""Which prompts and answers each step of ppo takes: functions of the seed and the step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.schema import PpoStage


def steps_of_rollout(stage: PpoStage) -> int:
    return stage.ppo_epochs * (stage.rollout_batch_size // stage.mini_batch_size)


def prompts_of_ppo_step(step: int, stage: PpoStage, count: int, seed: int, devices: int) -> list[list[int]]:
    """The prompts of the mini-batch of an optimizer step, counted from 1: what each device learns from."""
    number, at = divmod(step - 1, steps_of_rollout(stage))
    asked = prompts_of_rollout(number, stage.rollout_batch_size, count, seed)
    members = [asked[row] for row in mini_batch(number, at, stage, seed).tolist()]
    return [members[device::devices] for device in range(devices)]


def prompts_of_rollout(number: int, size: int, count: int, seed: int) -> list[int]:
    """Which prompts a rollout has: a part of the endless row of all of them, shuffled anew each time around."""
    orders: dict[int, Any] = {}
    found = []
    for at in range(number * size, (number + 1) * size):
        around, index = divmod(at, count)
        if around not in orders:
            orders[around] = np.random.default_rng([seed, around]).permutation(count)
        found.append(int(orders[around][index]))
    return found


def mini_batch(number: int, step: int, stage: PpoStage, seed: int) -> NDArray[np.int64]:
    """Answers of a rollout that one of its steps takes: each pass over a rollout has an order of its own."""
    size = stage.mini_batch_size
    epoch, index = divmod(step, stage.rollout_batch_size // size)
    order = np.random.default_rng([seed, number, epoch]).permutation(stage.rollout_batch_size)
    return order[index * size : (index + 1) * size]
