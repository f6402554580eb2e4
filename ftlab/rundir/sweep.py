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


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_WrittenT = TypeVar("_WrittenT", bound=_Written)


class Journal(_Written):
    """What a sweep is. Written before its first job begins.

    :param overrides: of the command line, as Hydra takes them. :param flags: Hydra's, without ``-m``.
    :param folder: that relative paths start from.
    :param jobs: the overrides of each; None where only the sweeper knows.
    """

    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    folder: str
    jobs: Jobs | None


class JobRecord(_Written):
    """A job that has begun.

    :param number: from 0. :param directory: its run directory, as seen from the sweep's. :param error: why it failed.
    """

    number: int
    overrides: tuple[str, ...]
    directory: str
    error: str | None = None


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


def unfinished_sweeps(folder: Path, jobs: Jobs) -> Iterator[SweepDir]:
    """Sweeps of the same jobs below ``folder`` that are not done, the newest first. One that is damaged is none."""
    files = sorted(folder.glob(f"*/{JOURNAL}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for sweep in (SweepDir(path.parent) for path in files):
        try:
            is_left = is_same(sweep.jobs(), jobs) and len(sweep.finished()) < len(jobs)
        except RunDirError:
            continue
        if is_left:
            yield sweep


def is_same(ours: Jobs | None, theirs: Jobs | None) -> bool:
    """Whether two sweeps have the same jobs in the same order. The order of a job's own overrides says nothing."""
    return None not in (ours, theirs) and _sorted(ours or ()) == _sorted(theirs or ())


def _sorted(jobs: Jobs) -> list[list[str]]:
    return [sorted(mask_secrets(line) for line in job) for job in jobs]


def changed_overrides(job: Sequence[str], jobs: Jobs | None) -> list[str]:
    """What tells a job from the others: of its overrides those that not all of them have."""
    shared = set.intersection(*(set(one) for one in jobs)) if jobs and len(jobs) > 1 else set[str]()
    return [line for line in job if line not in shared]


def _validate(kind: type[_WrittenT], path: Path, remedy: str) -> _WrittenT:
    values = read_json(path, remedy)
    check(kind, values, path, remedy)
    return kind.model_validate(values)
