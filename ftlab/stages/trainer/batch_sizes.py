"""How many rows a forward takes, step by step: as the config has it, until memory runs out. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ftlab.schema import Run

MICRO_BATCH = "micro_batch_size"
GENERATION = "generation_batch_size"  # prompts of ppo's rollouts
EVALUATION = "evaluation_batch_size"  # and of its evaluations
Change = dict[str, int]  # {"step": the optimizer step from which it holds, one of the keys above: the size}


class BatchSizes:
    """Sizes of a phase's batches by optimizer step, counted from 1; 0 stands for what comes before the first.

    They belong to the step and not to the moment: a run that goes on from an earlier checkpoint takes each step again
    in the sizes that it was taken in, and so comes to the same weights.

    :param initial: the sizes that the config asks for. :param changes: those of earlier starts.
    :param record: is given all changes whenever there is a new one.
    """

    def __init__(
        self,
        initial: Mapping[str, int],
        changes: Iterable[Change] = (),
        record: Callable[[list[Change]], Any] = lambda changes: None,
    ):
        self._initial, self._record = initial, record
        self.changes: list[Change] = list(changes)

    def at(self, key: str, step: int) -> int:
        return min([self._initial[key], *(c[key] for c in self.changes if key in c and c["step"] <= step)])

    def smallest(self, key: str) -> int:
        """Return the size that all steps together have come to."""
        return min([self._initial[key], *(change[key] for change in self.changes if key in change)])

    def halve(self, key: str, step: int) -> int:
        """Return the new size, which holds from ``step`` on."""
        size = half(self.at(key, step))
        self.changes.append({"step": step, key: size})
        self._record(self.changes)
        return size

    def add(self, changes: Iterable[Change]) -> None:
        """Take up what a checkpoint knows, where the manifest has lost it."""
        known = [*self.changes]
        known += [change for change in changes if change not in self.changes]
        if len(known) > len(self.changes):
            self.changes = sorted(known, key=lambda change: change["step"])
            self._record(self.changes)


def half(size: int) -> int:
    """An odd one is rounded up, so that there are two parts."""
    return (size + 1) // 2


def initial_sizes(run: Run) -> dict[str, int]:
    return {MICRO_BATCH: run.train.micro_batch_size, GENERATION: run.eval.batch_size, EVALUATION: run.eval.batch_size}
