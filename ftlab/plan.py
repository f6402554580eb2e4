"""From one run config to the list of phases that will be executed. Pure: touches no file."""

from __future__ import annotations

from collections.abc import Sequence

from ftlab.errors import ConfigError, Mistake
from ftlab.schema import Group, Run


class Phase(Group):
    """One process's worth of work.

    :param folder: below ``phases/`` in the run directory.
    :param config: a full run config of its own; nothing is looked up elsewhere.
    """

    name: str
    folder: str
    config: Run


class Plan(Group):
    """What ``run.yaml`` holds."""

    title: str
    overrides: tuple[str, ...]
    phases: tuple[Phase, ...]


def make_plan(run: Run, overrides: Sequence[str]) -> Plan:
    """The plan of a run without a curriculum: one phase, named after its stage.

    :param overrides: the command line as it was typed, for the rerun command.
    """
    stage = run.stage.name
    config = _with_batch(run)
    return Plan(
        title=run.run.name or f"{run.model.name}-{stage}-{run.method.name}",
        overrides=tuple(overrides),
        phases=(Phase(name=stage, folder=f"01-{stage}", config=config),),
    )


def _with_batch(run: Run) -> Run:
    """``train.global_batch_size`` turned into the accumulation that it means on these devices."""
    total = run.train.global_batch_size
    if total is None:
        return run
    devices = (1 if run.hardware.devices == "auto" else run.hardware.devices) * run.hardware.nodes
    step = run.train.micro_batch_size * devices
    if total % step:
        raise ConfigError(
            [
                Mistake(
                    "train.global_batch_size",
                    f"must be a multiple of train.micro_batch_size x devices = {step}",
                    total,
                )
            ]
        )
    train = run.train.model_copy(update={"gradient_accumulation_steps": total // step})
    return run.model_copy(update={"train": train})
