"""Which rows an optimizer step takes: functions of the seed and the step alone, so that a run that was stopped and
resumed took the same. Torch is imported where its random numbers are drawn, and not before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.schema import GrpoStage, PpoStage, Run
from ftlab.stages.generations import generations


@dataclass(frozen=True)
class Order:
    """:param steps: optimizer steps of the whole training. :param of_epoch: those of one epoch.
    :param rows: a step, counted from 1 -> indices of train rows (prompts of ppo and grpo), micro-batch by micro-batch.
    """

    steps: int
    of_epoch: int
    rows: Callable[[int], list[list[int]]]


def order_of(run: Run, count: int) -> Order:
    """The order of a run. :param count: packed rows that train, or prompts."""
    stage, train = run.stage, run.train
    devices = (1 if run.hardware.devices == "auto" else run.hardware.devices) * run.hardware.nodes
    batch, accumulation = train.micro_batch_size, train.gradient_accumulation_steps
    rows: Callable[[int], list[list[int]]]
    if isinstance(stage, PpoStage):
        of_epoch = math.ceil(count / stage.rollout_batch_size) * steps_of_rollout(stage)
        rows = partial(prompts_of_ppo_step, stage=stage, count=count, seed=run.seed)
    elif isinstance(stage, GrpoStage):
        planned = generations(run, devices)
        repeats = stage.num_iterations * planned.steps
        of_epoch = _grpo_steps(count, planned.prompts, repeats, accumulation)[0]
        rows = partial(
            prompts_of_grpo_step, count=count, prompts=planned.prompts, repeats=repeats, accumulation=accumulation,
            seed=run.seed,
        )  # fmt: skip
    else:
        of_epoch = math.ceil(math.ceil(math.ceil(count / batch) / devices) / accumulation)
        rows = partial(rows_of_step, rows=count, batch=batch, accumulation=accumulation, devices=devices, seed=run.seed)
    return Order(train.max_steps or math.ceil(train.epochs * of_epoch), of_epoch, rows)


def rows_of_step(step: int, rows: int, batch: int, accumulation: int, devices: int, seed: int) -> list[list[int]]:
    """Indices of the rows of an optimizer step, counted from 1, one list for each micro-batch of each device: the order
    of accelerate's seedable sampler, drawn anew each epoch, dealt out batch by batch.
    """
    batches = math.ceil(math.ceil(rows / batch) / devices)  # of each device, in an epoch
    steps = math.ceil(batches / accumulation)
    epoch, at = divmod(step - 1, steps)
    order = shuffled(rows, seed + epoch)
    first, end = at * accumulation * devices, min((at + 1) * accumulation, batches) * devices
    return [order[i * batch : (i + 1) * batch] for i in range(first, end) if i * batch < rows]


def shuffled(count: int, seed: int) -> list[int]:
    import torch

    found: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return found


# --- ppo -------------------------------------------------------------------------------------------------------------


def steps_of_rollout(stage: PpoStage) -> int:
    return stage.ppo_epochs * (stage.rollout_batch_size // stage.mini_batch_size)


def prompts_of_ppo_step(step: int, stage: PpoStage, count: int, seed: int) -> list[list[int]]:
    """The prompts of the mini-batch of an optimizer step, counted from 1."""
    number, at = divmod(step - 1, steps_of_rollout(stage))
    asked = prompts_of_rollout(number, stage.rollout_batch_size, count, seed)
    return [[asked[row] for row in mini_batch(number, at, stage, seed).tolist()]]


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


# --- grpo ------------------------------------------------------------------------------------------------------------


def prompts_of_grpo_step(
    step: int, count: int, prompts: int, repeats: int, accumulation: int, seed: int
) -> list[list[int]]:
    """The prompts of the generations that the micro-batches of an optimizer step, counted from 1, are taken from.

    :param prompts: of one generation. :param repeats: micro-batches that are taken from one.
    """
    steps, micros = _grpo_steps(count, prompts, repeats, accumulation)
    epoch, at = divmod(step - 1, steps)
    order = filled_up(shuffled(count, seed + epoch), prompts)
    of_step = range(at * accumulation, min((at + 1) * accumulation, micros))
    return [order[m // repeats * prompts : (m // repeats + 1) * prompts] for m in of_step]


def filled_up(order: Sequence[int], size: int) -> list[int]:
    """Whole generations: where the last prompts are too few for one, the first come again."""
    return [*order, *order[: -len(order) % size]]


def _grpo_steps(count: int, prompts: int, repeats: int, accumulation: int) -> tuple[int, int]:
    """Optimizer steps and micro-batches of an epoch."""
    micros = math.ceil(count / prompts) * repeats
    return math.ceil(micros / accumulation), micros
