"""``hydra/launcher=gpus``: the jobs of a sweep in processes of their own, as many at once as there are devices.

This module is imported at every start, because that is how Hydra finds plugins.
"""

from __future__ import annotations

from hydra_plugins.ftlab_launchers._prepared import PreparedLauncher


class GpusLauncher(PreparedLauncher):
    """:param options: the keys of ``conf/hydra/launcher/gpus.yaml``."""

    trains = "ftlab.engine.pool"
    takes_more = True
