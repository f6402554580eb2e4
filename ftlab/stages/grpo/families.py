"""Families that TRL's GRPOTrainer cannot score."""

from __future__ import annotations

from typing import Any

from ftlab.errors import NotReadyError
from ftlab.model.modules import decoder_of


def check_family(model: Any) -> None:
    """:raises NotReadyError: TRL 1.16 would end in the first step with an error about an attribute."""
    config = model.config.get_text_config()
    coefficient: float | None = getattr(config, "router_aux_loss_coef", None)
    has_router_loss = bool(coefficient) and hasattr(config, "output_router_logits")
    if decoder_of(model) is not model.get_decoder():
        lacking = "finds no decoder in it"
    elif has_router_loss and not hasattr(config, "num_experts"):
        lacking = "finds no number of experts in its config, for the router's loss"
    else:
        return
    raise NotReadyError(
        f"stage=grpo cannot train {config.model_type}: TRL {lacking}. Use stage=ppo with the same rewards, or "
        "stage=dpo on pairs."
    )
