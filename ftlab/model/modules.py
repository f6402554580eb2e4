"""Modules of a model by the names that a user gives them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ftlab.model.module_names import last_names


def is_packed(module: nn.Module) -> bool:
    """Whether it is a linear layer of a GPTQ or AWQ checkpoint; their classes vary with the kernel."""
    return hasattr(module, "qweight")


def is_linear(module: nn.Module) -> bool:
    """Whether it multiplies by a matrix; GPT-2 has a class of its own for it."""
    return isinstance(module, nn.Linear) or is_packed(module) or type(module).__name__ == "Conv1D"


def linear_names(model: Any) -> list[str]:
    """Return the names of the model's linear layers in their parents."""
    return last_names(path for path, module in model.named_modules() if is_linear(module))


def bare_model(model: Any) -> Any:
    """The model within what trains it on several devices: DDP, FSDP and DeepSpeed's engine call it ``module``.

    accelerate's function of this kind looks through all modules and asks whether the model is an engine of DeepSpeed,
    which it imports for that wherever it is installed.
    """
    while not is_bare(model) and isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def is_bare(model: Any) -> bool:
    """Whether it is a model of transformers or PEFT itself, and not one in a wrapper."""
    from peft import PeftModel
    from transformers import PreTrainedModel

    return isinstance(model, (PreTrainedModel, PeftModel))


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that gives hidden states, with an adapter or without. transformers gives the
    whole model for families that it does not know better of (Llama 4's text model)."""
    decoder: Any = model.get_decoder()
    return decoder if decoder.get_output_embeddings() is None else decoder.model


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of the decoder's layers, whatever the family calls it (``layers``, ``h``, ``blocks``)."""
    depth = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next(module for module in lists if len(module) == depth)


def norms(model: Any) -> list[nn.Module]:
    """Every normalisation layer, those of queries and keys too; families have classes of their own for it."""
    return [module for module in model.modules() if "norm" in type(module).__name__.lower()]
