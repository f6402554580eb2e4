"""A value head: one number from a hidden state, as reward models and critics have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NAME = "score"  # what transformers' sequence classifiers call it, so that they can load what is saved


def attach_score(model: Any) -> None:
    """Give a causal language model a head of one output, fp32, drawn from the seed as transformers draws it."""
    config = model.config.get_text_config()
    head = nn.Linear(config.hidden_size, 1, bias=False, dtype=torch.float32, device=model.device)
    nn.init.normal_(head.weight, std=config.initializer_range)
    setattr(model, NAME, head)
    model.config.num_labels = 1


def score_of(model: Any) -> Any:
    """The head, beneath whatever adapters wrap the model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, NAME)
