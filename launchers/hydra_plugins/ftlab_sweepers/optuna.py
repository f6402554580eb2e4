"""``hydra/sweeper=optuna``: the jobs of a sweep as Optuna proposes them, each by what those before have come to.

The study is :class:`ftlab.engine.study.Study`; this hands its proposals to the launcher. The module is imported at
every start, because that is how Hydra finds plugins.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.ftlab_launchers._prepared import PreparedLauncher
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """:param options: the keys of ``conf/hydra/sweeper/optuna.yaml``, which are read from the config."""

    def __init__(self, **options: Any):
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Launch trials until there are as many as are wanted. What became of each is in the sweep's folder.

        :raises SystemExit: a job was stopped, or the study cannot go on; it is told.
        """
        try:
            launcher = self._launcher
            train = launcher.train if isinstance(launcher, PreparedLauncher) and launcher.takes_more else None
            resolve_name("ftlab.engine.trials:run_trials")(self._config, arguments, launcher.launch, train)
        except Exception as error:
            resolve_name("ftlab.base.ending:end_with")(error)
            raise
