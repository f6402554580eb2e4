"""What launchers of run directories have in common. Hydra imports no module whose name begins with an underscore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

Prepare = Callable[[int, Sequence[str]], Any]  # of the number of a job, and its overrides


class PreparedLauncher(Launcher):
    """Every config is composed, checked and written to its run directory here; what trains is handed that directory.

    :cvar trains: the module of the engine that prepares one run, and trains all of them. :cvar takes_more: whether it
        takes runs while it trains others.
    """

    trains: str
    takes_more = False

    def __init__(self, **_: Any):
        """The keys are read from the config."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs and wait for them. What became of each is in the sweep's folder.

        :raises SystemExit: none of them can be trained, or the user no longer waits; it is told.
        """
        with self._told():
            prepared, returned = [], []
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                done = self._run_job(number, overrides)
                prepared.append(done.return_value)  # or what went wrong
                done.status, done.return_value = JobStatus.COMPLETED, None
                returned.append(done)
            ready = [one for one in prepared if one is not None]
            if ready:
                self._train(self._sweep.listed(self._folder, ready))
        return returned

    def train(self, work_of: Callable[[Prepare], Any]) -> None:
        """Train jobs that come while others are being trained. What became of each is in the sweep's folder.

        :param work_of: gives where they come from, as :mod:`ftlab.engine.work` has it, for what prepares one of them:
            composes and checks it, makes its run directory, and returns its record and its run; None where it is
            finished or cannot run, which is told and written down. That is done in the main thread.
        :raises SystemExit: as :meth:`launch` does.
        """
        with self._told():
            self._train(work_of(self._prepare))

    def _train(self, work: Any) -> None:
        if self.takes_more:
            controlled = resolve_name("ftlab.engine.controlled:Controlled")
            work = controlled(work, self._folder, self._prepare)
        self._trains.train_all(work, self._options, self._folder)

    def _prepare(self, number: int, overrides: Sequence[str]) -> Any:
        return self._run_job(number, overrides).return_value

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error ends the process, and is told."""
        try:
            self._begin()
            yield
        except (Exception, KeyboardInterrupt) as error:
            resolve_name("ftlab.base.ending:end_with")(error)
            raise

    def _begin(self) -> None:
        setup_globals()
        path = Path(self._config.hydra.sweep.dir)
        path.mkdir(parents=True, exist_ok=True)
        self._folder = resolve_name("ftlab.rundir.sweep:SweepDir")(path)
        self._sweep, self._sweeps, self._trains = map(
            resolve_name, ("ftlab.engine.sweep", "ftlab.config.sweeps", self.trains)
        )
        self._options = resolve_name("ftlab.config.launcher:options")(self._config.hydra)

    def _run_job(self, number: int, overrides: Sequence[str]) -> JobReturn:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number

        def prepare(cfg: DictConfig) -> Any:
            of_hydra = HydraConfig.get()
            return self._sweep.prepare_job(self._sweeps.place(of_hydra), cfg, of_hydra, self._trains, self._options)

        return run_job(
            hydra_context=self._context, task_function=prepare, config=config, job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
