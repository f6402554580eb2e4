"""The keys of ``hydra.launcher`` under our launchers of one machine; their defaults are in the YAML of each."""

from __future__ import annotations

from ftlab.schema.base import Group, Positive


class Shards(Group):
    """:param shards: turns that the steps of each phase of a run are divided into. :param resident: runs that are in
    memory at once, at most; None: as many as fit."""

    shards: Positive
    resident: Positive | None


class Gpus(Group):
    """:param devices: that are shared out, one config each; None: all that there are. :param shards: where there are
    more configs than devices, those of a device take so many turns each; None: one waits for the other.
    :param resident: as :class:`Shards` has it."""

    devices: Positive | None
    shards: Positive | None
    resident: Positive | None
