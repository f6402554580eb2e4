"""Liger's norms, rotations and gated feed-forward layers. The modules stay, with their weights, adapters and hooks;
what they compute with becomes Liger's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from ftlab.errors import NotReadyError
from ftlab.model.guests import has_adapter
from ftlab.schema import Run

_BOUND = ("forward", "extra_repr", "_get_name")  # what stands in a module's own dictionary where Liger computes it
_OF_LIGER = "liger_kernel."


@dataclass(frozen=True)
class LigerLayers:
    """:param names: of what Liger computes, for a reader. :param modules: those that do so."""

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]

    def remove(self) -> None:
        """Have the modules compute as before."""
        for module in self.modules:
            for name in _BOUND:
                vars(module).pop(name, None)


def put_liger_layers(model: Any, run: Run) -> LigerLayers:
    """Have Liger compute what it can of one model, with an adapter or without.

    Rotations stay the model's own under ``train.gradient_checkpointing=selective``: Liger rotates queries and keys in
    the memory of the products that they are, which are kept there, and would be rotated again in the second forward.

    :raises NotReadyError: the model's code is not that of transformers, or Liger has nothing for it.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    without = {"rope": False} if run.train.gradient_checkpointing == "selective" else {}
    base = model.get_base_model() if has_adapter(model) else model
    source = type(base).__module__
    if not source.startswith("transformers.models."):
        raise NotReadyError(f"the code of {type(base).__name__} is the model's own, and Liger replaces transformers'")
    before = {module for module in base.modules() if "forward" in vars(module)}
    with _unchanged(vars(sys.modules[source])) as changed:
        _apply_liger_kernel_to_instance(base, cross_entropy=False, fused_linear_cross_entropy=False, **without)
    _rebind(base, {name: value for name, value in changed.items() if isinstance(value, FunctionType)})
    modules = tuple(module for module in base.modules() if "forward" in vars(module) and module not in before)
    if not modules:
        raise NotReadyError(f"Liger has no layers for {base.config.model_type}")
    return LigerLayers(_names(modules), modules)


def has_liger_layers(model: Any) -> bool:
    """Whether Liger computes layers of the model."""
    own = (vars(module).get("forward") for module in model.modules())
    return any(getattr(forward, "__module__", "").startswith(_OF_LIGER) for forward in own)


@contextmanager
def _unchanged(names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A file of transformers whose names Liger replaces, also where it is given a single model: they are put back, for
    all other models of the process. Yields what the replacements were."""
    before, changed = dict(names), dict[str, Any]()
    try:
        yield changed
    finally:
        changed |= {name: value for name, value in names.items() if before.get(name) is not value}
        names.update({name: before[name] for name in changed})


def _rebind(base: nn.Module, functions: Mapping[str, FunctionType]) -> None:
    """Give modules whose forward calls one of the functions by its name the same forward, which calls Liger's."""
    forwards: dict[type, FunctionType | None] = {}
    for module in base.modules():
        kind = type(module)
        if kind not in forwards:
            forwards[kind] = _with_functions(kind.forward, functions)
        if (forward := forwards[kind]) is not None:
            module.forward = MethodType(forward, module)


def _with_functions(forward: Any, functions: Mapping[str, FunctionType]) -> FunctionType | None:
    """A function that calls others in place of those of its file; None where it calls none of them."""
    if not inspect.isfunction(forward) or hasattr(forward, "__wrapped__"):
        return None
    if not functions.keys() & set(forward.__code__.co_names):
        return None
    names = {**forward.__globals__, **functions}
    made = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    made.__kwdefaults__ = forward.__kwdefaults__
    return made


def _names(modules: tuple[nn.Module, ...]) -> tuple[str, ...]:
    kinds = {module._get_name() for module in modules}
    found = {
        "RMSNorm": any("RMSNorm" in kind for kind in kinds),
        "RoPE": any("Attention" in kind for kind in kinds),
        "SwiGLU": any("SwiGLU" in kind for kind in kinds),
        "GeGLU": any("GEGLU" in kind for kind in kinds),
    }
    return tuple(name for name, is_there in found.items() if is_there)
