"""From hidden states to logits, as each architecture's own forward does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def logits_function(model: Any) -> Callable[[Tensor], Tensor]:
    """``hidden (N, D) -> logits (N, V)`` in fp32: the output layer, and the scaling or soft cap of those that have one
    (Gemma 2 and RecurrentGemma cap, Cohere and Falcon H1 multiply, Granite divides)."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0

    def logits(hidden_ND: Tensor) -> Tensor:
        logits_NV = head(hidden_ND).float()
        if scale != 1.0:
            logits_NV = logits_NV * scale
        return cap * torch.tanh(logits_NV / cap) if cap else logits_NV

    return logits
