"""The directory of a sweep: which jobs it has, and where each of them ran. How a job ended its run directory tells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from ftlab.base.redaction import mask_secrets
from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import read_json
from ftlab.rundir.files import write_atomic
from ftlab.rundir.records import check

JOURNAL = "sweep.json"
_REMEDY = "Put a copy back, or start the sweep in another folder: hydra.sweep.dir=FOLDER."
_REMEDY_OF_JOB = "Put a copy back, or remove it: the job's run directory says how far it came."

Jobs = tuple[tuple[str, ...], ...]
_DIGITS = 4  # of a number that a sweeper has drawn, where it tells a job from others


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_WrittenT = TypeVar("_WrittenT", bound=_Written)


class Objective(_Written):
    """:param measure: as it is logged, ``eval_loss``. :param direction: ``minimize`` or ``maximize``."""

    measure: str
    direction: str


class Search(_Written):
    """A sweep whose jobs are chosen on the way, by what those before have come to.

    :param id: by which its trials are known in a study that other sweeps have trials in, too.
    :param space: what is chosen from, and what is the same for all jobs, as it was typed.
    :param trials: how many jobs there are to be.
    """

    id: str
    space: tuple[str, ...]
    trials: int


class Clone(_Written):
    """A job that its user has asked for while the sweep was at work: another one with changes.

    :param parent: the number of the other. :param line: of its journal that asks for it. :param schedule: ``continue``
        with its steps and its optimizer, or ``restart``. :param weights: ``parent`` or ``scratch``.
    :param changes: what was asked to be different, as it was typed.
    :param phase, step: of the parent, where it was cloned; None of one that begins from scratch.
    """

    parent: int
    line: int
    schedule: str
    weights: str
    changes: tuple[str, ...] = ()
    phase: str | None = None
    step: int | None = None


class Journal(_Written):
    """What a sweep is. Written before its first job begins.

    :param overrides: of the command line, as Hydra takes them. :param flags: Hydra's, without ``-m``.
    :param folder: that relative paths start from.
    :param jobs: the overrides of each; None where only the sweeper knows.
    :param objectives: what they are compared by; empty where that follows from what they have measured.
    :param clones: of the jobs, by number, those that were added to what was asked for.
    """

    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    folder: str
    jobs: Jobs | None
    search: Search | None = None
    objectives: tuple[Objective, ...] = ()
    clones: dict[int, Clone] = {}

    @property
    def asked(self) -> Jobs | None:
        """The jobs without clones: those of the command line."""
        if self.jobs is None:
            return None
        return tuple(job for number, job in enumerate(self.jobs) if number not in self.clones)

    @property
    def count(self) -> int | None:
        """How many jobs the sweep has; None where only the sweeper knows."""
        return self.search.trials if self.search is not None else None if self.jobs is None else len(self.jobs)

    def changed(self, overrides: Sequence[str]) -> list[str]:
        """Of a job's overrides, those that tell it from the others."""
        if self.search is None:
            return changed_overrides(overrides, self.jobs)
        return [_shortened(line) for line in overrides if line not in self.search.space]


class JobRecord(_Written):
    """A job that has begun.

    :param number: from 0. :param directory: its run directory, as seen from the sweep's. :param error: why it failed.
    :param stopped: why it was stopped early: others did better.
    """

    number: int
    overrides: tuple[str, ...]
    directory: str
    error: str | None = None
    stopped: str | None = None


@dataclass(frozen=True)
class SweepDir:
    """Paths and files of one sweep."""

    path: Path

    @property
    def journal_file(self) -> Path:
        return self.path / JOURNAL

    def write(self, journal: Journal) -> None:
        write_atomic(self.journal_file, mask_secrets(json.dumps(journal.model_dump(), indent=2)) + "\n")

    def journal(self) -> Journal:
        """:raises RunDirError: it is damaged."""
        return _validate(Journal, self.journal_file, _REMEDY)

    def jobs(self) -> Jobs | None:
        """The overrides of every job; None where they were not known beforehand."""
        return self.journal().jobs if self.journal_file.is_file() else None

    def study(self) -> Path:
        """What a sweeper keeps of its trials, where it is told no other place."""
        return self.path / "study.jsonl"

    def clone_start(self, number: int) -> Path:
        """The weights that a clone begins with which does not go on with its parent's steps."""
        return self.path / "clones" / f"job-{number}"

    def record(self, job: JobRecord) -> None:
        write_atomic(self._job_file(job.number), mask_secrets(json.dumps(job.model_dump(), indent=2)) + "\n")

    def records(self) -> dict[int, JobRecord]:
        """The jobs that have begun, by number. :raises RunDirError: one of their files is damaged."""
        files = self.path.glob("job-*.json")
        found = (_validate(JobRecord, path, _REMEDY_OF_JOB) for path in files)
        return {job.number: job for job in sorted(found, key=lambda job: job.number)}

    def run_dir(self, job: JobRecord) -> Path:
        return self.path / job.directory

    def relative(self, run_dir: Path) -> str:
        """A job's directory as its record has it."""
        inside, path = self.path.absolute(), run_dir.absolute()
        return str(path.relative_to(inside) if path.is_relative_to(inside) else path)

    def is_finished(self, job: JobRecord) -> bool:
        run_dir = RunDir(self.run_dir(job))
        return run_dir.run_yaml.is_file() and run_dir.manifest().get("status") == "finished"

    def finished(self) -> list[int]:
        """The numbers of the jobs that are."""
        return [number for number, job in self.records().items() if self.is_finished(job)]

    def is_done(self, journal: Journal) -> bool:
        """Whether nothing is left to do of a sweep. A trial that has failed is over; any other job is tried again.

        :param journal: as it is asked for now.
        """
        count, records = journal.count, self.records()
        is_search = journal.search is not None
        over = [
            self.is_finished(job) or job.stopped is not None or (is_search and job.error is not None)
            for job in records.values()
        ]
        return all(over) and (count is None or sum(over) >= count)

    def _job_file(self, number: int) -> Path:
        return self.path / f"job-{number}.json"


