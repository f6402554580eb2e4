"""``hydra/launcher=slurm``: the jobs of a sweep as an array of jobs of a Slurm cluster.

This module is imported at every start, because that is how Hydra finds plugins.
"""

from __future__ import annotations

from hydra_plugins.ftlab_launchers._prepared import PreparedLauncher


class SlurmLauncher(PreparedLauncher):
    """:param options: the keys of ``conf/hydra/launcher/slurm.yaml``."""

    trains = "ftlab.engine.submission"
