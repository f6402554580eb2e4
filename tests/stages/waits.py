"""What of a training step waits for the device: counted on a CPU, where nothing would be noticed."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

# What the host has anyhow: the optimizer's count of steps, the order of an epoch. And transformers' look for packed
# rows, once a forward, where it makes the mask.
ON_HOST = ("torch/optim/", "accelerate/data_loader.py", "find_packed_sequence_indices")

_READ = {"tolist", "cpu", "numpy"}  # of a tensor on a CPU, of which torch's dispatcher sees nothing
_SIZED = ("nonzero", "masked_select", "unique", "bincount", "_local_scalar_dense", "is_nonzero", "equal")


class Waits(TorchFunctionMode):
    """Counts, by the line that asks, what has to know a tensor's values: reading them, and results whose size they
    decide."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _READ:
            self.note(function.__name__)
        return function(*args, **kwargs or {})

    def note(self, what: str) -> None:
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_stack()[:-2]]
        if not any(part in frame for frame in frames[-8:] for part in ON_HOST):
            own = next((frame for frame in reversed(frames) if "/torch/" not in frame and __file__ not in frame), "")
            self.found[f"{what}: {own}"] += 1


class Sizes(TorchDispatchMode):
    """The same of what libraries call beneath Python's own methods."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indices = args[1] if name.startswith(("index", "_index_put")) and isinstance(args[1], list | tuple) else ()
        if name.startswith(_SIZED) or any(one is not None and one.dtype == torch.bool for one in indices):
            self._waits.note(name)
        return function(*args, **kwargs or {})


class Between(TrainerCallback):
    """Counts from the beginning of the second step to that of the last but one."""

    def __init__(self) -> None:
        self.waits = Waits()
        self._counting: Iterator[None] = self._count()

    def _count(self) -> Iterator[None]:
        with self.waits, Sizes(self.waits):
            yield
        yield

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (1, 4):
            next(self._counting)
