"""The jobs of a sweep that are chosen on the way: asked for, launched, and told of by what their runs have come to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ftlab.base.terminal import echo, echo_error
from ftlab.config import search, sweeps
from ftlab.engine.study import Study
from ftlab.engine.work import Prepared, Work
from ftlab.errors import ConfigError, RunDirError, first_line
from ftlab.rundir import summary
from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import JobRecord, Journal, SweepDir

# Of a launcher: the overrides of each job, and the number of the first.
Launch = Callable[[Sequence[Sequence[str]], int], Any]
# Of a job: its number and overrides -> its record and its run; None where there is nothing to train.
Prepare = Callable[[int, Sequence[str]], "tuple[JobRecord, Prepared] | None"]
_Proposal = tuple[int, tuple[str, ...]]


def run_trials(
    config: Any,
    arguments: Sequence[str],
    launch: Launch,
    train: Callable[[Callable[[Prepare], Proposals]], None] | None,
) -> None:
    """Run trials until there are as many as are wanted, or too many of them have failed.

    :param config: the whole config of the sweep, with Hydra's node. :param arguments: overrides of its jobs.
    :param launch: trains some jobs and waits for all of them. :param train: of a launcher that takes jobs while it
        trains others; None: whatever is proposed together is launched together.
    """
    sweep = SweepDir(Path(config.hydra.sweep.dir))
    journal, space = sweep.journal(), search.read(config.hydra, arguments)
    assert journal.search is not None, "it is written before the first job"
    study = Study(space, journal.objectives, config, sweep.study(), journal.search.id)
    trials = Trials(study, sweep, journal, space)
    for number, _ in study.running():  # of an earlier start
        trials.settle(number)
    if train is not None:
        _refill(trials, train)
    else:
        _launch_batches(trials, launch)
    trials.tell_failures()


def _launch_batches(trials: Trials, launch: Launch) -> None:
    while not trials.has_failed and (batch := trials.next_batch()):
        for numbers in _consecutive(batch):
            trials.launch(numbers, launch)
        over = [trials.settle(number) for number, _ in batch]
        if not all(over):
            return  # as where only scripts are written


def _refill(trials: Trials, train: Callable[[Callable[[Prepare], Proposals]], None]) -> None:
    """:raises ConfigError: the study cannot go on. What was at work then has ended."""
    sources: list[Proposals] = []

    def proposals(prepare: Prepare) -> Proposals:
        sources.append(Proposals(trials, prepare))
        return sources[0]

    if not trials.has_failed and trials.is_left:
        train(proposals)
        if (error := sources[0].error) is not None:
            raise error


@dataclass(frozen=True)
class Trials:
    """:param study: of the sweep. :param journal: of the sweep, as it is asked for now."""

    study: Study
    sweep: SweepDir
    journal: Journal
    space: search.Space

    @property
    def is_left(self) -> bool:
        """Whether there is a trial that is not over, or to be asked for."""
        return self.study.count < self.space.trials or bool(self.study.running())

    def next_batch(self) -> list[_Proposal]:
        """The trials that are to run now: those that an earlier start did not finish, and new ones. Only together they
        are a batch, so that proposals do not depend on where a sweep was stopped."""
        batch, wanted, size = self.study.running(), self.space.trials, self.space.options.n_jobs
        while (count := self.study.count) < wanted and len(batch) < size and not (batch and count % size == 0):
            batch.append(self.study.ask())
        return batch

    def launch(self, batch: Sequence[_Proposal], launch: Launch) -> None:
        """Run trials whose numbers follow each other. One that cannot even begin has failed."""
        try:
            launch([overrides for _, overrides in batch], batch[0][0])
        except Exception as error:
            begun = self.sweep.records()
            for number, overrides in batch:
                if number not in begun:
                    self.record_failure(number, overrides, error)

    def record_failure(self, number: int, overrides: Sequence[str], error: Exception) -> None:
        """Write down that a trial could not even begin."""
        why, there = f"{type(error).__name__}: {first_line(error)}", self.sweep.records().get(number)
        directory = there.directory if there is not None else str(number)
        self.sweep.record(
            JobRecord(number=number, overrides=sweeps.identity(overrides), directory=directory, error=why)
        )
        echo_error(f"job {number + 1} failed: {why}")

    def settle(self, number: int) -> bool:
        """Tell the study what a trial has come to. :return: whether it is over."""
        job = self.sweep.records().get(number)
        if job is None:
            return False
        run = summary.summarize(self.sweep.run_dir(job))
        if job.stopped is not None:
            self.study.stop(number, self._last_measured(self.sweep.run_dir(job)))
            return True
        if run.status != "finished":
            if job.error is not None:
                self.study.tell(number, None)
            return job.error is not None
        values = {one.measure: summary.value_of(run, one.measure) for one in self.journal.objectives}
        if wrong := [name for name, value in values.items() if value is None or math.isnan(value)]:
            what = "was not measured" if values[wrong[0]] is None else "is no number"
            echo(f"job {number + 1} counts as failed: {summary.label(wrong[0])} {what}")
            self.study.tell(number, None)
        else:
            self.study.tell(number, [value for value in values.values() if value is not None])
        return True

    def _last_measured(self, path: Path) -> tuple[int, float] | None:
        """The step at which a run has logged the objective last, and the value."""
        try:
            lines = [line for line in RunDir(path).read_metrics() if self.journal.objectives[0].measure in line]
        except RunDirError:  # which its run tells
            return None
        return (lines[-1]["step"], float(lines[-1][self.journal.objectives[0].measure])) if lines else None

    @property
    def has_failed(self) -> bool:
        """Whether more trials have failed than are allowed to."""
        return len(self.study.failed) > self.space.options.max_failure_rate * self.space.trials

    def tell_failures(self) -> None:
        """Say so where there are too many."""
        if self.has_failed:
            failed, wanted, allowed = len(self.study.failed), self.space.trials, self.space.options.max_failure_rate
            told = (
                f"{failed} of {wanted} trials have failed, more than {search.NODE}.max_failure_rate={allowed:g} allows"
            )
            echo_error(f"The sweep ends here: {told}. The same command with a higher rate goes on.")


class Proposals(Work[Prepared]):
    """The trials of a search, so many at a time: whenever one has ended, the study is told of it and asked for another.

    :param prepare: makes the run of a trial. :ivar error: why the study cannot go on.
    """

    def __init__(self, trials: Trials, prepare: Prepare):
        self._trials, self._prepare = trials, prepare
        self._begun = deque(trials.study.running())  # by an earlier start, which did not come to their end
        self._count = len(self._begun) + trials.space.trials - trials.study.count
        self._jobs: dict[Path, JobRecord] = {}
        self.error: ConfigError | None = None

    @property
    def is_open(self) -> bool:
        left = bool(self._begun) or self._trials.study.count < self._trials.space.trials
        return left and self.error is None and not self._trials.has_failed

    @property
    def count(self) -> int:
        return self._count

    def take(self, active: int) -> list[Prepared]:
        runs: list[Prepared] = []
        while active + len(runs) < self._trials.space.options.n_jobs and self.is_open:
            if (proposal := self._next()) is not None and (job := self._job(*proposal)) is not None:
                record, run = job
                self._jobs[run.path] = record
                runs.append(run)
        return runs

    def _next(self) -> _Proposal | None:
        """None where the study cannot go on."""
        if self._begun:
            return self._begun.popleft()
        try:
            return self._trials.study.ask()
        except ConfigError as error:
            self.error = error
            return None

    def _job(self, number: int, overrides: Sequence[str]) -> tuple[JobRecord, Prepared] | None:
        """None where there is nothing to train, which the study is told."""
        try:
            job = self._prepare(number, overrides)
        except Exception as error:
            self._trials.record_failure(number, overrides, error)
            job = None
        if job is None:
            self._trials.settle(number)
        return job

    def record(self, run: Prepared, **why: str) -> None:
        self._trials.sweep.record(self._jobs[run.path].model_copy(update=why))

    def leave(self, run: Prepared) -> None:
        self._trials.settle(self._jobs[run.path].number)


def _consecutive(batch: Sequence[_Proposal]) -> list[list[_Proposal]]:
    """The same in runs of numbers that follow each other, as launchers count."""
    placed = groupby(enumerate(batch), key=lambda one: one[1][0] - one[0])
    return [[proposal for _, proposal in group] for _, group in placed]
