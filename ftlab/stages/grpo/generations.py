"""How grpo divides completions into generations and optimizer steps. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from ftlab.errors import ConfigError, Mistake
from ftlab.schema import GrpoStage, Run
from ftlab.stages.rewards import resolve


@dataclass(frozen=True, slots=True)
class Generations:
    """:param steps: micro-batches of a generation on each device. :param prompts: that it answers, on all of them."""

    steps: int
    prompts: int


def check(run: Run, devices: int = 1) -> None:
    """Check, before anything is loaded, that groups of completions fit the batches.

    :raises ConfigError: all that is wrong with the rewards and the numbers of ``stage=grpo``.
    """
    assert isinstance(run.stage, GrpoStage)
    mistakes = resolve.check_stage(run.stage)
    try:
        plan_generations(run, devices)
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)


def plan_generations(run: Run, devices: int = 1) -> Generations:
    """Return the size of one generation: whole groups of ``num_generations`` completions, cut into micro-batches.

    Without ``stage.steps_per_generation`` it is what one optimizer step takes, or as few of them as make whole groups.

    :raises ConfigError: ``stage.steps_per_generation`` does not make whole groups; it names numbers that do.
    """
    stage, train = run.stage, run.train
    assert isinstance(stage, GrpoStage)
    completions = train.micro_batch_size * devices
    lacking = stage.num_generations // math.gcd(completions, stage.num_generations)  # micro-batches to a whole group
    if stage.steps_per_generation is None:
        steps = math.lcm(train.gradient_accumulation_steps, lacking)
    elif stage.steps_per_generation % lacking == 0:
        steps = stage.steps_per_generation
    else:
        steps = stage.steps_per_generation
        total = completions * steps
        groups = [str(n) for n in range(2, total + 1) if total % n == 0]
        near = sorted({max(steps // lacking, 1) * lacking, (steps // lacking + 1) * lacking})
        on = f" on each of {devices} devices" if devices > 1 else ""
        raise ConfigError(
            [
                Mistake(
                    "stage.steps_per_generation",
                    f"{steps} micro-batches of train.micro_batch_size={train.micro_batch_size}{on} are {total} "
                    f"completions, which are no whole groups of stage.num_generations={stage.num_generations}. Use "
                    f"stage.steps_per_generation={' or '.join(map(str, near))}, or null, or stage.num_generations="
                    f"{' or '.join(groups[-3:])}.",
                    stage.steps_per_generation,
                )
            ]
        )
    return Generations(steps, completions * steps // stage.num_generations)


def missing_vllm(run: Run) -> str | None:
    """Return the message for a run with ``stage.vllm`` where the package is not installed; None otherwise."""
    if not getattr(run.stage, "vllm", False) or importlib.util.find_spec("vllm") is not None:
        return None
    return (
        "stage.vllm=true needs the package vllm, which is not installed. Install it on a machine with a GPU "
        "(pip install vllm), or generate without it: stage.vllm=false"
    )
