"""What is known of a run that was handed to a cluster: which job it is, and where that job writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftlab.rundir.documents import read_json
from ftlab.rundir.failures import Failures
from ftlab.rundir.files import write_atomic
from ftlab.rundir.records import check

FOLDER = ".slurm"  # beside the run directories
_REMEDY = "Remove it: the run's own directory says how far it came."


class Submission(BaseModel):
    """:param job: Slurm's id of it, ``12`` or ``12_3``. :param script: the batch script. :param folder: of its logs.
    :param stdout: its log. :param stderr: the other one, or the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    job: str
    script: str
    folder: str
    stdout: str
    stderr: str

    @property
    def exit_code(self) -> int | None:
        """What the job ended with; None where its script did not come to its end."""
        try:
            return int((Path(self.folder) / f"{self.job}.exit").read_text())
        except (OSError, ValueError):
            return None

    @property
    def failures(self) -> Failures:
        """Of the runs that take turns in the job, those that failed by themselves."""
        return Failures(Path(self.folder) / f"{self.job}.failures")

    @property
    def is_given_up(self) -> bool:
        """Whether the job's last end was one of those after which it is queued again, had there not been too many."""
        try:
            *_, last = (Path(self.folder) / f"{self.job}.stops").read_text().split()
        except (OSError, ValueError):
            return False
        return int(last) == self.exit_code


@dataclass(frozen=True)
class SubmissionFiles:
    """:param path: the run directory."""

    path: Path

    @property
    def folder(self) -> Path:
        """Where the scripts and logs of the runs of a folder go."""
        return self.path.parent / FOLDER

    @property
    def file(self) -> Path:
        return self.folder / f"{self.path.name}.json"

    def write(self, submission: Submission) -> None:
        write_atomic(self.file, submission.model_dump_json(indent=2) + "\n")

    def read(self) -> Submission | None:
        """None where the run was never submitted. :raises RunDirError: the record is damaged."""
        if not self.file.is_file():
            return None
        values = read_json(self.file, _REMEDY)
        check(Submission, values, self.file, _REMEDY)
        return Submission.model_validate(values)
