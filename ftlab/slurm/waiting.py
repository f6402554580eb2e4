"""Waiting for jobs of a cluster: what changes is told, and who waits no longer may leave them or cancel them."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftlab.base.terminal import echo, echo_error
from ftlab.errors import Interrupted, NotReadyError
from ftlab.rundir.submission import Submission
from ftlab.slurm import commands
from ftlab.slurm.commands import JobState

_SHORTEST, _LONGEST = 0.5, 10.0  # seconds between two questions to Slurm, which is asked less and less
_GROWTH = 1.2
_GRACE = 10.0  # seconds in which a shared file system may still bring what an ended job has written

Jobs = Sequence[tuple[str, Submission]]


@dataclass(frozen=True)
class Waited:
    """How a job ended. :param failure: why its run is not finished; None where it is."""

    failure: str | None


def wait(jobs: Jobs, failure: Callable[[int, JobState | None], str | None], name: Path) -> list[Waited | None]:
    """Wait until every job has ended.

    :param jobs: title and job of each. :param failure: why the run of the job at a place in ``jobs`` is not finished.
    :param name: the sweep or run that they are jobs of. :raises Interrupted: the user no longer waits.
    """
    watch = _Watch(jobs, failure)
    pause = _SHORTEST
    while True:
        try:
            while watch.are_left():
                watch.ask()
                pause = min(pause * _GROWTH, _LONGEST)
                time.sleep(pause if watch.are_left() else 0)
            return watch.results()
        except KeyboardInterrupt:
            _leave(watch, name)
            pause = _SHORTEST


def _leave(watch: _Watch, name: Path) -> None:
    """Let the user choose between detaching and cancelling. :raises Interrupted: detached, or nobody there to ask."""
    ids = watch.active_jobs()
    place = shlex.quote(str(name))
    count = f"{len(ids)} job{'s' * (len(ids) != 1)}"
    left = (
        f"No longer waiting; {count} stay{'s' * (len(ids) == 1)} in the queue. See with: ftlab slurm status {place}"
        f"\nCancel them with: ftlab slurm cancel {place}\nWait for them again with: ftlab resume {place}"
    )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Interrupted(left)
    try:
        answer = input(
            f"\n{count} in the queue. Detach and leave them there [D], cancel them [c], or go on waiting [w]? "
        )
    except (KeyboardInterrupt, EOFError):
        raise Interrupted(left) from None
    if answer.strip().lower().startswith("w"):
        return
    if not answer.strip().lower().startswith("c"):
        raise Interrupted(left)
    commands.cancel(ids)
    echo(f"Cancelled {count}.")


class _Watch:
    """The states of the jobs, as they were last told."""

    def __init__(self, jobs: Jobs, failure: Callable[[int, JobState | None], str | None]):
        self._jobs, self._failure = jobs, failure
        self._told: dict[int, str] = {}
        self._restarts: dict[int, int] = {}
        self._ended: dict[int, Waited] = {}
        self._gone: dict[int, float] = {}  # since when a job is in no queue any more
        self._counts: Counter[str] = Counter()
        self._is_silent = False

    def are_left(self) -> bool:
        return len(self._ended) < len(self._jobs)

    def results(self) -> list[Waited | None]:
        return [self._ended[index] for index in range(len(self._jobs))]

    def active_jobs(self) -> list[str]:
        """Their ids, each once: several runs may be of one job."""
        left = (job.job for index, (_, job) in enumerate(self._jobs) if index not in self._ended)
        return [*dict.fromkeys(left)]

    def ask(self) -> None:
        """Ask Slurm once, and tell what has changed. A controller that is away is waited for."""
        try:
            states = commands.states(self.active_jobs())
        except NotReadyError as error:
            if not self._is_silent:
                echo_error(f"{error}\nThe jobs are not touched by that; waiting for it to answer.")
            self._is_silent = True
            return
        self._is_silent = False
        for index, (title, job) in enumerate(self._jobs):
            if index not in self._ended:
                self._look(index, title, states.get(job.job))
        counts = Counter(self._told.values())
        if counts != self._counts:
            self._counts = counts
            if len(self._jobs) > 1:
                echo(f"{counts['pending']} pending, {counts['running']} running, {counts['done']} done")

    def _look(self, index: int, title: str, state: JobState | None) -> None:
        if state is not None and state.is_active:
            self._gone.pop(index, None)
            if self._is_done_in_turns(index, title, state):
                return
            now = "pending" if state.is_waiting else "running"
            if (self._told.get(index), self._restarts.get(index, 0)) != (now, state.restarts):
                begun = f", start {state.restarts + 1}" if state.restarts else ""
                where = f" on {state.node}" if now == "running" else f" ({state.reason})" if state.reason else ""
                echo(f"{title}: {now}{where}{begun}")
            self._told[index], self._restarts[index] = now, state.restarts
            return
        problem = self._failure(index, state)
        gone = self._gone.setdefault(index, time.monotonic())
        if problem is not None and self._jobs[index][1].exit_code is None and time.monotonic() < gone + _grace(state):
            return
        self._ended[index] = Waited(problem)
        if problem is not None:
            echo_error(f"{title}: failed\n{problem}")
        elif self._told.get(index) != "done":
            echo(f"{title}: finished")
        self._told[index] = "done"

    def _is_done_in_turns(self, index: int, title: str, state: JobState) -> bool:
        """Whether a run is finished whose job goes on with others, which is told once."""
        if self._told.get(index) != "done":
            job = self._jobs[index][1].job
            is_shared = sum(other.job == job for _, other in self._jobs) > 1
            if not is_shared or self._failure(index, state) is not None:
                return False
            echo(f"{title}: finished")
            self._told[index] = "done"
        return True


def _grace(state: JobState | None) -> float:
    """A job that was ended from without writes nothing; of one that ended of itself the file may be late."""
    return _GRACE if state is None or state.word in ("COMPLETED", "FAILED") else 0.0
