"""Decoder layers compiled by torch, in place: names of weights, hooks, adapters and what is saved stay as they are."""

from __future__ import annotations

import os
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from ftlab.errors import NotReadyError
from ftlab.model.modules import bare_model, decoder_layers

# Programs of one size, at most: layers below and above the first that trains, and of other kinds.
_PROGRAMS = 8

_compiled: WeakSet[Any] = WeakSet()


def compile_layers(model: Any, sizes: int) -> None:
    """Have the layers compiled when they are first called in training, anew for each number of places and for no other
    reason: a program made for any number would depend on the numbers that were met before it, and a run that goes on
    has met others. What earlier runs of the process have compiled is let go.

    Elsewhere (generation, evaluation) layers run as they are written.

    :param sizes: how many numbers of places there are at most. The programs are as many times :data:`_PROGRAMS` at
        most; what asks for more fails.
    :raises NotReadyError: the environment has torch compile nothing, which it would do without a word.
    """
    if torch._dynamo.config.disable or os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        raise NotReadyError(
            "train.compile=layers: TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE in the environment has torch compile "
            "nothing. Take it away, or use train.compile=none."
        )
    torch._dynamo.reset()
    how: dict[str, Any] = {
        "fullgraph": True,
        "dynamic": False,
        "recompile_limit": _PROGRAMS * sizes,
        "isolate_recompiles": True,
        "options": {
            "fallback_random": True,  # dropout draws what it draws in a layer that is not compiled
            "deterministic": True,  # no kernel is chosen by how fast it was just now
        },
    }
    run = torch.compile(_call, **how)
    for layer in decoder_layers(model):
        # As nn.Module.compile does, which would have each layer's function by itself, and have it called always.
        layer._compiled_call_impl = partial(_dispatch, layer, run)
    _compiled.add(bare_model(model))


def runs_compiled(model: Any) -> bool:
    """Whether its layers do in the forward that comes: in training alone."""
    bare = bare_model(model)
    return bare in _compiled and bare.training and torch.is_grad_enabled()


def _dispatch(layer: Any, run: Any, *args: Any, **how: Any) -> Any:
    is_by_number = isinstance(how.get("segment_layout"), Tensor)
    return run(layer, *args, **how) if is_by_number else layer._call_impl(*args, **how)


def _call(layer: Any, *args: Any, **how: Any) -> Any:
    return layer._call_impl(*args, **how)
