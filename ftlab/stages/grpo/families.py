"""Families that TRL's GRPOTrainer cannot score, or not by itself."""

from __future__ import annotations

from typing import Any

from ftlab.errors import NotReadyError
from ftlab.model.modules import decoder_of
from ftlab.model.padding import reads_padding
from ftlab.schema import Architecture

_SCALED = ("ministral3",)  # attention is scaled by the position: llama_4_scaling_beta


def counts_padding(shape: Architecture) -> bool:
    """Whether the family has learned a vector for each position, or scales attention by it, and counts padding that an
    attention mask hides as long as it is not told positions. It would score other tokens than it sampled, since
    ``generate`` tells them."""
    return shape.position_embeddings > 0 or shape.family in _SCALED


def check_family(model: Any) -> None:
    """:raises NotReadyError: TRL 1.16 would end in the first step with an error about an attribute, or would score
    other tokens than it sampled."""
    config = model.config.get_text_config()
    coefficient: float | None = getattr(config, "router_aux_loss_coef", None)
    has_router_loss = bool(coefficient) and hasattr(config, "output_router_logits")
    if decoder_of(model) is not model.get_decoder():
        lacking = "TRL finds no decoder in it"
    elif has_router_loss and not hasattr(config, "num_experts"):
        lacking = "TRL finds no number of experts in its config, for the router's loss"
    elif reads_padding(model):
        lacking = "TRL asks prompts of several lengths together, and its convolutions read the padding before them"
    else:
        return
    raise NotReadyError(
        f"stage=grpo cannot train {config.model_type}: {lacking}. Use stage=ppo with the same rewards, or "
        "stage=dpo on pairs."
    )
