"""An adapter that becomes part of the weights it was on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def merge_adapter(model: Any) -> Any:
    """The model with its adapter merged, as a model without adapters; it computes what it computed with the adapter.

    A head that shares its matrix with the embedding may have an adapter of its own, or the embedding one. Merged into
    the shared matrix that would change both, so it is copied first and the two are tied no more, which the model's
    config then says. So it is where one of the two was trained apart (``modules_to_save``).
    """
    base = model.get_base_model()
    if _is_adapted_apart(base):
        head = _layer(base.get_output_embeddings())
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        _untie(base)
    merged = model.merge_and_unload()
    ends = merged.get_input_embeddings(), merged.get_output_embeddings()
    if None not in ends and merged.config.get_text_config().tie_word_embeddings:
        if not torch.equal(ends[0].weight, ends[1].weight):
            _untie(merged)
        elif ends[0].weight is not ends[1].weight:
            ends[1].weight = ends[0].weight
    return merged


def unquantized(model: Any) -> Any:
    """The model with plain layers in the place of bitsandbytes', which have the very values that those compute with;
    any other model as it is."""
    return model.dequantize() if getattr(model, "is_quantized", False) else model


def _untie(model: Any) -> None:
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False


def _is_adapted_apart(base: Any) -> bool:
    """Whether embedding and head share a matrix, and LoRA is on one of them."""
    from peft.tuners.lora.layer import LoraLayer

    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if None in ends or _layer(ends[0]).weight is not _layer(ends[1]).weight:
        return False
    return any(isinstance(end, LoraLayer) for end in ends)


def _layer(module: Any) -> Any:
    """Beneath what PEFT wraps it in."""
    while hasattr(module, "base_layer") or hasattr(module, "original_module"):
        module = module.base_layer if hasattr(module, "base_layer") else module.original_module
    return module
