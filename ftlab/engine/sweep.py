"""A sweep: its journal, each of its jobs, and how they compare.

A launcher has :func:`run_job` called for each job, in whatever process; what it must know of the others lies in the
sweep's folder.
"""

from __future__ import annotations

import math
import os
import shlex
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo, echo_error
from ftlab.config import sweeps
from ftlab.config.command_line import Arguments
from ftlab.engine import clones, study, submission, sweep_folder, tasks
from ftlab.engine.finished import remarks_on_finished
from ftlab.engine.summary import next_lines
from ftlab.engine.work import Listed, Prepared
from ftlab.errors import FtlabError, Interrupted, RunDirError
from ftlab.preflight.choices import make_fitting_plan
from ftlab.preflight.directory import how_to_go_on, resume_command
from ftlab.rundir import leaderboard, leaderboard_table, summary
from ftlab.rundir.claim import claim, named_folder
from ftlab.rundir.compare import pareto_front
from ftlab.rundir.control import STOPPED, obeyed_state
from ftlab.rundir.directory import RunDir
from ftlab.rundir.lock import RunLock
from ftlab.rundir.sweep import JobRecord, Journal, Objective, SweepDir, is_same
from ftlab.schema import Run
from ftlab.schema.launchers import Gpus
from ftlab.slurm.options import Options

_TRAIN_LOSS = "loss"  # in a line of training
_ResultT = TypeVar("_ResultT")


def run(given: Arguments, start: Callable[[list[str]], None]) -> int:
    """Run a sweep, or go on with the one of the same jobs that is not done. Return the exit code.

    :param start: lets Hydra run a command line.
    :raises Interrupted: it was stopped; what goes on with it is said.
    :raises RunDirError: the folder that was asked for holds another sweep, or a process is at work in it.
    """
    asked = sweeps.read(given)
    if isinstance(asked.launcher, Options):
        submission.check_ready(asked.launcher)
    if asked.space is not None and (lines := study.check(asked.space, asked.config)) is not None:
        sweeps.check_job(given, lines)
    sweep, journal = sweep_folder.find(asked)
    is_new = journal is None
    with RunLock(sweep.path, make=True):
        if journal is not None:
            done, count, before = len(sweep.finished()), journal.count or 0, sweep.journal().count or 0
            added = f", {count - before} new" if count > before else ""
            another = "" if asked.named else ". run.if_exists=new starts another"
            echo(f"Going on with {sweep.path}: {done} of {count} jobs are finished{added}{another}")
            if not isinstance(asked.launcher, Gpus | Options) and (killed := _at_work(sweep)):
                echo(_killed_line(killed))
        journal = journal if journal is not None else asked.journal
        sweep.write(journal)
        try:
            is_in_order = journal.jobs is None or is_same(journal.jobs, asked.journal.jobs)
            start(sweeps.in_folder(given, sweep.path, is_new, is_in_order).for_hydra)
        except KeyboardInterrupt:  # between two jobs
            raise Interrupted(f"Interrupted. {how_to_go_on(sweep)}") from None
    return report(sweep)


def _at_work(sweep: SweepDir) -> list[int]:
    """The numbers of the jobs that were at work when the process of the sweep was killed."""
    paths = {number: sweep.run_dir(job) for number, job in sweep.records().items() if job.stopped is None}
    return [number for number, path in paths.items() if summary.summarize(path).status == "killed"]


def _killed_line(numbers: Sequence[int]) -> str:
    named = ", ".join(str(number + 1) for number in numbers)
    jobs = f"jobs {named} were" if len(numbers) > 1 else f"job {named} was"
    return (
        f"The process was killed while {jobs} at work. If a config does that to its process, add hydra/launcher=gpus: "
        "each has one of its own then, and the others go on."
    )


# --- one job ---------------------------------------------------------------------------------------------------------


def run_job(place: sweeps.Place, cfg: Any, of_hydra: Any) -> None:
    """Train one job, unless it is finished. What fails is told once, and written down; the other jobs go on.

    :param cfg: as Hydra composed it. :param of_hydra: Hydra's own node of it.
    :raises Interrupted: it was stopped.
    """
    attempt(place, cfg, of_hydra, _train)


def prepare_job(
    place: sweeps.Place, cfg: Any, of_hydra: Any, trains: Any, options: Any
) -> tuple[JobRecord, Prepared] | None:
    """Make one job's run directory, to be trained in later; None where it is finished or cannot run.

    :param trains: the module that does; its ``prepare`` is called here. :param options: of the launcher.
    """
    return attempt(place, cfg, of_hydra, partial(trains.prepare, options=options))


def listed(sweep: SweepDir, jobs: Sequence[tuple[JobRecord, Prepared]]) -> Listed[Prepared]:
    """The jobs of a sweep that are known beforehand. Why one failed is written down."""
    records = {run.path: job for job, run in jobs}

    def record(run: Prepared, **why: str) -> None:
        sweep.record(records[run.path].model_copy(update=why))

    return Listed([run for _, run in jobs], record)


def _train(title: str, run: Run, overrides: Sequence[str]) -> None:
    echo(f"\n{title}")
    tasks.train(run, overrides)


