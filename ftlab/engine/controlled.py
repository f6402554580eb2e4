"""The runs of a launcher under the control of whoever has started them: those that are paused and go on, and clones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ftlab.base.terminal import echo, echo_error
from ftlab.config.clones import origin
from ftlab.config.sweeps import clone_lines
from ftlab.engine import clones
from ftlab.engine.work import RunT, Work
from ftlab.errors import FtlabError
from ftlab.rundir.control import STOPPED, ControlJournal, obeyed_state
from ftlab.rundir.sweep import JobRecord, SweepDir


class Controlled(Work[RunT]):
    """Another source's runs. One that is paused leaves, and comes again when it is to go on; clones are added.

    :param source: of the runs. :param prepare: makes the run of a job, by its number and overrides; None where there is
        nothing to train.
    """

    def __init__(
        self,
        source: Work[RunT],
        sweep: SweepDir,
        prepare: Callable[[int, Sequence[str]], tuple[JobRecord, RunT] | None],
    ):
        self._source, self._sweep, self._prepare = source, sweep, prepare
        self._paused: dict[Path, RunT] = {}
        self._at_work: set[Path] = set()
        self._clones: dict[Path, JobRecord] = {}
        self._failed: set[tuple[int, int]] = set()
        self._sizes: dict[Path, int] = {}  # of the journals, when clones were looked for last
        self._folders: list[Path] = []  # of all jobs that have begun
        self._are_asked = False  # whether a clone waits for its parent

    @property
    def is_open(self) -> bool:
        return self._source.is_open

    @property
    def count(self) -> int:
        return self._source.count + len(self._clones)

    def take(self, active: int) -> list[RunT]:
        runs = [*self._source.take(active)]
        runs += [self._paused.pop(path) for path in [*self._paused] if ControlJournal(path).state() is None]
        if runs or not self._folders:
            self._folders = [self._sweep.run_dir(job) for job in self._sweep.records().values()]
        self._at_work |= {run.path for run in runs}
        if self._may_be_asked():
            runs += self._new_clones()
        return runs

    def _may_be_asked(self) -> bool:
        """Whether there is a clone to make, perhaps. This is asked several times a second while others train: of
        journals that have not grown it looks at nothing but their size."""
        sizes = {path: ControlJournal(path).size for path in self._folders}
        have_grown, self._sizes = sizes != self._sizes, sizes
        return have_grown or self._are_asked

    def _new_clones(self) -> list[RunT]:
        records = self._sweep.records()
        at_work = [number for number, job in records.items() if self._sweep.run_dir(job) in self._at_work]
        runs = []
        ready, self._are_asked = clones.asked_clones(self._sweep, at_work)
        for asked, command in ready:
            if (asked.parent, asked.line) in self._failed:
                continue
            try:
                number = clones.add(self._sweep, asked, command)
                made = self._prepare(number, clone_lines(self._sweep.journal(), number))
            except FtlabError as error:
                self._failed.add((asked.parent, asked.line))
                echo_error(f"job {asked.parent + 1} cannot be cloned: {error}")
                continue
            if made is not None:
                record, run = made
                self._clones[run.path] = record
                echo(f"{run.title}: {origin(self._sweep.journal().clones[number])}")
                self._at_work.add(run.path)
                self._folders.append(run.path)
                runs.append(run)
        return runs

    def record(self, run: RunT, **why: str) -> None:
        if run.path in self._clones:
            self._sweep.record(self._clones[run.path].model_copy(update=why))
        else:
            self._source.record(run, **why)

    def leave(self, run: RunT) -> None:
        self._at_work.discard(run.path)
        state = obeyed_state(run.path)
        if state == "paused":
            self._paused[run.path] = run
            return
        if state == "stopped":
            self.record(run, stopped=STOPPED)
        if run.path not in self._clones:
            self._source.leave(run)
