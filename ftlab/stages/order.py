"""Which rows an optimizer step takes, for every stage: functions of the seed and the step alone. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ftlab.distributed.world import planned_devices
from ftlab.schema import GrpoStage, PpoStage, Run
from ftlab.stages.grpo.generations import plan_generations
from ftlab.stages.grpo.order import prompts_of_grpo_step, steps_of_epoch
from ftlab.stages.ppo.order import prompts_of_ppo_step, steps_of_rollout
from ftlab.stages.trainer.batching import rows_of_step


@dataclass(frozen=True)
class Order:
    """:param steps: optimizer steps of the whole training. :param of_epoch: those of one epoch.
    :param rows: a step, counted from 1 -> indices of train rows (prompts of ppo and grpo), micro-batch by micro-batch.
    """

    steps: int
    steps_per_epoch: int
    rows: Callable[[int], list[list[int]]]


def step_order(run: Run, count: int) -> Order:
    """The order of a run. :param count: packed rows that train, or prompts."""
    stage, train = run.stage, run.train
    devices = planned_devices(run.hardware)
    batch, accumulation = train.micro_batch_size, train.gradient_accumulation_steps
    rows: Callable[[int], list[list[int]]]
    if isinstance(stage, PpoStage):
        of_epoch = math.ceil(count / stage.rollout_batch_size) * steps_of_rollout(stage)
        rows = partial(prompts_of_ppo_step, stage=stage, count=count, seed=run.seed, devices=devices)
    elif isinstance(stage, GrpoStage):
        planned = plan_generations(run, devices)
        repeats = stage.num_iterations * planned.steps
        of_epoch = steps_of_epoch(count, planned.prompts, repeats, accumulation)[0]
        rows = partial(
            prompts_of_grpo_step, count=count, generations=planned, stage=stage, accumulation=accumulation,
            devices=devices, seed=run.seed,
        )  # fmt: skip
    else:
        of_epoch = math.ceil(math.ceil(math.ceil(count / batch) / devices) / accumulation)
        rows = partial(rows_of_step, rows=count, batch=batch, accumulation=accumulation, devices=devices, seed=run.seed)
    return Order(train.max_steps or math.ceil(train.epochs * of_epoch), of_epoch, rows)
