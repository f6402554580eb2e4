"""One base model in memory for the runs of a process that train adapters on it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

import torch

from ftlab.model.base_key import base_key
from ftlab.model.load import load_model, uses_cpu
from ftlab.schema import Run


class SharedBases:
    """Gives each run modules of its own over the same frozen tensors.

    :param runs: of the process; a base that only one of them has is that one's alone.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        users = Counter(base_key(run) for run in runs)
        self._shared = {key for key, count in users.items() if key is not None and count > 1}
        self._bases: dict[Hashable, Any] = {}

    def load(self, run: Run) -> Any:
        """As :func:`ftlab.model.load.load_model`."""
        key = base_key(run)
        if key not in self._shared:
            return load_model(run)
        if key not in self._bases:
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
