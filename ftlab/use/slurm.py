"""``ftlab slurm status|cancel``: the jobs that a sweep, or a single run, has in a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo, echo_json
from ftlab.errors import ConfigError, Mistake, RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.submission import Submission, SubmissionFiles
from ftlab.rundir.sweep import SweepDir, is_sweep
from ftlab.schema import Run, SlurmTask
from ftlab.slurm import commands
from ftlab.slurm.outcome import failure, log_file


def slurm(run: Run, overrides: Sequence[str]) -> None:
    """Print the jobs of ``run.dir``, or cancel those that have not ended.

    :raises ConfigError: it is neither sweep nor run. :raises NotReadyError: Slurm is not installed, or does not answer.
    """
    assert isinstance(run.task, SlurmTask)
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "is missing: ftlab slurm status outputs/my-sweep")])
    folder = Path(run.run.dir).expanduser()
    jobs = [(name, path, job) for name, path in _runs(folder) if (job := SubmissionFiles(path).read()) is not None]
    is_json = run.task.format == "json"
    if is_json and run.task.action == "status":
        rows = [{"run": name, "folder": str(path), **one} for name, path, one in (_states(jobs) if jobs else ())]
        echo_json({"folder": str(folder), "jobs": rows, "logs": _logs(jobs)})
    elif not jobs and is_json:
        echo_json({"folder": str(folder), "cancelled": []})
    elif not jobs:
        echo(f"{folder} has no jobs in a cluster. hydra/launcher=slurm submits some.")
    elif run.task.action == "cancel":
        _cancel(folder, [job for _, _, job in jobs], is_json)
    else:
        _show(folder, jobs)


def _runs(folder: Path) -> list[tuple[str, Path]]:
    """What tells each run from the others, and its directory."""
    if not is_sweep(folder):
        try:
            return [(folder.name, RunDir.open(folder).path)]
        except RunDirError:
            # A run that failed before it had measured anything has left only the record of its job.
            if SubmissionFiles(folder).read() is not None:
                return [(folder.name, folder)]
            reason = "is neither a sweep nor a run: ftlab slurm status outputs/my-sweep"
            raise ConfigError([Mistake("run.dir", reason, str(folder))]) from None
    sweep = SweepDir(folder)
    journal = sweep.journal()
    return [
        (" ".join([str(number + 1), *journal.changed(job.overrides)]), sweep.run_dir(job))
        for number, job in sweep.records().items()
    ]


def _cancel(folder: Path, jobs: Sequence[Submission], is_json: bool) -> None:
    states = commands.states(job.job for job in jobs)
    active = [*dict.fromkeys(job.job for job in jobs if job.job in states and states[job.job].is_active)]
    if active:
        commands.cancel(active)
    if is_json:
        echo_json({"folder": str(folder), "cancelled": active})
        return
    if not active:
        echo(f"No job of {folder} is in the queue.")
        return
    echo(
        f"Cancelled {' '.join(active)}. What they have saved stays; go on with: ftlab resume {shlex.quote(str(folder))}"
    )


def _states(jobs: Sequence[tuple[str, Path, Submission]]) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """Of each run its job, the state of that, and where it is or why it failed."""
    states = commands.states(job.job for _, _, job in jobs)
    for name, path, job in jobs:
        state = states.get(job.job)
        problem = failure(path, job, state)
        is_active = state is not None and state.is_active  # with other runs, perhaps
        if state is not None and is_active and problem is not None and job.failures.read(path) is None:
            word = state.word + (f", start {state.restarts + 1}" if state.restarts else "")
            yield name, path, {"job": job.job, "state": word, "detail": state.node or state.reason}
        else:
            ended = "failed" if is_active else state.word if state is not None else "ended"
            detail = " ".join((problem or "").splitlines()[:1])
            yield name, path, {"job": job.job, "state": "finished" if problem is None else ended, "detail": detail}


def _logs(jobs: Sequence[tuple[str, Path, Submission]]) -> list[str]:
    return sorted({str(log_file(job).parent) for _, _, job in jobs})


def _show(folder: Path, jobs: Sequence[tuple[str, Path, Submission]]) -> None:
    table = Table(title=Text(f"jobs of {folder}"), title_justify="left")
    for column in ("run", "job", "state", "where, or why not"):
        table.add_column(column, overflow="fold")
    for name, _, one in _states(jobs):
        table.add_row(*map(Text, (name, one["job"], one["state"], one["detail"])))
    to = Terminal(highlight=False, emoji=False)
    to.print(table)
    to.print(Text(f"Logs: {' '.join(_logs(jobs))}"), soft_wrap=True)
