"""The way through the house: read the command line, compose, validate, hand over to the task."""

from __future__ import annotations

import importlib
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ftlab.base.terminal import discard_output, echo_error
from ftlab.config import check, command_line, compose, paths, phases
from ftlab.errors import FtlabError, Interrupted

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
            return call("ftlab.use.help:show", given.task, sys.argv[1:])
        check.check(given)
        sys.argv[1:] = given.for_hydra
        _hydra_main()
    except FtlabError as error:
        sys.exit(report(error))
    except KeyboardInterrupt:
        sys.exit(report(Interrupted("Interrupted before anything was begun.")))
    except BrokenPipeError:  # ftlab --help | head
        discard_output()


def job(cfg: DictConfig) -> None:
    """One run. A launcher's process has a command line of its own: what a job needs is in Hydra's config."""
    of_hydra = HydraConfig.get()
    if (in_sweep := of_hydra.mode == RunMode.MULTIRUN) and cfg.run.name is None and cfg.run.dir is None:
        cfg.run.dir = of_hydra.runtime.output_dir
    try:
        given = command_line.of_job(of_hydra)
        run = compose.validate(cfg, given.overrides, *compose.select_loader(given.config_dir, given.config_name))
        call(TASKS[run.task.name], run, [*given.flags, *map(phases.decode_override, given.overrides)])
    except FtlabError as error:
        code = report(error)
        if in_sweep and not isinstance(error, Interrupted):
            raise  # the other jobs go on; Hydra ends the sweep with the first failure
        sys.exit(code)
    except BrokenPipeError:  # which Hydra would show with a traceback
        discard_output()


_hydra_main = hydra.main(version_base="1.3", config_path=str(paths.config_dir()), config_name="config")(job)


def call(target: str, *values: object) -> None:
    module, function = target.split(":")
    getattr(importlib.import_module(module), function)(*values)


def report(error: FtlabError) -> int:
    echo_error(error)
    return error.exit_code
