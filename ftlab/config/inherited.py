"""What a phase takes from the policy that it goes on from, where neither it nor the command line says otherwise.

A policy is of one model. Its config is the next phase's too, so that ``run.yaml`` says what really runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ftlab.config.keys import flatten, is_open
from ftlab.errors import RunDirError


@dataclass(frozen=True)
class GivenKeys:
    """Groups and dotted keys that are said. :param own: by the phase. :param shared: by the command line."""

    phase: Collection[str]
    command_line: Collection[str]


@dataclass(frozen=True)
class Policy:
    """:param choice: of the model group. :param model: that group's values.
    :param lora: of another run's adapter, its shape. Of a phase's of this run the plan asks that it be given again.
    """

    choice: str
    model: Mapping[str, Any]
    lora: Mapping[str, Any]
    is_of_another_run: bool = False

    def supplies(self, group: str, given: GivenKeys) -> bool:
        """Whether the choice of a group is left to it. An earlier phase has had the command line's already."""
        return group not in given.phase and not (self.is_of_another_run and group in given.command_line)


def read_policy(source: str | None) -> Policy | None:
    """Return the policy that the run directory ``source`` ended with, or None where there is none."""
    if source is None or not Path(source).is_dir():
        return None
    from ftlab.rundir.sources import policy_of_run  # which most runs have no need of

    try:
        phase = policy_of_run(Path(source))
    except RunDirError:
        return None
    lora = phase.config.lora.model_dump(mode="json", exclude={"dropout"}) if phase.config.method.name == "lora" else {}
    model = phase.config.model
    return Policy(model.recipe or model.name, model.model_dump(mode="json"), lora, is_of_another_run=True)


def apply(cfg: DictConfig, policy: Policy | None, given: GivenKeys) -> dict[str, Any]:
    """Give ``cfg`` what ``policy`` has of which nothing is said; what that changed."""
    changed: dict[str, Any] = {}
    if policy is None:
        return changed
    for group, values in (("model", policy.model), ("lora", policy.lora)):
        if not policy.supplies(group, given):
            continue
        for key, value in flatten(values, f"{group}."):
            if key in given.phase or key in given.command_line or OmegaConf.select(cfg, key) == value:
                continue
            OmegaConf.update(cfg, key, value, merge=False, force_add=is_open(key))
            changed[key] = value
    return changed
