"""A sweep: its journal, each of its jobs, and how they compare.

A launcher has :func:`run_job` called for each job, in whatever process; what it must know of the others lies in the
sweep's folder.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.numbers import readable
from ftlab.base.terminal import echo, echo_error
from ftlab.config import sweeps
from ftlab.config.command_line import Arguments
from ftlab.engine import submission, tasks
from ftlab.engine.finished import remarks_on_finished
from ftlab.engine.summary import next_lines
from ftlab.errors import FtlabError, Interrupted, RunDirError
from ftlab.planning import make_plan
from ftlab.preflight.directory import how_to_go_on, resume_command
from ftlab.rundir import summary
from ftlab.rundir.claim import claim, named_folder
from ftlab.rundir.compare import lower_is_better
from ftlab.rundir.directory import RunDir
from ftlab.rundir.lock import RunLock, is_held
from ftlab.rundir.sweep import (
    JobRecord,
    Journal,
    SweepDir,
    changed_overrides,
    is_same,
    is_sweep,
    unfinished_sweeps,
)
from ftlab.schema import Run
from ftlab.slurm.options import Options

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
    sweep, is_new = _folder(asked)
    with RunLock(sweep.path, make=True):
        if is_new:
            journal = Journal(
                overrides=given.overrides, flags=tuple(given.single_flags), folder=str(Path.cwd()), jobs=asked.jobs
            )
            sweep.write(journal)
        else:
            done, jobs = len(sweep.finished()), sweep.jobs() or ()
            another = "" if asked.is_chosen else ". run.if_exists=new starts another"
            sweep.write(sweep.journal().model_copy(update={"overrides": given.overrides}))  # of hydra.* the newer
            echo(f"Going on with {sweep.path}: {done} of {len(jobs)} jobs are finished{another}")
        try:
            start(sweeps.in_folder(given, sweep.path, is_new).for_hydra)
        except KeyboardInterrupt:  # between two jobs
            raise Interrupted(f"Interrupted. {how_to_go_on(sweep)}") from None
    return report(sweep)


def _folder(asked: sweeps.Sweep) -> tuple[SweepDir, bool]:
    """The folder of a sweep, and whether it begins there."""
    if asked.is_chosen and is_sweep(asked.path):
        sweep = SweepDir(asked.path)
        if is_same(sweep.jobs(), asked.jobs):
            return sweep, False
        ours, theirs = sweep.jobs(), asked.jobs
        there, here = (f"{len(jobs)} jobs" if jobs else "jobs that its sweeper chooses" for jobs in (ours, theirs))
        first = next((pair for pair in zip(ours or (), theirs or ()) if sorted(pair[0]) != sorted(pair[1])), None)
        differs = f"; the first that differs is {' '.join(first[0])} there, {' '.join(first[1])} here" if first else ""
        raise RunDirError(
            f"{asked.path} holds another sweep: {there} there, {here} here{differs}. Give another folder with "
            "hydra.sweep.dir=FOLDER, or leave it out."
        )
    if asked.is_chosen:
        return SweepDir(asked.path), True
    if not asked.wants_new and asked.jobs is not None:
        for sweep in unfinished_sweeps(asked.path.parent, asked.jobs):
            if not is_held(sweep.path):
                return sweep, False
    path, number = asked.path, 2
    while path.exists():  # of a sweep that began in the same second
        path, number = asked.path.with_name(f"{asked.path.name}-{number}"), number + 1
    return SweepDir(path), True


# --- one job ---------------------------------------------------------------------------------------------------------


def run_job(place: sweeps.Place, cfg: Any, of_hydra: Any) -> None:
    """Train one job, unless it is finished. What fails is told once, and written down; the other jobs go on.

    :param cfg: as Hydra composed it. :param of_hydra: Hydra's own node of it.
    :raises Interrupted: it was stopped.
    """
    attempt(place, cfg, of_hydra, _train)


def prepare_job(
    place: sweeps.Place, cfg: Any, of_hydra: Any, trains: Any, options: Any
) -> tuple[JobRecord, Any] | None:
    """Make one job's run directory, to be trained in later; None where it is finished or cannot run.

    :param trains: the module that does; its ``prepare`` is called here. :param options: of the launcher.
    """
    return attempt(place, cfg, of_hydra, partial(trains.prepare, options=options))


def run_prepared(sweep: SweepDir, jobs: Sequence[tuple[JobRecord, Any]], trains: Any, options: Any) -> None:
    """Let the jobs of a sweep be trained, wait for them, and write down why one failed.

    :raises Interrupted: it was stopped, or the user no longer waits.
    """

    def failed(index: int, why: str) -> None:
        sweep.record(jobs[index][0].model_copy(update={"error": why}))

    trains.train_all([one for _, one in jobs], options, sweep, failed)


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
    sweep, jobs = place.sweep, place.sweep.jobs()
    title = job_title(place.number, place.overrides, jobs)
    job = JobRecord(number=place.number, overrides=place.overrides, directory=sweep.relative(place.directory))
    try:
        config, overrides = sweeps.prepare(cfg, of_hydra)
        directory = _directory(config, place.directory)
        job = job.model_copy(update={"directory": sweep.relative(directory)})
        if sweep.is_finished(job):
            with claim(make_plan(config, overrides)) as run_dir:  # what is there must be what is asked for
                echo(f"{title}: finished already, in {directory}")
                for line in remarks_on_finished(run_dir):
                    echo(line)
            sweep.record(job)
            return None
        sweep.record(job)
        return job, work(title, config, overrides)
    except Interrupted as error:
        raise type(error)(f"Interrupted in {title}. {how_to_go_on(sweep)}") from None
    except FtlabError as error:
        echo_error(f"{title} failed:\n{error}")
        sweep.record(job.model_copy(update={"error": str(error)}))
    except (Exception, SystemExit) as error:  # a user's reward may call sys.exit
        echo_error(f"{title} failed:\n{traceback.format_exc()}")
        sweep.record(job.model_copy(update={"error": f"{type(error).__name__}: {error}"}))
    return None


def job_title(number: int, overrides: Sequence[str], jobs: Sequence[Sequence[str]] | None) -> str:
    """``job 2 of 4: lora.r=16``."""
    of = f" of {len(jobs)}" if jobs is not None else ""
    known = None if jobs is None else tuple(tuple(job) for job in jobs)
    changed = " ".join(changed_overrides(overrides, known))
    return f"job {number + 1}{of}" + (f": {changed}" if changed else "")


def _directory(config: Run, otherwise: Path) -> Path:
    return named_folder(config.run) or otherwise


# --- how they compare ------------------------------------------------------------------------------------------------


def report(sweep: SweepDir) -> int:
    """Print what became of every job, the best first. Return 1 where one failed, else 0."""
    records, jobs = sweep.records(), sweep.jobs()
    runs = {number: _summary(sweep, job) for number, job in records.items()}
    measure = next((run.main for run in runs.values() if run.main is not None), None)
    order = sorted(records, key=lambda number: _place(runs[number], measure))
    table = Table(title=f"sweep {escape(str(sweep.path))}", title_justify="left")
    columns = ["job", "overrides", "status", "train loss"]
    columns += [measure.removeprefix(summary.VALIDATION)] if measure else []
    columns += ["golden"] if any(summary.GOLDEN in run.after for run in runs.values()) else []
    columns += ["folder"]
    for name in columns:
        table.add_column(
            f"validation\n{name}" if measure and name == measure.removeprefix(summary.VALIDATION) else name,
            justify="left" if name in ("overrides", "status", "folder") else "right", overflow="fold",
        )  # fmt: skip
    best = order[0] if order and measure is not None and measure in runs[order[0]].after and len(order) > 1 else None
    for number in order:
        job, run = records[number], runs[number]
        loss = summary.last_loss(run.path)
        cells = [str(number + 1), " ".join(changed_overrides(job.overrides, jobs)), run.status]
        cells += ["-" if loss is None else readable(loss)]
        cells += [_cell(run.after, measure)] if measure else []
        cells += [_cell(run.after, summary.GOLDEN)] if "golden" in columns else []
        cells += [job.directory]
        table.add_row(*map(Text, cells), style="bold" if number == best else None)
    to = Terminal(highlight=False, emoji=False)
    to.print()
    to.print(table)
    if best is not None:
        place = os.path.normpath(sweep.run_dir(records[best]))
        label = job_title(best, records[best].overrides, jobs)
        to.print(Text(f"Best by {measure}: {label}, in {place}"), soft_wrap=True)
        with suppress(RunDirError):  # a run.yaml that is damaged by now; the table stands without it
            for line in next_lines(Path(place), RunDir(Path(place)).plan()):
                to.print(line, soft_wrap=True)
    failed = [number for number, run in runs.items() if run.status != "finished" and records[number].error is not None]
    left = len(jobs) - len(records) if jobs is not None else 0
    for number in failed:
        problem = (records[number].error or "").strip().splitlines()
        to.print(Text(f"job {number + 1} failed: {' '.join(problem[:2])}"), soft_wrap=True)
    if failed or left or any(run.status != "finished" for run in runs.values()):
        to.print(Text(f"What is not finished goes on with: {resume_command(sweep)}"), soft_wrap=True)
    return 1 if failed else 0


def _summary(sweep: SweepDir, job: JobRecord) -> summary.Summary:
    found = summary.summarize(sweep.run_dir(job))
    if found.status != "finished" and job.error is not None:
        return replace(found, status="failed")
    return found


def _place(run: summary.Summary, measure: str | None) -> tuple[int, float]:
    """Better ones first; those without a value, or with one that is no number, last."""
    value = run.after.get(measure) if measure is not None and run.status == "finished" else None
    if value is None or value != value:
        return (1, 0.0)
    return (0, value if measure is not None and lower_is_better(measure) else -value)


def _cell(values: dict[str, float], measure: str) -> str:
    return readable(values[measure], measure) if measure in values else "-"
