"""Supervised fine-tuning and pre-training: cross-entropy on the labels that the data set marks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ftlab.stages.common import StageTrainer
from ftlab.stages.losses import cross_entropy


class CausalTrainer(StageTrainer):
    """pt and sft differ in which tokens are labels, which the data decides, and in nothing here."""

    def loss(self, batch: dict[str, Any], logprobs_N: Tensor, items: int | Tensor) -> Tensor:
        return cross_entropy(logprobs_N, items)
