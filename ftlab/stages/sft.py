"""Supervised fine-tuning and pre-training: cross-entropy on the labels that the data set marks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor

from ftlab.measure.metrics import perplexity
from ftlab.schema import SftStage
from ftlab.stages.trainer.forward import packed_logprobs
from ftlab.stages.trainer.neftune import noisy_embeddings
from ftlab.stages.trainer.stage_trainer import StageTrainer


class CausalTrainer(StageTrainer):
    """pt and sft differ in which tokens are labels, which the data decides. What only training has, noise on the
    embeddings and smoothed labels, is in no evaluation: losses and perplexities stay those of the model itself."""

    def outputs(self, model: Any, batch: dict[str, Any]) -> Tensor:
        if not model.training:
            return super().outputs(model, batch)
        unwrapped = self.accelerator.unwrap_model(model)
        alpha = self.run.stage.neftune_alpha if isinstance(self.run.stage, SftStage) else None
        embeddings = unwrapped.get_input_embeddings()
        with noisy_embeddings(embeddings, batch, alpha) if alpha else nullcontext():
            return packed_logprobs(model, unwrapped, batch, self.run.train.label_smoothing, equal_weights=True)

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return -outputs, {}

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        return {"perplexity": perplexity(means["loss"])}