def is_sweep(path: Path) -> bool:
    return (path / JOURNAL).is_file()


def sweep_of_run(run_dir: Path) -> tuple[SweepDir, JobRecord] | None:
    """The sweep that a run is a job of, where its folder lies in that of the sweep; None too where that is damaged."""
    path = run_dir.absolute()
    for sweep in (SweepDir(parent) for parent in path.parents[:2] if is_sweep(parent)):
        try:
            return next((sweep, job) for job in sweep.records().values() if sweep.run_dir(job) == path)
        except (RunDirError, StopIteration):
            continue
    return None


def unfinished_sweeps(folder: Path, asked: Journal) -> Iterator[SweepDir]:
    """Sweeps below ``folder`` that are what is asked for and not done, the newest first; a damaged one is none."""
    files = sorted(folder.glob(f"*/{JOURNAL}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for sweep in (SweepDir(path.parent) for path in files):
        try:
            is_left = is_same_sweep(sweep.journal(), asked) and not sweep.is_done(asked)
        except RunDirError:
            continue
        if is_left:
            yield sweep


def is_same_sweep(ours: Journal, theirs: Journal) -> bool:
    """Whether two sweeps have the same jobs, or choose them from the same by the same."""
    if ours.search is None or theirs.search is None:
        return ours.search is theirs.search and is_same(ours.asked, theirs.asked)
    return _sorted([ours.search.space]) == _sorted([theirs.search.space]) and ours.objectives == theirs.objectives


def is_same(ours: Jobs | None, theirs: Jobs | None) -> bool:
    """Whether two sweeps have the same jobs in the same order. The order of a job's own overrides says nothing."""
    return None not in (ours, theirs) and _sorted(ours or ()) == _sorted(theirs or ())


def with_new_jobs(ours: Journal, asked: Jobs) -> Jobs | None:
    """The jobs that a sweep has, which keep their numbers, and after them those that are asked for and are not there.

    The order says nothing: the same command, given again once jobs were added, has another than the numbers.

    :return: None where not all that are there are asked for, clones aside.
    """
    left, new = _sorted(ours.asked or ()), []
    for job, key in zip(asked, _sorted(asked)):
        if key in left:
            left.remove(key)
        else:
            new.append(job)
    return (*(ours.jobs or ()), *new) if not left else None


def numbers(jobs: Jobs, asked: Sequence[Sequence[str]]) -> list[int]:
    """The number in ``jobs`` of each job that is asked for; of equal ones each has one of its own."""
    free: dict[tuple[str, ...], list[int]] = {}
    for number, key in enumerate(_sorted(jobs)):
        free.setdefault(tuple(key), []).append(number)
    return [free[tuple(key)].pop(0) for key in _sorted(asked)]


def _sorted(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    return [sorted(mask_secrets(line) for line in job) for job in jobs]


def changed_overrides(job: Sequence[str], jobs: Jobs | None) -> list[str]:
    """What tells a job from the others: of its overrides those that not all of them have."""
    shared = set.intersection(*(set(one) for one in jobs)) if jobs and len(jobs) > 1 else set[str]()
    return [line for line in job if line not in shared]


def _shortened(line: str) -> str:
    """``train.learning_rate=0.000316227766`` with as many digits as tell it from others."""
    key, separator, value = line.partition("=")
    try:
        short = f"{float(value):.{_DIGITS}g}"
    except ValueError:
        return line
    return f"{key}{separator}{short}" if len(short) < len(value) else line


def _validate(kind: type[_WrittenT], path: Path, remedy: str) -> _WrittenT:
    values = read_json(path, remedy)
    check(kind, values, path, remedy)
    return kind.model_validate(values)
