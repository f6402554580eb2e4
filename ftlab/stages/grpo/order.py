"""Which prompts each step of grpo takes: functions of the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ftlab.schema import GrpoStage
from ftlab.stages.grpo.generations import Generations
from ftlab.stages.trainer.batching import shuffled


def prompts_of_grpo_step(
    step: int, count: int, generations: Generations, stage: GrpoStage, accumulation: int, devices: int, seed: int
) -> list[list[int]]:
    """The prompts that the micro-batches of an optimizer step, counted from 1, have completions of.

    :param count: prompts of an epoch. :param devices: which take turns at the micro-batches.
    """
    prompts, repeats = generations.prompts, generations.steps * stage.num_iterations
    steps, micros = steps_of_epoch(count, prompts, repeats, accumulation)
    epoch, at = divmod(step - 1, steps)
    order = fill_up(shuffled(count, seed + epoch), prompts)
    found = []
    for micro in range(at * accumulation, min((at + 1) * accumulation, micros)):
        of_epoch, turn = divmod(micro, repeats)
        number = epoch * (micros // repeats) + of_epoch
        dealt = deal(seed, number, prompts * stage.num_generations, generations.steps * devices)
        asked = order[of_epoch * prompts :][:prompts]
        for members in dealt[turn % generations.steps * devices :][:devices]:
            found.append(list(dict.fromkeys(asked[member // stage.num_generations] for member in members)))
    return found


def deal(seed: int, number: int, completions: int, micro_batches: int) -> list[list[int]]:
    """Which completions of a generation each of its micro-batches takes. :param number: of the generation, from 0."""
    drawn = np.random.default_rng([seed, number, 1]).permutation(completions)
    return [part.tolist() for part in np.split(drawn, micro_batches)]


def fill_up(order: Sequence[int], size: int) -> list[int]:
    """Whole generations: where the last prompts are too few for one, the first come again."""
    return [*order, *order[: -len(order) % size]]


def steps_of_epoch(count: int, prompts: int, repeats: int, accumulation: int) -> tuple[int, int]:
    """Optimizer steps and micro-batches of an epoch."""
    micros = math.ceil(count / prompts) * repeats
    return math.ceil(micros / accumulation), micros
