"""Stage-specific trainers. A stage module holds only what differs between stages."""

from __future__ import annotations

import importlib
from typing import Any

from ftlab.schema import Run

# stage -> the trainer that this build has for it, imported when it is chosen
TRAINERS = {
    "pt": "ftlab.stages.sft:CausalTrainer",
    "sft": "ftlab.stages.sft:CausalTrainer",
    "rm": "ftlab.stages.rm:RewardTrainer",
    "dpo": "ftlab.stages.preference:DpoTrainer",
    "orpo": "ftlab.stages.preference:OrpoTrainer",
    "kto": "ftlab.stages.kto:KtoTrainer",
    "ppo": "ftlab.stages.ppo.trainer:PpoTrainer",
    "grpo": "ftlab.stages.grpo.trainer:GrpoTrainer",
}

# the same with train.engine=trl: TRL's own trainers, for the stages that it has one for
TRL_TRAINERS = {
    "sft": "ftlab.stages.trl:TrlSftTrainer",
    "rm": "ftlab.stages.trl:TrlRewardTrainer",
    "dpo": "ftlab.stages.trl:TrlDpoTrainer",
    "kto": "ftlab.stages.trl:TrlKtoTrainer",
}


def trainer_class(run: Run) -> Any:
    """Return the trainer class of the run's stage and engine."""
    module, name = (TRL_TRAINERS if run.train.engine == "trl" else TRAINERS)[run.stage.name].split(":")
    return getattr(importlib.import_module(module), name)