def attempt(
    place: sweeps.Place, cfg: Any, of_hydra: Any, work: Callable[[str, Run, Sequence[str]], _ResultT]
) -> tuple[JobRecord, _ResultT] | None:
    """Do the work of one job, unless it is finished. What fails is told once, and written down.

    :param work: takes the title of the job, its run and its overrides.
    :return: the record of the job, and what its work returned; None where there is nothing to do or it failed.
    """
    sweep = place.sweep
    title = job_title(place.number, place.overrides, sweep.journal())
    job = JobRecord(number=place.number, overrides=place.overrides, directory=sweep.relative(place.directory))
    try:
        config, overrides = sweeps.prepare(cfg, of_hydra)
        directory = _directory(config, place.directory)
        job = job.model_copy(update={"directory": sweep.relative(directory)})
        if sweep.is_finished(job):
            with claim(make_fitting_plan(config, overrides)) as run_dir:  # what is there must be what is asked for
                echo(f"{title}: finished already, in {directory}")
                for line in remarks_on_finished(run_dir):
                    echo(line)
            sweep.record(job)
            return None
        earlier = sweep.records().get(place.number)
        if earlier is not None and earlier.stopped is not None:
            echo(f"{title}: was stopped early, in {directory}: {earlier.stopped}")
            return None
        sweep.record(job)
        if (clone := sweep.journal().clones.get(place.number)) is not None:
            clones.begin(sweep, place.number, clone, tasks.prepare(config, overrides))
        return job, work(title, config, overrides)
    except Interrupted as error:
        if (state := obeyed_state(sweep.run_dir(job))) is not None:  # the others go on
            echo(f"{title}: {error}")
            sweep.record(job.model_copy(update={"stopped": STOPPED if state == "stopped" else None}))
            return None
        raise type(error)(f"Interrupted in {title}. {how_to_go_on(sweep)}") from None
    except FtlabError as error:
        echo_error(f"{title} failed:\n{error}")
        sweep.record(job.model_copy(update={"error": str(error)}))
    except (Exception, SystemExit) as error:  # a user's reward may call sys.exit
        echo_error(f"{title} failed:\n{traceback.format_exc()}")
        sweep.record(job.model_copy(update={"error": f"{type(error).__name__}: {error}"}))
    return None


def job_title(number: int, overrides: Sequence[str], journal: Journal) -> str:
    """``job 2 of 4: lora.r=16``."""
    of = f" of {journal.count}" if journal.count is not None else ""
    changed = " ".join(journal.changed(overrides))
    return f"job {number + 1}{of}" + (f": {changed}" if changed else "")


def _directory(config: Run, otherwise: Path) -> Path:
    return named_folder(config.run) or otherwise


# --- how they compare ------------------------------------------------------------------------------------------------


def report(sweep: SweepDir) -> int:
    """Print what became of every job, the best first. Return 1 where one failed, else 0."""
    board, journal = leaderboard.read_sweep(sweep), sweep.journal()
    to = Terminal(highlight=False, emoji=False)
    to.print()
    leaderboard_table.show(board, to)
    if len(journal.objectives) > 1:
        _tell_front(to, sweep, journal.objectives)
    elif (line := leaderboard_table.best_line(board)) is not None and board.best is not None:
        place = Path(os.path.normpath(board.best.path or sweep.path))
        to.print(Text(line), soft_wrap=True)
        with suppress(RunDirError):  # a run.yaml that is damaged by now; the table stands without it
            for line in next_lines(place, RunDir(place).plan()):
                to.print(line, soft_wrap=True)
    for line in leaderboard_table.problems(board):
        to.print(Text(line), soft_wrap=True)
    for entry in (entry for entry in board.entries if entry.state == "paused"):
        resume = f"ftlab control {shlex.quote(str(sweep.path))} resume {entry.number + 1}"
        line = f"job {entry.number + 1} is paused; {resume} lets it go on"
        to.print(Text(line), soft_wrap=True)
    has_failed = any(entry.state == "failed" for entry in board.entries)
    if not sweep.is_done(journal):
        to.print(Text(f"What is not finished goes on with: {resume_command(sweep)}"), soft_wrap=True)
    elif has_failed:  # of a search, which leaves a trial that has failed behind
        to.print(Text("The same command with a higher hydra.sweeper.n_trials adds more."), soft_wrap=True)
    return 1 if has_failed else 0


def _tell_front(to: Terminal, sweep: SweepDir, objectives: Sequence[Objective]) -> None:
    """Of several objectives, every job that may be meant by the best: no other is as good in all of them."""
    journal, records = sweep.journal(), sweep.records()
    values = {number: _values(sweep, job, objectives) for number, job in records.items()}
    known = {number: row for number, row in values.items() if row is not None}
    front = pareto_front(known, [one.direction == "minimize" for one in objectives])
    if not front or len(records) == 1:
        return
    by = " and ".join(summary.label(one.measure) for one in objectives)
    to.print(Text(f"Best by {by}, none as good in all as another (Pareto front):"), soft_wrap=True)
    sign = 1 if objectives[0].direction == "minimize" else -1
    for number in sorted(front, key=lambda number: sign * known[number][0]):
        place = os.path.normpath(sweep.run_dir(records[number]))
        to.print(Text(f"  {job_title(number, records[number].overrides, journal)}, in {place}"), soft_wrap=True)


def _values(sweep: SweepDir, job: JobRecord, objectives: Sequence[Objective]) -> list[float] | None:
    """By objective; None where one of them is not there, or is no number."""
    run = summary.summarize(sweep.run_dir(job))
    found = [summary.value_of(run, one.measure) for one in objectives]
    numbers = [value for value in found if value is not None and not math.isnan(value)]
    return numbers if len(numbers) == len(objectives) else None
