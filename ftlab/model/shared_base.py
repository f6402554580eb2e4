"""One base model in memory for the runs of a process that train adapters on it."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import torch

from ftlab.model.base_key import base_key
from ftlab.model.load import load_model, uses_cpu
from ftlab.schema import Run


class SharedBases:
    """Gives each run modules of its own over the same frozen tensors.

    :ivar shared: the keys of bases that several runs of the process have, now or later; any other is one run's alone.
        It may change. A base that is in it no more is let go when the next is loaded.
    """

    def __init__(self) -> None:
        self.shared: frozenset[Hashable] = frozenset()
        self._bases: dict[Hashable, Any] = {}

    def load(self, run: Run) -> Any:
        """As :func:`ftlab.model.load.load_model`."""
        key = base_key(run)
        if key not in self.shared:
            return load_model(run)
        if key not in self._bases:
            self._bases = {other: base for other, base in self._bases.items() if other in self.shared}
            base = load_model(run)
            if not uses_cpu(run):
                base.to(torch.accelerator.current_accelerator())  # moved later, each run's would be other tensors
            self._bases[key] = base
        return _with_own_modules(self._bases[key])


def _with_own_modules(base: Any) -> Any:
    """A copy of a model with the same parameters, and the same constants of their quantization."""
    kept: dict[int, Any] = {}
    for module in base.modules():
        for parameter in module.parameters(recurse=False):
            kept[id(parameter)] = parameter
            for owner in (module, parameter):
                if (state := getattr(owner, "quant_state", None)) is not None:  # of bitsandbytes' 4-bit layers
                    kept[id(state)] = state
    return copy.deepcopy(base, kept)
