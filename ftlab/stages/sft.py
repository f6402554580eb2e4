"""Supervised fine-tuning and pre-training: cross-entropy on the labels that the data set marks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ftlab.measure.metrics import perplexity
from ftlab.stages.common import StageTrainer


class CausalTrainer(StageTrainer):
    """pt and sft differ in which tokens are labels, which the data decides, and in nothing here."""

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return -outputs, {}

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        return {"perplexity": perplexity(means["loss"])}
