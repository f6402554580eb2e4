"""Which prompts each step of grpo takes: functions of the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftlab.stages.trainer.batching import shuffled


def prompts_of_grpo_step(
    step: int, count: int, prompts: int, repeats: int, accumulation: int, seed: int
) -> list[list[int]]:
    """The prompts of the generations that the micro-batches of an optimizer step, counted from 1, are taken from.

    :param prompts: of one generation. :param repeats: micro-batches that are taken from one.
    """
    steps, micros = steps_of_epoch(count, prompts, repeats, accumulation)
    epoch, at = divmod(step - 1, steps)
    order = fill_up(shuffled(count, seed + epoch), prompts)
    of_step = range(at * accumulation, min((at + 1) * accumulation, micros))
    return [order[m // repeats * prompts : (m // repeats + 1) * prompts] for m in of_step]


def fill_up(order: Sequence[int], size: int) -> list[int]:
    """Whole generations: where the last prompts are too few for one, the first come again."""
    return [*order, *order[: -len(order) % size]]


def steps_of_epoch(count: int, prompts: int, repeats: int, accumulation: int) -> tuple[int, int]:
    """Optimizer steps and micro-batches of an epoch."""
    micros = math.ceil(count / prompts) * repeats
    return math.ceil(micros / accumulation), micros
