"""A value head: one number from a hidden state, as reward models and critics have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NAME = "score"  # what transformers' sequence classifiers call it, so that they can load what is saved


def value_head(model: Any) -> nn.Linear:
    """A new head of one output without bias for a causal language model, fp32, drawn as transformers draws it."""
    config = model.config.get_text_config()
    # Its own order: OPT has another name for it, RecurrentGemma none.
    std = getattr(config, "initializer_range", None) or getattr(config, "init_std", None) or 0.02
    head = nn.Linear(config.hidden_size, 1, bias=False, dtype=torch.float32, device=model.device)
    nn.init.normal_(head.weight, std=std)
    return head


def attach_score(model: Any) -> None:
    """Make a reward model of a causal language model: give it a value head, where transformers looks for one."""
    setattr(model, NAME, value_head(model))
    model.config.num_labels = 1


def score_of(model: Any) -> Any:
    """The head, beneath whatever adapters wrap the model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, NAME)


def freeze_output_layer(model: Any) -> None:
    """A score is made of hidden states: the logits of a reward model are no part of its loss, and no gradient reaches
    the layer that gives them, which several processes would wait for. What it shares with the embeddings goes on."""
    shared = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    for parameter in model.get_output_embeddings().parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
