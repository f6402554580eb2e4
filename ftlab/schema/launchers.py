"""The keys of ``hydra.launcher`` under our launchers of one machine; their defaults are in the YAML of each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import Group, Positive

StopRule = Literal["none", "median", "asha"]


class Shards(Group):
    """:param shards: turns that the steps of each phase of a run are divided into. :param resident: runs that are in
    memory at once, at most; None: as many as fit. :param stop: which of them are stopped early, by
    :mod:`ftlab.engine.stop_rules`. :param factor: of successive halving: one in so many goes on."""

    shards: Positive
    resident: Positive | None
    stop: StopRule
    factor: Annotated[int, Field(ge=2)]


class Gpus(Group):
    """:param devices: that are shared out, one config each; None: all that there are. :param shards: where there are
    more configs than devices, those of a device take so many turns each; None: one waits for the other.
    :param resident: as :class:`Shards` has it."""

    devices: Positive | None
    shards: Positive | None
    resident: Positive | None
