"""The keys of ``hydra.launcher`` under ``hydra/launcher=shards``; their defaults are in its YAML."""

from __future__ import annotations

from ftlab.schema.base import Group, Positive


class Shards(Group):
    """:param shards: turns that the steps of each phase of a run are divided into. :param resident: runs that are in
    memory at once, at most; None: as many as fit."""

    shards: Positive
    resident: Positive | None
