"""rm: a reward model, one score for each answer, by Bradley-Terry on pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ftlab.model.score import score_of
from ftlab.schema import RmStage
from ftlab.stages.losses import bradley_terry
from ftlab.stages.trainer.forward import packed_hidden
from ftlab.stages.trainer.stage_trainer import StageTrainer


class RewardTrainer(StageTrainer):
    """The samples of a batch alternate: chosen, rejected; each is scored at its last token."""

    uses_dropout = False
    counts_pairs = True

    def outputs(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """Scores of the batch's samples, shape (S,), fp32."""
        hidden_BLD = packed_hidden(model, batch)
        hidden_SD = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[batch["ends"]]
        head = score_of(self.accelerator.unwrap_model(model))
        # fp32, but for DeepSpeed, which in 16 bits has all in them.
        precision = next(p.dtype for p in head.parameters() if p.requires_grad)
        with torch.autocast(hidden_SD.device.type, enabled=False):
            return head(hidden_SD.to(precision)).float()[:, 0]

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(self.run.stage, RmStage)
        found = bradley_terry(outputs[0::2], outputs[1::2], self.run.stage.margin)
        return found.losses_P, {
            "score/chosen": found.chosen_rewards_P,
            "score/rejected": found.rejected_rewards_P,
            "score/margin": found.margins_P,
            "accuracy": found.accuracies_P,
        }
