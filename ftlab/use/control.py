"""``ftlab control``: what the runs of a sweep, or a single run, are asked for while they are at work."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo
from ftlab.config import command_line, sweeps
from ftlab.config.check import check
from ftlab.config.clones import clone_mistakes, clone_overrides, origin
from ftlab.config.command_line import Arguments
from ftlab.config.compose import select_loader, validate
from ftlab.config.in_flight import read_values
from ftlab.errors import ConfigError, Mistake, RunDirError
from ftlab.rundir.control import ControlJournal, Verb
from ftlab.rundir.directory import RunDir
from ftlab.rundir.leaderboard import read_runs, read_sweep
from ftlab.rundir.leaderboard_table import show
from ftlab.rundir.lock import is_held
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import Obeyed
from ftlab.rundir.start_folder import sweep_start_folder
from ftlab.rundir.summary import summarize
from ftlab.rundir.sweep import JobRecord, SweepDir, is_sweep
from ftlab.schema import ControlTask, Run
from ftlab.schema.launchers import Gpus, Shards

_PAUSE = 0.1  # seconds between two looks at a run
_JOB = "task.job"
_DONE = {"pause": "paused", "stop": "stopped", "set": "changed"}


@dataclass(frozen=True)
class _Target:
    """A run that something is asked of. :param name: as it is told."""

    run_dir: RunDir
    name: str

    @property
    def journal(self) -> ControlJournal:
        return ControlJournal(self.run_dir.path)


def control(run: Run, overrides: Sequence[str]) -> None:
    """Ask a run for something, and wait a while for what comes of it.

    :raises ConfigError: there is no such job, or it cannot do that. :raises RunDirError: its directory is damaged.
    """
    task = run.task
    assert isinstance(task, ControlTask)
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "is missing: ftlab control outputs/my-sweep list")])
    folder = Path(run.run.dir).expanduser()
    if task.verb not in ("set", "clone") and task.changes:
        reason = f"{task.verb} changes nothing; ftlab control {shlex.quote(str(folder))} set does"
        raise ConfigError([Mistake(change, reason) for change in task.changes])
    if task.verb == "list":
        _list(folder, task)
        return
    target = _target(folder, task)
    if task.verb == "clone":
        _clone(SweepDir(folder), target, task)
        return
    _check_state(target, task.verb)
    if task.verb == "set":
        values = read_values(task.changes, _phase(target.run_dir).config)
        line = target.journal.append("set", values=values)
    else:
        line = target.journal.append(task.verb)
    _tell(folder, target, task.verb, line, task.wait)


# --- which run -------------------------------------------------------------------------------------------------------


def _target(folder: Path, task: ControlTask) -> _Target:
    """:raises ConfigError: there is no such job, or it has not begun."""
    place = shlex.quote(str(folder))
    if not is_sweep(folder):
        if task.job is not None:
            raise ConfigError([Mistake(_JOB, f"is for a sweep, and {folder} is a run", task.job)])
        return _Target(RunDir.open(folder), str(folder))
    sweep = SweepDir(folder)
    records, count = sweep.records(), sweep.journal().count
    if task.job is None:
        raise ConfigError([Mistake(_JOB, f"is missing: ftlab control {place} {task.verb} N, a job from 1 to {count}")])
    job = records.get(task.job - 1)
    if job is None:
        begun = ", ".join(str(number + 1) for number in records) or "none"
        is_waiting = count is not None and task.job <= count
        reason = "has not begun" if is_waiting else f"is no job of {folder}"
        raise ConfigError([Mistake(_JOB, f"{reason}. Those that have: {begun}", task.job)])
    path = sweep.run_dir(job)
    return _Target(RunDir.open(path), f"job {task.job}, {path}")


def _phase(run_dir: RunDir) -> Phase:
    """The phase at work, or the one that follows."""
    plan = run_dir.plan()
    return plan.chosen(plan.left(run_dir.manifest().get("phases", {})))[0]


def _check_state(target: _Target, verb: str) -> None:
    """:raises ConfigError: the run is over, or is what it is to be already."""
    status, asked = summarize(target.run_dir.path).status, target.journal.state()
    resume = f"ftlab resume {shlex.quote(str(target.run_dir.path))}"
    reason = None
    if status in ("finished", "failed", "unreadable"):
        more = "" if status == "finished" else f"; {resume} goes on with it"
        reason = f"cannot be done: {target.name} is {status}{more}"
    elif status == "stopped" or asked == "stopped":
        reason = f"cannot be done: {target.name} was stopped; {resume} trains it to the end after all"
    elif verb == "resume" and asked is None:
        reason = f"cannot be done: {target.name} is not paused, but {status}"
    elif verb == "pause" and asked == "paused":
        reason = f"cannot be done: {target.name} is paused already"
    if reason is not None:
        raise ConfigError([Mistake("task.verb", reason, verb)])


# --- clones ----------------------------------------------------------------------------------------------------------


def _clone(sweep: SweepDir, target: _Target, task: ControlTask) -> None:
    """:raises ConfigError: the sweep takes no new jobs, or this one cannot be."""
    job = _check_clonable(sweep, target, task)
    parent = target.run_dir.plan().phases[0].config
    with chdir(sweep_start_folder(sweep) or Path.cwd()):
        overrides = clone_overrides([*job.overrides, *_set_before(target.run_dir)], _encoded(task.changes))
        config = _composed(sweep, overrides)
    if mistakes := clone_mistakes(parent, config, task.changes, task.schedule, task.weights):
        raise ConfigError(mistakes)
    is_adapter = config.method.name == "lora"
    line = target.journal.append(
        "clone", overrides=overrides, changes=_encoded(task.changes), schedule=task.schedule, weights=task.weights,
        values={"lora.r": config.lora.r, "lora.alpha": config.lora.alpha} if is_adapter else {},
    )  # fmt: skip
    until = time.monotonic() + task.wait
    while (number := _clone_number(sweep, job.number, line)) is None and time.monotonic() < until:
        time.sleep(_PAUSE)
    if number is None:
        echo(f"{target.name} is asked for, and is cloned after the next step that it takes.")
        return
    clone = sweep.journal().clones[number]
    echo(f"job {number + 1} is {origin(clone)}: {' '.join(task.changes) or 'nothing changed'}")


def _check_clonable(sweep: SweepDir, target: _Target, task: ControlTask) -> JobRecord:
    """:raises ConfigError: there is nobody who would train it, or nothing that it could begin with."""
    reason = None
    if not is_sweep(sweep.path):
        reason = "is for a sweep, whose process trains the clone too"
        raise ConfigError([Mistake("task.verb", reason, "clone")])
    journal, place = sweep.journal(), shlex.quote(str(sweep.path))
    given = Arguments("train", ("-m", *journal.flags), journal.overrides)
    asked = sweeps.read(given)
    status = summarize(target.run_dir.path).status
    if not isinstance(asked.launcher, Shards | Gpus) or asked.space is not None:
        reason = "needs hydra/launcher=shards or gpus and Hydra's own sweeper, which take new jobs while they train"
    elif not is_held(sweep.path):
        reason = f"cannot be done: nobody is at work in {sweep.path}. Have it go on first: ftlab resume {place}"
    elif len(target.run_dir.plan().phases) > 1:
        reason = f"cannot be done: {target.name} has several phases"
    elif status == "finished" and (task.schedule, task.weights) == ("continue", "parent"):
        reason = f"cannot be done: {target.name} has taken all its steps; schedule=restart begins with its weights"
    if reason is not None:
        raise ConfigError([Mistake("task.verb", reason, "clone")])
    assert task.job is not None, "it is a job of the sweep"
    return sweep.records()[task.job - 1]


def _set_before(run_dir: RunDir) -> list[str]:
    """What was set while the run was at work, as overrides."""
    done = [Obeyed.model_validate(one) for one in run_dir.manifest().get("control", [])]
    values = {key: value for one in done for key, value in one.values.items()}  # the last counts
    return [f"{key}={value}" for key, value in values.items()]


def _encoded(changes: Sequence[str]) -> tuple[str, ...]:
    """As Hydra takes them."""
    return command_line.read(["train", *changes]).overrides


def _composed(sweep: SweepDir, overrides: Sequence[str]) -> Run:
    """The config of a job. :raises ConfigError: every mistake at once."""
    given = Arguments("train", sweep.journal().flags, tuple(overrides))
    loader, config_name = select_loader(given.config_dir, given.config_name)
    return validate(check(given), given.overrides, loader, config_name)


def _clone_number(sweep: SweepDir, parent: int, line: int) -> int | None:
    clones = sweep.journal().clones
    return next((number for number, one in clones.items() if (one.parent, one.line) == (parent, line)), None)


# --- what comes of it ------------------------------------------------------------------------------------------------


def _tell(folder: Path, target: _Target, verb: Verb, line: int, seconds: float) -> None:
    """Wait until the run has obeyed, and say what came of it; or that it is still to."""
    is_at_work = is_held(folder) or target.run_dir.is_locked
    go_on = f"ftlab resume {shlex.quote(str(folder))}"
    if verb == "resume":
        later = "" if is_at_work else f" Nobody is at work here; go on with: {go_on}"
        echo(f"{target.name} goes on.{later}")
        return
    until = time.monotonic() + seconds * is_at_work
    while (done := _obeyed(target.run_dir, line)) is None and time.monotonic() < until:
        time.sleep(_PAUSE)
    if done is not None:
        what = ", ".join(f"{key}={value:g}" for key, value in done.values.items())
        echo(f"{target.name} {_DONE[verb]} after step {done.step}{': ' * bool(what)}{what}")
    elif is_at_work:
        echo(f"{target.name} is asked to {verb}, and does so after the next step that it takes.")
    else:
        echo(f"{target.name} is not at work; it does so when it goes on. {go_on} has it go on.")


def _obeyed(run_dir: RunDir, line: int) -> Obeyed | None:
    done = [Obeyed.model_validate(one) for one in run_dir.manifest().get("control", [])]
    return next((one for one in done if one.line == line), None)


def _list(folder: Path, task: ControlTask) -> None:
    """The leaderboard, and below it what was asked for."""
    if is_sweep(folder):
        sweep = SweepDir(folder)
        board = read_sweep(sweep)
        runs = {f"job {number + 1}": sweep.run_dir(job) for number, job in sweep.records().items()}
    else:
        board, runs = read_runs([RunDir.open(folder).path], [()]), {str(folder): folder}
    to = Terminal(highlight=False, emoji=False)
    show(board, to)
    for name, path in runs.items():
        for told in _history(path):
            to.print(Text(f"{name}: {told}"), soft_wrap=True)


def _history(path: Path) -> list[str]:
    """What a run was asked for, and when it obeyed."""
    lines = []
    try:
        run_dir = RunDir.open(path)
        for number, command in enumerate(ControlJournal(path).read()):
            if command is None:
                continue
            done = _obeyed(run_dir, number)
            at = datetime.fromisoformat(command.time).strftime("%H:%M:%S")
            values = {} if command.verb == "clone" else command.values
            changes = [*command.changes, *(f"{key}={value:g}" for key, value in values.items())]
            what = " ".join([command.verb, *changes])
            lines.append(f"{what} at {at}, {'not yet' if done is None else f'after step {done.step}'}")
    except RunDirError as error:
        lines.append(str(error))
    return lines
