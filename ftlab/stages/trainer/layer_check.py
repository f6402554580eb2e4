"""Whether layers that another package computes are the model's own: beside them, on rows of the run.

Shape suffixes: B rows, L tokens of the longest row, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftlab.data.packing.collate import Isolation
from ftlab.data.packing.store import PackedRow
from ftlab.model.modules import decoder_layers, norms
from ftlab.stages.trainer.isolation import batch_of, hidden_of, rounding_of


@dataclass(frozen=True)
class Computed:
    """:param outputs: of a model on a row, by name: its hidden states, and what its first layer gives for what went
    into it, with the gradients of that. :param rounding: by which they may differ, as a share of their size."""

    outputs: Mapping[str, Tensor]
    rounding: float

    def difference(self, other: Computed) -> str | None:
        """What of the other is not the same but for rounding, if anything."""
        for name, mine in self.outputs.items():
            theirs = other.outputs[name]
            share = ((mine - theirs).square().mean().sqrt() / mine.square().mean().sqrt()).item()
            if not share <= self.rounding:  # which is so of what is no number, too
                return f"{name} by {share:.2g} of their size"
        return None


class _Taken(Exception):
    """What goes into the first layer is known, and nothing else is asked for."""


def compute(
    model: Any, row: PackedRow, pad_id: int, isolation: Isolation, device: torch.device, is_whole: bool
) -> Computed:
    """The same numbers each time, in evaluation mode.

    :param isolation: as the run keeps samples apart. :param device: where the run will train. :param is_whole: whether
        the model has room there, and is there; else its first layer goes there alone, as a copy.
    """
    batch, layer = batch_of(model, [row], pad_id, isolation), decoder_layers(model)[0]
    was_training, outputs = model.training, {}
    model.eval()
    try:
        inputs = _inputs(model, layer, batch)
        if is_whole:
            outputs["hidden states"] = hidden_of(model, batch)
        outputs |= _of_layer(layer if is_whole else copy.deepcopy(layer).to(device), _moved(inputs, device))
    finally:
        model.train(was_training)
    return Computed(outputs, rounding_of(model))


def _inputs(model: Any, layer: Any, batch: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a layer's forward is called with."""
    taken: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def take(module: Any, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        taken.append((args, more))
        raise _Taken

    hook = layer.register_forward_pre_hook(take, with_kwargs=True)
    try:
        hidden_of(model, batch)
    except _Taken:
        pass
    finally:
        hook.remove()
    return taken[0]


def _of_layer(layer: Any, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> dict[str, Tensor]:
    (hidden_BLD, *others), more = inputs[0] or (inputs[1].pop("hidden_states"),), inputs[1]
    scales = {
        f"gradients of norm {number}": norm.weight
        for number, norm in enumerate(norms(layer), 1)
        if getattr(norm, "weight", None) is not None and norm.weight.requires_grad
    }
    given_BLD = hidden_BLD.detach().clone().requires_grad_()
    with torch.enable_grad():
        found = layer(given_BLD, *others, **more)
        found_BLD = found[0] if isinstance(found, tuple) else found
        weights_BLD = torch.randn(found_BLD.shape, generator=torch.Generator().manual_seed(0)).to(found_BLD)
        gradients = torch.autograd.grad(found_BLD, [given_BLD, *scales.values()], weights_BLD)
    names = ("gradients of the first layer's input", *scales)
    return {"the first layer's outputs": found_BLD.detach().float()} | {
        name: gradient.float() for name, gradient in zip(names, gradients)
    }


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(one, device) for name, one in value.items()}
    return tuple(_moved(one, device) for one in value) if isinstance(value, tuple | list) else value
