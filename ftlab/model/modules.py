"""Modules of a model by the names that a user gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ftlab.errors import Mistake, nearest


def matches_name(path: str, name: str) -> bool:
    """Whether ``name`` is the end of a module's path: ``q_proj`` and ``self_attn.q_proj``, but not ``proj``."""
    return path == name or path.endswith(f".{name}")


def last_names(paths: Iterable[str]) -> list[str]:
    """Return the names of modules in their parents, without the indices of lists."""
    return sorted({name for name in (path.rpartition(".")[2] for path in paths) if name and not name.isdigit()})


def is_packed(module: nn.Module) -> bool:
    """Whether it is a linear layer of a GPTQ or AWQ checkpoint; their classes vary with the kernel."""
    return hasattr(module, "qweight")


def is_linear(module: nn.Module) -> bool:
    """Whether it multiplies by a matrix; GPT-2 has a class of its own for it."""
    return isinstance(module, nn.Linear) or is_packed(module) or type(module).__name__ == "Conv1D"


def linear_names(model: Any) -> list[str]:
    """Return the names of the model's linear layers in their parents."""
    return last_names(path for path, module in model.named_modules() if is_linear(module))


def unknown_module_mistakes(
    key: str, names: Sequence[str], paths: Iterable[str], reason: str, listed: Sequence[str]
) -> list[Mistake]:
    """Return a mistake for each of the names that no path ends with.

    :param reason: what such a name is not. :param listed: what a user could have meant.
    """
    paths = list(paths)
    return [
        Mistake(key, f"{reason}: {', '.join(listed)}.", name, nearest(name, listed))
        for name in names
        if not any(matches_name(path, name) for path in paths)
    ]


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
