"""The way through the house: read the command line, compose, validate, hand over to the task."""

from __future__ import annotations

import sys
from pkgutil import resolve_name

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ftlab.base.terminal import discard_output, echo_error
from ftlab.config import check, command_line, paths, sweeps
from ftlab.errors import FtlabError, Interrupted, of_system

# task -> the function that runs it; imported only when it is chosen
TASKS = {
    "train": "ftlab.engine.tasks:train",
    "resume": "ftlab.engine.tasks:resume",
    "reproduce": "ftlab.engine.reproduce:reproduce",
    "inspect": "ftlab.use.inspect.command:inspect",
    "init": "ftlab.use.init.command:init",
    "mine": "ftlab.use.mine.command:mine",
    "ls": "ftlab.use.ls:ls",
    "diff": "ftlab.use.diff:diff",
    "explain": "ftlab.use.explain:explain",
    "env": "ftlab.use.environment:environment",
    "version": "ftlab.use.environment:version",
}


def main() -> None:
    try:
        if command_line.is_completion(sys.argv[1:]):
            return _hydra_main()
        given = command_line.read(sys.argv[1:])
        if given.wants_help:
            return resolve_name("ftlab.use.help:show")(given.task, sys.argv[1:])
        given = sweeps.resumed(given)
        check.check(given)
        if sweeps.trains(given):
            sys.exit(resolve_name("ftlab.engine.sweep:run")(given, start))
        start(given)
    except BrokenPipeError:  # ftlab --help | head
        discard_output()
    except (FtlabError, OSError) as error:
        sys.exit(report(error))
    except KeyboardInterrupt:
        sys.exit(report(Interrupted("Interrupted before anything was begun.")))


def start(given: command_line.Arguments) -> None:
    sys.argv[1:] = given.for_hydra
    _hydra_main()


def job(cfg: DictConfig) -> None:
    """One run. A launcher's process has a command line of its own: what a job needs is in Hydra's config."""
    in_sweep = (of_hydra := HydraConfig.get()).mode == RunMode.MULTIRUN
    try:
        if in_sweep and cfg.task.name == "train":
            return resolve_name("ftlab.engine.sweep:run_job")(sweeps.place(of_hydra), cfg, of_hydra)
        run, overrides = sweeps.prepare(cfg, of_hydra)
        resolve_name(TASKS[run.task.name])(run, overrides)
    except BrokenPipeError:  # which Hydra would show with a traceback
        discard_output()
    except (FtlabError, OSError) as error:
        if in_sweep and not isinstance(error, Interrupted):
            raise  # the other jobs go on; Hydra tells it at the end
        sys.exit(report(error))


_hydra_main = hydra.main(version_base="1.3", config_path=str(paths.config_dir()), config_name="config")(job)


def report(error: FtlabError | OSError) -> int:
    echo_error(told := of_system(error))
    return told.exit_code
