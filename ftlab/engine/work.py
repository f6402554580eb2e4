"""What the launchers of run directories train: runs that are known beforehand, and runs that come meanwhile.

The loops of :mod:`ftlab.engine.shards` and :mod:`ftlab.engine.pool` ask for more between two looks at the runs at work,
in the main thread, where a config can be composed and its run directory be made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin or to go on. :param title: under which it is told of. :param path: its directory."""

    title: str
    path: Path


RunT = TypeVar("RunT", bound=Prepared)


class Work(Protocol[RunT]):
    """A source of runs. Everything is called in the main thread of the launcher's process.

    A run that has left is no longer the launcher's: finished, failed, stopped early, or put aside, with a checkpoint.
    One that was put aside may come again, and goes on from there.
    """

    @property
    def is_open(self) -> bool:
        """Whether more runs are to come, even when none is at work. The launcher ends where none is and none will."""

    @property
    def count(self) -> int:
        """How many runs there are to be, as far as is known, with those that have come."""

    def take(self, active: int) -> Sequence[RunT]:
        """The runs that begin, or go on, now. :param active: how many are at work."""

    def record(self, run: RunT, **why: str) -> None:
        """Write down at once that a run has failed (``error=why``), or is being stopped early (``stopped=why``)."""

    def leave(self, run: RunT) -> None:
        """A run is no longer at work; why, its directory and what was recorded tell. In the order in which they end."""


class Listed(Work[RunT]):
    """Runs that are known beforehand. :param record: is told as :meth:`Work.record` is."""

    def __init__(self, runs: Sequence[RunT], record: Callable[..., None]):
        self._waiting, self._record = [*runs], record
        self._count = len(runs)

    @property
    def is_open(self) -> bool:
        return bool(self._waiting)

    @property
    def count(self) -> int:
        return self._count

    def take(self, active: int) -> list[RunT]:
        runs, self._waiting = self._waiting, []
        return runs

    def record(self, run: RunT, **why: str) -> None:
        self._record(run, **why)

    def leave(self, run: RunT) -> None:
        pass
