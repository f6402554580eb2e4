"""Configs of a sweep that take turns and do badly at the same step are stopped: by :mod:`ftlab.engine.stop_rules`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ftlab.engine.stop_rules import losers, rungs, value_at
from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import Objective
from ftlab.schema.launchers import Shards


class Contestant(Protocol):
    """A run that is trained now. ``steps`` is 0 until it has begun; ``ended`` is the last step of its last turn."""

    @property
    def is_left(self) -> bool: ...
    @property
    def steps(self) -> int: ...
    @property
    def ended(self) -> int: ...


class Judge:
    """Compares runs whenever all that are left have come to the next rung, by what was logged up to its step alone.

    :param options: of the launcher. :param objective: a key of ``metrics.jsonl``.
    :param folders: of every run of the sweep, also of those that are over.
    """

    def __init__(self, options: Shards, objective: Objective, folders: Callable[[], Mapping[int, Path]]):
        self._options, self._objective, self._folders = options, objective, folders
        self._left = rungs(options.stop, options.shards, options.factor)

    def judge(self, runs: Mapping[int, Contestant]) -> dict[int, str]:
        """The runs to stop, each with the reason. :param runs: that are trained now, by number."""
        found: dict[int, str] = {}
        while self._left and self._have_come(runs, step := self._step(runs)):
            del self._left[0]
            values = {number: value for number, path in self._folders().items()
                      if (value := self._value(path, step)) is not None}  # fmt: skip
            name, way = self._objective.measure, self._objective.direction
            for number, why in losers(self._options.stop, values, way == "minimize", self._options.factor).items():
                if number in runs and runs[number].is_left:
                    found.setdefault(number, f"{self._options.stop} after step {step}: {name} {why}")
        return found

    def _step(self, runs: Mapping[int, Contestant]) -> int:
        """Of the next rung: the same for all, also where one has more steps."""
        return self._left[0] * math.ceil(max(run.steps for run in runs.values()) / self._options.shards)

    def _have_come(self, runs: Mapping[int, Contestant], step: int) -> bool:
        left = [run for run in runs.values() if run.is_left]
        return bool(left) and all(run.steps and (run.ended >= step or run.steps <= step) for run in left)

    def _value(self, path: Path, step: int) -> float | None:
        """None of a run that was over before, or is damaged, which is told elsewhere."""
        try:
            lines: list[dict[str, Any]] = [*RunDir(path).read_metrics()]
        except RunDirError:
            return None
        if not lines or lines[-1]["step"] < step:
            return None
        return value_at(lines, self._objective.measure, step)
