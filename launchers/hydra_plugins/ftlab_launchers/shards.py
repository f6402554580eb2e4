"""``hydra/launcher=shards``: the jobs of a sweep in turns on one device, over one base model in memory.

This module is imported at every start, because that is how Hydra finds plugins.
"""

from __future__ import annotations

from hydra_plugins.ftlab_launchers._prepared import PreparedLauncher


class ShardsLauncher(PreparedLauncher):
    """:param options: the keys of ``conf/hydra/launcher/shards.yaml``."""

    trains = "ftlab.engine.shards"
    takes_more = True
