"""How many runs of one process are in the memory of one device at once. Pure, over :mod:`ftlab.preflight.memory`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ftlab.model.base_key import base_key
from ftlab.preflight.fit import TIGHT
from ftlab.preflight.memory import device_of, predict
from ftlab.preflight.memory.device import CONTEXT
from ftlab.schema import Run

_WEIGHTS = "weights: "


@dataclass(frozen=True)
class Sharing:
    """Bytes of one device. :param bases: of models that several runs have, once each. :param each: what a run holds
    that waits for its turn, at most. :param working: what the run at work holds besides, at most.
    :param memory: of the device; None where nobody knows. :param runs: how many there are.
    :param shared: the keys of those models.
    """

    bases: float
    each: float
    working: float
    memory: float | None
    runs: int
    shared: frozenset[Hashable]

    @property
    def places(self) -> int:
        """How many runs may be in memory at once; one in any case. Where nobody knows how much there is, all."""
        if self.memory is None:
            return self.runs
        room = TIGHT * self.memory - CONTEXT - self.bases - self.working
        return max(1, min(self.runs, int(room // self.each)))

    def needed(self, places: int) -> float:
        return CONTEXT + self.bases + self.working + places * self.each


def sharing_of(configs: Sequence[Sequence[Run]], more_will_come: bool = False) -> Sharing:
    """:param configs: of each run those of its phases. :param more_will_come: runs whose base is then there, also where
    only one has it now."""
    bases: dict[Hashable, float] = {}
    users: dict[Hashable, int] = {}
    for phases in configs:
        for key in {base_key(run) for run in phases}:
            users[key] = users.get(key, 0) + 1
    each = working = 0.0
    memory = None
    for run in [run for phases in configs for run in phases]:
        device = device_of(run, is_here=True)
        predicted, key = predict(run, device), base_key(run)
        weights = sum(value for name, value in predicted.held.items() if name.startswith(_WEIGHTS))
        is_shared = key is not None and (users[key] > 1 or more_will_come)
        if is_shared:
            bases[key] = max(weights, bases.get(key, 0.0))
        held = sum(predicted.held.values())
        each = max(each, held - weights if is_shared else held)
        working = max(working, predicted.total - held)
        memory = device.memory if memory is None or device.memory is None else min(memory, device.memory)
    return Sharing(sum(bases.values()), each, working, memory, len(configs), frozenset(bases))
