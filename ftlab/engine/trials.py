"""The jobs of a sweep that are chosen on the way: asked for, launched, and told of by what their runs have come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ftlab.base.terminal import echo, echo_error
from ftlab.config import search, sweeps
from ftlab.engine.study import Study
from ftlab.errors import first_line
from ftlab.rundir import summary
from ftlab.rundir.sweep import JobRecord, Journal, SweepDir

# Of a launcher: the overrides of each job, and the number of the first.
Launch = Callable[[Sequence[Sequence[str]], int], Any]
_Proposal = tuple[int, tuple[str, ...]]


def run_trials(config: Any, arguments: Sequence[str], launch: Launch) -> None:
    """Launch trials until there are as many as are wanted, or too many of them have failed.

    :param config: the whole config of the sweep, with Hydra's node. :param arguments: overrides of its jobs.
    """
    sweep = SweepDir(Path(config.hydra.sweep.dir))
    journal, space = sweep.journal(), search.read(config.hydra, arguments)
    assert journal.search is not None, "it is written before the first job"
    study = Study(space, journal.objectives, config, sweep.study(), journal.search.id)
    trials = Trials(study, sweep, journal, space)
    for number, _ in study.running():  # of an earlier start
        trials.settle(number)
    while not trials.has_failed() and (batch := trials.next_batch()):
        for numbers in _consecutive(batch):
            trials.launch(numbers, launch)
        over = [trials.settle(number) for number, _ in batch]
        if not all(over):
            return  # as where only scripts are written


@dataclass(frozen=True)
class Trials:
    """:param study: of the sweep. :param journal: of the sweep, as it is asked for now."""

    study: Study
    sweep: SweepDir
    journal: Journal
    space: search.Space

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
                    job = JobRecord(
                        number=number, overrides=sweeps.identity(overrides), directory=str(number),
                        error=f"{type(error).__name__}: {first_line(error)}",
                    )  # fmt: skip
                    self.sweep.record(job)
                    echo_error(f"job {number + 1} failed: {job.error}")

    def settle(self, number: int) -> bool:
        """Tell the study what a trial has come to. :return: whether it is over."""
        job = self.sweep.records().get(number)
        if job is None:
            return False
        run = summary.summarize(self.sweep.run_dir(job))
        if job.stopped is not None:
            self.study.stop(number)
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

    def has_failed(self) -> bool:
        """Whether more trials have failed than are allowed to, which is told."""
        failed, wanted, allowed = len(self.study.failed), self.space.trials, self.space.options.max_failure_rate
        if failed <= allowed * wanted:
            return False
        told = f"{failed} of {wanted} trials have failed, more than {search.NODE}.max_failure_rate={allowed:g} allows"
        echo_error(f"The sweep ends here: {told}. The same command with a higher rate goes on.")
        return True


def _consecutive(batch: Sequence[_Proposal]) -> list[list[_Proposal]]:
    """The same in runs of numbers that follow each other, as launchers count."""
    placed = groupby(enumerate(batch), key=lambda one: one[1][0] - one[0])
    return [[proposal for _, proposal in group] for _, group in placed]
