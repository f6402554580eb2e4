"""What a checkpoint holds, and a copy of it in the host's memory, which is written while training goes on."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerState

from ftlab.model.whole_weights import save_weights
from ftlab.rundir.names import METRICS, TRAINER_STATE


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint after a step.

    :param weights: as :func:`ftlab.model.whole_weights.weights_to_save` has them. :param objects: what torch saves, by
        the name of the file. :param texts: of files that are the same in every checkpoint, by name.
    :param state: the trainer's. :param metrics: what the run has logged, and how many bytes of it belong to the step.
    """

    weights: dict[str, Tensor]
    objects: dict[str, Any]
    texts: Mapping[str, bytes]
    state: TrainerState
    metrics: tuple[Path, int] | None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in _tensors([self.weights, self.objects]))

    def copied(self) -> Content:
        """The same in the host's memory, that no step changes any more."""
        history = [*self.state.log_history]  # its entries are never changed
        state = replace(self.state, log_history=history, stateful_callbacks=copied(self.state.stateful_callbacks))
        return replace(self, weights=_copied_weights(self.weights), objects=copied(self.objects), state=state)

    def write(self, folder: Path, model: Any) -> None:
        """Write it into a folder, the trainer's state last. :param model: whose names and config it has; its weights
        are not looked at."""
        save_weights(model, self.weights, folder)
        write_files(self.texts, folder)
        for name, values in self.objects.items():
            torch.save(values, folder / name)
        self.state.save_to_json(str(folder / TRAINER_STATE))
        if self.metrics is not None:  # from which what is lost of it can be restored
            path, size = self.metrics
            with path.open("rb") as logged:
                (folder / METRICS).write_bytes(logged.read(size))


def write_files(contents: Mapping[str, bytes], folder: Path) -> None:
    """:param contents: by paths below the folder."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def copied(value: Any) -> Any:
    """A copy in the host's memory of tensors and plain values in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([copied(one) for one in value])
    return copy.deepcopy(value)


def _copied_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that are one tensor by two names stay one: transformers saves it once."""
    known: dict[tuple[Any, ...], Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in known:
            known[key] = copied(tensor)
        found[name] = known[key]
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors([*value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def random_states() -> dict[str, Any]:
    """The states that a process alone draws from, as transformers' trainer reads them."""
    found = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})
