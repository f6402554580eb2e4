"""Configs of a sweep that take turns and do badly at the same step are stopped: by :mod:`ftlab.engine.stop_rules`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ftlab.engine.stop_rules import losers, rungs, value_at
from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import Objective
from ftlab.schema.launchers import Shards


class Contestant(Protocol):
    """A run that is at work. ``steps`` is 0 until it has begun, ``first`` the step that it then went on from; ``ended``
    is the last step of its last turn."""

    @property
    def is_left(self) -> bool: ...
    @property
    def steps(self) -> int: ...
    @property
    def first(self) -> int | None: ...
    @property
    def ended(self) -> int: ...


class Judge:
    """Compares runs at equal steps, by what was logged up to a step alone.

    Runs that begin together are compared when all of them that are left have come to the next rung. One that begins
    when it is chosen is compared for itself, when it comes to a rung, with whatever values of that step there are by
    then: successive halving where no run waits for another (Li et al. 2018, https://arxiv.org/abs/1810.05934).

    :param options: of the launcher. :param objective: a key of ``metrics.jsonl``.
    :param folders: of every run of the sweep, also of those that are over.
    :param together: the numbers of the runs that begin together.
    """

    def __init__(
        self, options: Shards, objective: Objective, folders: Callable[[], Mapping[int, Path]],
        together: Collection[int],
    ):  # fmt: skip
        self._options, self._objective, self._folders = options, objective, folders
        self._together = frozenset(together)
        self._groups: dict[frozenset[int], _Group] = {}

    def judge(self, runs: Mapping[int, Contestant]) -> dict[int, str]:
        """The runs to stop, each with the reason. :param runs: that are at work, by number."""
        worse: dict[int, str] = {}
        for numbers in [self._together, *(frozenset([number]) for number in runs if number not in self._together)]:
            members = {number: runs[number] for number in numbers if number in runs and runs[number].is_left}
            group = self._groups.setdefault(numbers, _Group(self._options))
            for step in group.rungs_to_judge([*members.values()]):
                if numbers is not self._together and any((run.first or 0) > step for run in members.values()):
                    continue  # it was compared there by the process from whose checkpoint it goes on
                for number, why in self._losers(step).items():
                    if number in members:
                        worse.setdefault(number, why)
        return worse

    def _losers(self, step: int) -> dict[int, str]:
        rule, name, way = self._options.stop, self._objective.measure, self._objective.direction
        known = {number: self._value(path, step) for number, path in self._folders().items()}
        values = {number: value for number, value in known.items() if value is not None}
        worse = losers(rule, values, way == "minimize", self._options.factor)
        return {number: f"{rule} after step {step}: {name} {why}" for number, why in worse.items()}

    def _value(self, path: Path, step: int) -> float | None:
        """None of a run that was over before, or is damaged, which is told elsewhere."""
        try:
            lines: list[dict[str, Any]] = [*RunDir(path).read_metrics()]
        except RunDirError:
            return None
        if not lines or lines[-1]["step"] < step:
            return None
        return value_at(lines, self._objective.measure, step)


class _Group:
    """Runs that are compared at the same time."""

    def __init__(self, options: Shards):
        self._left = rungs(options.stop, options.shards, options.factor)
        self._shards = options.shards
        self._steps = 0  # of the longest that was ever there: the rungs stay where they are

    def rungs_to_judge(self, left: Sequence[Contestant]) -> Iterator[int]:
        """The steps of the rungs that all of them have come to since the last time. :param left: those that are."""
        while self._left and left and all(run.steps for run in left):
            self._steps = max([self._steps, *(run.steps for run in left)])
            step = self._left[0] * math.ceil(self._steps / self._shards)
            if not all(run.ended >= step or run.steps <= step for run in left):
                break
            del self._left[0]
            yield step
