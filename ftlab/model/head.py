"""From hidden states to logits, as each architecture's own forward does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Logits:
    """``hidden (N, D) -> logits (N, V)`` in fp32: the output layer, and the scaling or soft cap of those that have one
    (Gemma 2 and RecurrentGemma cap, Cohere and Falcon H1 multiply, Granite divides)."""

    head: Any
    scale: float
    cap: float | None

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        return self.of_outputs(self.head(hidden_ND))

    def of_outputs(self, outputs_NV: Tensor) -> Tensor:
        """What the output layer gives, scaled and capped."""
        logits_NV = outputs_NV.float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        return self.cap * torch.tanh(logits_NV / self.cap) if self.cap else logits_NV


def logits_function(model: Any) -> Logits:
    """Of a causal language model."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    return Logits(model.get_output_embeddings(), scale / (getattr(config, "logits_scaling", None) or 1.0), cap)
