"""The jobs of ``ftlab -m ...``, before Hydra starts the first of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ftlab.base.terminal import echo
from ftlab.config import launcher, phases
from ftlab.config.command_line import Arguments, first_values, of_job
from ftlab.config.compose import compose, select_loader, validate
from ftlab.config.quoting import quote
from ftlab.errors import ConfigError, FtlabError, Interrupted, Mistake
from ftlab.rundir.start_folder import started_in, sweep_start_folder
from ftlab.rundir.sweep import Jobs, SweepDir, is_sweep
from ftlab.schema import Run
from ftlab.schema.launchers import Gpus, Shards
from ftlab.slurm.options import Options

_DIR = "hydra.sweep.dir"
_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
# What says where a sweep is and not what it is.
_PLACE = (_DIR, "hydra.sweep.subdir", "run.if_exists")


@dataclass(frozen=True)
class Sweep:
    """:param path: its folder. :param is_chosen: whether the command line names it. :param wants_new: whether one that
    is there is not gone on with. :param jobs: the overrides of each; None where a sweeper chooses them on the way.
    :param launcher: what is asked of a launcher of ours; None where the jobs run one after the other."""

    path: Path
    is_chosen: bool
    wants_new: bool
    jobs: Jobs | None
    launcher: Options | Shards | Gpus | None


@dataclass(frozen=True)
class Place:
    """Which job of which sweep this is. :param number: from 0. :param directory: that of its run."""

    sweep: SweepDir
    number: int
    overrides: tuple[str, ...]
    directory: Path


def read(arguments: Arguments) -> Sweep:
    """The sweep that a good command line asks for."""
    loader, config_name = select_loader(arguments.config_dir, arguments.config_name)
    parser = OverridesParser.create()
    overrides = parser.parse_overrides(list(arguments.overrides))
    setup_globals()  # the resolver of the time that the folder is named after
    hydra = compose(first_values(overrides), loader, config_name).hydra
    values = {one.key_or_group: one.value() for one in overrides}
    every = _jobs(hydra, arguments)
    return Sweep(
        Path(hydra.sweep.dir), _DIR in values, values.get("run.if_exists") == "new",
        None if every is None else tuple(map(identity, every)), launcher.options(hydra),
    )  # fmt: skip


def _jobs(hydra: DictConfig, arguments: Arguments) -> list[list[str]] | None:
    """The overrides of each job, as Hydra takes them; None where a sweeper chooses them on the way."""
    if hydra.sweeper.get("_target_") != _BASIC:
        return None
    sweeper: Any = OmegaConf.to_container(hydra.sweeper)
    given = sweeper["params"] or {}
    lines = [*(f"{key}={value}" for key, value in given.items()), *arguments.overrides]
    (every,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(lines), None)
    return every


def run_each(arguments: Arguments, hydra: DictConfig, start: Callable[[list[str]], None]) -> int:
    """Run the jobs of a task that trains nothing one after the other, each as the command line that it is by itself:
    Hydra's own sweep makes folders. One that fails has told why, and ends none of the others. Return the exit code.

    :param hydra: the node of a composed config. :param start: lets Hydra run a command line.
    :raises ConfigError: the sweeper chooses jobs by what trainings come to.
    """
    jobs = _jobs(hydra, arguments)
    if jobs is None:
        reason = f"chooses its jobs by how trainings end; ftlab {arguments.task} -m takes the values on its line"
        raise ConfigError([Mistake("hydra/sweeper", reason, hydra.runtime.choices["hydra/sweeper"])])
    code = 0
    for number, job in enumerate(jobs):
        try:
            start([*arguments.single_flags, *job, f"hydra.job.num={number}"])
        except SystemExit as end:
            if end.code == Interrupted.exit_code:
                raise
            code = code or int(end.code or 0)
    return code


def identity(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a job as they were typed, without those that say where its sweep is, and how it is run."""
    return tuple(phases.decode_override(line) for line in overrides if not _says_where(_key(line)))


def _says_where(key: str) -> bool:
    return key in _PLACE or key == launcher.GROUP or key.startswith(f"{launcher.NODE}.")


def in_folder(arguments: Arguments, folder: Path, is_new: bool) -> Arguments:
    """The same sweep in a folder. :param is_new: nothing is there yet; else what is there is gone on with."""
    dropped = (_DIR,) if is_new else (_DIR, "run.if_exists")
    kept = [line for line in arguments.overrides if _key(line) not in dropped]
    return replace(arguments, overrides=(*kept, f"{_DIR}={quote(str(folder))}"))


def resumed(arguments: Arguments) -> Arguments:
    """``ftlab resume SWEEP`` as the command line of that sweep; any other as it is.

    The process is then in the folder that the sweep was started in, from which the paths of that command line start.

    :raises ConfigError: there is more on the line. :raises RunDirError: the sweep's journal is damaged.
    """
    if arguments.task != "resume":
        return arguments
    overrides = OverridesParser.create().parse_overrides(list(arguments.overrides))
    named = next((str(one.value()) for one in overrides if one.key_or_group == "run.dir"), None)
    if named is None or not is_sweep(Path(named).expanduser()):
        return arguments
    sweep = SweepDir(Path(named).expanduser())
    more = [str(one.input_line) for one in overrides if one.key_or_group not in ("task", "run.dir")]
    if more:
        reason = "ftlab resume takes everything of a sweep from its own journal; give the sweep's command again instead"
        raise ConfigError([Mistake(line, reason) for line in more])
    journal, folder = sweep.journal(), sweep_start_folder(sweep)
    if folder is not None and folder.resolve() != Path.cwd():
        sweep = SweepDir(sweep.path.absolute())
        echo(started_in(folder, journal.folder, "sweep"))
        os.chdir(folder)
    given = Arguments("train", ("-m", *journal.flags), journal.overrides)
    return in_folder(given, sweep.path, is_new=False)


def is_job(of_hydra: Any) -> bool:
    """Whether what Hydra runs is one job of a sweep. :param of_hydra: the node ``hydra`` of its config."""
    return of_hydra.mode == RunMode.MULTIRUN


def trains(cfg: DictConfig, of_hydra: Any) -> bool:
    """Whether it is a job of a sweep of trainings, which has a journal."""
    return is_job(of_hydra) and cfg.task.name == "train"


def goes_on(of_hydra: Any, error: Exception) -> bool:
    """Whether a sweep goes on with its other jobs after one has failed."""
    return is_job(of_hydra) and isinstance(error, FtlabError | OSError) and not isinstance(error, Interrupted)


def place(of_hydra: Any) -> Place:
    """Of the job that is about to begin. :param of_hydra: the node ``hydra`` of its config."""
    folder, here = Path(of_hydra.runtime.output_dir), Path.cwd()
    folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return Place(SweepDir(Path(of_hydra.sweep.dir)), of_hydra.job.num, identity(of_hydra.overrides.task), folder)


def prepare(cfg: DictConfig, of_hydra: Any) -> tuple[Run, list[str]]:
    """The validated run of a job, and its command line as it was typed. One of a sweep gets a folder of its own.

    :raises ConfigError: every mistake at once.
    """
    if is_job(of_hydra) and cfg.run.name is None and cfg.run.dir is None:
        cfg.run.dir = str(place(of_hydra).directory)
    given = of_job(of_hydra)
    run = validate(cfg, given.overrides, *select_loader(given.config_dir, given.config_name))
    return run, [*given.flags, *map(phases.decode_override, given.overrides)]


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+")
