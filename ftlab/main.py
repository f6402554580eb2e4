"""The way through the house: read the command line, compose, validate, hand over to the task."""

from __future__ import annotations

import sys
from pkgutil import resolve_name
from typing import Any

from ftlab.base.ending import end_with

TASKS = {  # task -> the function that runs it; imported only when it is chosen
    "train": "ftlab.engine.tasks:train",
    "resume": "ftlab.engine.tasks:resume",
    "reproduce": "ftlab.engine.reproduce:reproduce",
    "inspect": "ftlab.use.inspect.command:inspect",
    "init": "ftlab.use.init.command:init",
    "import": "ftlab.use.importing.command:import_file",
    "mine": "ftlab.use.mine.command:mine",
    "ls": "ftlab.use.ls:ls",
    "report": "ftlab.use.report.command:report",
    "slurm": "ftlab.use.slurm:slurm",
    "control": "ftlab.use.control:control",
    "diff": "ftlab.use.diff:diff",
    "evaluate": "ftlab.use.evaluate.command:evaluate",
    "package": "ftlab.use.package.command:package",
    "chat": "ftlab.use.chat.command:chat",
    "serve": "ftlab.use.serve.command:serve",
    "plan": "ftlab.use.plan:plan",
    "explain": "ftlab.use.explain:explain",
    "env": "ftlab.use.environment:environment",
    "version": "ftlab.use.environment:version",
}


def main() -> None:
    resolve_name("ftlab.base.heap:collect_seldom")()
    try:
        answer(sys.argv[1:])
    except (Exception, KeyboardInterrupt) as error:
        end_with(error)


def answer(argv: list[str]) -> Any:
    if {"--help", "-h"} & {*argv} or argv[:1] == ["help"]:
        return resolve_name("ftlab.use.help:show")(argv)  # which has no need of Hydra
    if {"--shell-completion", "-sc"} & {*argv}:
        return resolve_name("ftlab.use.completion:answer")(argv, start)
    given = resolve_name("ftlab.config.command_line:read")(argv)
    given = resolve_name("ftlab.config.sweeps:resumed")(given) if given.task == "resume" else given
    cfg = resolve_name("ftlab.config.check:check")(given)
    if given.shows_job:
        return resolve_name("ftlab.use.config:show")(given, cfg)
    if given.trains_sweep:
        sys.exit(resolve_name("ftlab.engine.sweep:run")(given, start))
    if given.repeats_task:
        sys.exit(resolve_name("ftlab.config.sweeps:run_each")(given, cfg.hydra, start))
    return start(given.for_hydra)


def start(argv: list[str]) -> None:
    sys.argv[1:] = argv
    folder = resolve_name("ftlab.config.paths:config_dir")()
    resolve_name("hydra:main")(version_base="1.3", config_path=str(folder), config_name="config")(job)()


def job(cfg: Any) -> None:
    """One run. A launcher's process has a command line of its own: what a job needs is in Hydra's config."""
    sweeps, of_hydra = resolve_name("ftlab.config.sweeps"), resolve_name("hydra.core.hydra_config:HydraConfig").get()
    try:
        if sweeps.trains(cfg, of_hydra):
            return resolve_name("ftlab.engine.sweep:run_job")(sweeps.place(of_hydra), cfg, of_hydra)
        run, overrides = sweeps.prepare(cfg, of_hydra)
        if (cluster := resolve_name("ftlab.config.launcher:options")(of_hydra)) is not None:
            return resolve_name("ftlab.engine.submission:submit")(run, overrides, cluster)
        resolve_name(TASKS[run.task.name])(run, overrides)
    except Exception as error:
        if sweeps.goes_on(of_hydra, error):
            raise  # Hydra tells it at the end
        end_with(error)
