"""dpo and orpo: pairs of answers, chosen and rejected side by side in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ftlab.schema import DpoStage, OrpoStage
from ftlab.stages.losses import REFERENCE_FREE, Preference, dpo, orpo
from ftlab.stages.losses import lengths_of_segments as lengths
from ftlab.stages.losses import sums_by_segment as sums
from ftlab.stages.trainer.reference import ReferenceTrainer
from ftlab.stages.trainer.stage_trainer import StageTrainer


class PairTrainer(StageTrainer):
    """The samples of a batch alternate: chosen, rejected."""

    uses_dropout = False
    counts_pairs = True

    def measures(self, preference: Preference, sums_S: Tensor) -> dict[str, Tensor]:
        """What is logged of every pair, in TRL's names; ``preference_accuracy`` asks the policy alone."""
        chosen_P, rejected_P = sums_S.detach()[0::2], sums_S.detach()[1::2]
        return {
            "rewards/chosen": preference.chosen_rewards_P,
            "rewards/rejected": preference.rejected_rewards_P,
            "rewards/margins": preference.margins_P,
            "rewards/accuracies": preference.accuracies_P,
            "logps/chosen": chosen_P,
            "logps/rejected": rejected_P,
            "preference_accuracy": (chosen_P > rejected_P).float(),
        }


class DpoTrainer(ReferenceTrainer, PairTrainer):
    """Direct preference optimisation and its kin; those without a reference compute none."""

    @property
    def stage(self) -> DpoStage:
        assert isinstance(self.run.stage, DpoStage)
        return self.run.stage

    @property
    def needs_reference(self) -> bool:
        return self.stage.loss_type not in REFERENCE_FREE

    @property
    def reference_model(self) -> str | None:
        return self.stage.reference_model

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        stage, count = self.stage, int(batch["samples"])
        sums_S, lengths_S = sums(outputs, batch["segments"], count), lengths(batch["segments"], count)
        reference_S = batch["reference"] if self.needs_reference else torch.zeros_like(sums_S)
        found = dpo(
            sums_S[0::2],
            sums_S[1::2],
            reference_S[0::2],
            reference_S[1::2],
            beta=stage.beta,
            loss_type=stage.loss_type,
            label_smoothing=stage.label_smoothing,
            simpo_gamma=stage.simpo_gamma,
            chosen_lengths_P=lengths_S[0::2],
            rejected_lengths_P=lengths_S[1::2],
        )
        losses_P = found.losses_P
        if stage.sft_weight:
            losses_P = losses_P - stage.sft_weight * sums_S[0::2] / lengths_S[0::2].clamp(min=1)
        return losses_P, self.measures(found, sums_S)


class OrpoTrainer(PairTrainer):
    """Likelihood of the chosen answer, and the odds ratio of both; no reference."""

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(self.run.stage, OrpoStage)
        count = int(batch["samples"])
        sums_S, lengths_S = sums(outputs, batch["segments"], count), lengths(batch["segments"], count)
        means_S = sums_S / lengths_S.clamp(min=1)
        found = orpo(means_S[0::2], means_S[1::2], self.run.stage.beta)
        more = {"nll": found.nll_P, "log_odds": found.log_odds_P}
        return found.losses_P, {**self.measures(found, sums_S), **more}
