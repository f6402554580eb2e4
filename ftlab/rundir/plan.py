"""What run.yaml holds: a run as a list of phases, each with a whole config of its own. Plain values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from ftlab.schema import Group, Run

# Of the model group, what says which weights a run begins with; the rest is how they are read, run and written with.
WEIGHTS = ("path", "revision", "init", "adapter")


class Phase(Group):
    """The part of a run that one process executes.

    :param folder: below ``phases/`` in the run directory.
    :param config: a full run config of its own; nothing is looked up elsewhere.
    :param source: the phase or run directory whose policy it starts from; None: the model as it is configured.
    :param start: continue an adapter, or merge it into the base and begin a new one.
    :param chosen: what of its config ``hardware.fits_by`` has chosen, as it would be typed.
    """

    name: str
    folder: str
    config: Run
    source: str | None
    start: Literal["continue", "merge"]
    chosen: tuple[str, ...] = ()


class Plan(Group):
    """What ``run.yaml`` holds: the whole command line but ``run.checkpoint``, which is for one start alone."""

    title: str
    overrides: tuple[str, ...]
    phases: tuple[Phase, ...]

    def left(self, done: Collection[str]) -> list[Phase]:
        """Phases that are not done, whether a start runs them or not."""
        return [phase for phase in self.phases if phase.name not in done]

    def chosen(self, phases: Sequence[Phase]) -> list[Phase]:
        """Of some phases, those that a start runs."""
        names = self.phases[0].config.run.phases
        return [phase for phase in phases if names is None or phase.name in names]
