"""The jobs of ``ftlab -m ...``, before Hydra starts the first of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from ftlab.base.terminal import echo
from ftlab.config import launcher, objectives, phases, search
from ftlab.config.command_line import Arguments, first_values, of_job
from ftlab.config.compose import compose, select_loader, validate
from ftlab.config.quoting import quote
from ftlab.errors import ConfigError, FtlabError, Interrupted, Mistake
from ftlab.rundir.names import MULTIRUN
from ftlab.rundir.start_folder import started_in, sweep_start_folder
from ftlab.rundir.sweep import Journal, Search, SweepDir, is_sweep
from ftlab.schema import Run
from ftlab.schema.launchers import Gpus, Shards
from ftlab.slurm.options import Options

_DIR, _NAME = "hydra.sweep.dir", "sweep.name"
_IN_TURN = "hydra_plugins.ftlab_sweepers.numbered.NumberedSweeper"
# What begins a key that says where a sweep is, how its jobs run and what they are judged by, and not what they are.
_BESIDE = ("hydra.", "hydra/", "sweep.")


@dataclass(frozen=True)
class Sweep:
    """:param path: its folder. :param named: the key that gives it; None where one is made up.
    :param if_exists: what to do where one is there: ``resume``, ``new`` or ``refuse``.
    :param journal: what is asked for. :param launcher: what of a launcher of ours; None where the jobs run one after
    the other. :param space: what a sweeper of ours chooses from. :param config: that of the first job, with Hydra's
    node."""

    path: Path
    named: str | None
    if_exists: str
    journal: Journal
    launcher: Options | Shards | Gpus | None
    space: search.Space | None
    config: DictConfig


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
    lines = first_values(overrides)
    cfg = compose(lines, loader, config_name)
    keys = {one.key_or_group for one in overrides}
    named = next((key for key in (_DIR, _NAME) if key in keys), None)
    path = (
        Path(MULTIRUN) / cfg.sweep.name if cfg.sweep.name is not None and named != _DIR else Path(cfg.hydra.sweep.dir)
    )
    named = _NAME if cfg.sweep.name is not None and named is None else named
    every = _jobs(cfg.hydra, arguments)
    space = search.read(cfg.hydra, arguments.overrides) if search.is_search(cfg.hydra) else None
    is_judged = space is not None or cfg.sweep.objective is not None
    journal = Journal(
        overrides=arguments.overrides,
        flags=tuple(arguments.single_flags),
        folder=str(Path.cwd()),
        jobs=None if every is None else tuple(map(identity, every)),
        search=None if space is None else _search(space, cfg.hydra, arguments),
        objectives=objectives.read(cfg.hydra, validate(cfg, lines, loader, config_name)) if is_judged else (),
    )
    return Sweep(path, named, cfg.run.if_exists, journal, launcher.options(cfg.hydra), space, cfg)


def _jobs(hydra: DictConfig, arguments: Arguments) -> list[list[str]] | None:
    """The overrides of each job, as Hydra takes them; None where a sweeper chooses them on the way."""
    if not search.is_basic(hydra):
        return None
    lines = [*search.param_lines(hydra), *arguments.overrides]
    (every,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(lines), None)
    return every


def _search(space: search.Space, hydra: DictConfig, arguments: Arguments) -> Search:
    """What is searched. A study, and what a function adds, are part of it; how the sampler goes about it is not."""
    kept = ("storage", "study_name", "custom_search_space")
    own = [f"{search.NODE}.{key}={value}" for key in kept if (value := getattr(space.options, key)) is not None]
    given = {_key(line) for line in arguments.overrides}
    params = [line for line in search.param_lines(hydra) if _key(line) not in given]
    return Search(
        id=secrets.token_hex(8), space=(*identity([*params, *arguments.overrides]), *own), trials=space.trials
    )


def check_job(arguments: Arguments, lines: Sequence[str]) -> None:
    """:param lines: the overrides of one job. :raises ConfigError: they make no run."""
    loader, config_name = select_loader(arguments.config_dir, arguments.config_name)
    try:
        validate(compose(lines, loader, config_name), lines, loader, config_name)
    except HydraException as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            [Mistake("config", " ".join(str(error).partition("Config search path:")[0].split()))]
        ) from None


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
    return tuple(phases.decode_override(line) for line in overrides if not _is_beside(line))


def clone_lines(journal: Journal, number: int) -> list[str]:
    """The overrides of a job that was added as a clone, as Hydra takes them. :param number: of the job."""
    assert journal.jobs is not None, "its sweep knows its jobs"
    of_sweep = [line for line in journal.overrides if _key(line).startswith("sweep.")]
    return [*of_sweep, *journal.jobs[number]]


def _is_beside(line: str) -> bool:
    return _key(line) == "run.if_exists" or _key(line).startswith(_BESIDE)


def in_folder(arguments: Arguments, folder: Path, is_new: bool, is_in_order: bool = True) -> Arguments:
    """The same sweep in a folder. :param is_new: nothing is there yet; else what is there is gone on with.
    :param is_in_order: whether its jobs have the numbers that Hydra would give them."""
    dropped = (_DIR,) if is_new else (_DIR, "run.if_exists")
    kept = [line for line in arguments.overrides if _key(line) not in dropped]
    numbered = () if is_in_order else (f"{search.NODE}._target_={_IN_TURN}",)
    return replace(arguments, overrides=(*kept, f"{_DIR}={quote(str(folder))}", *numbered))


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
    typed = [phases.decode_override(line) for line in given.overrides if not line.startswith(_BESIDE)]
    return run, [*given.flags, *typed]


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+")
