"""How a run did that was handed to a cluster: what its directory, its job's exit code and Slurm say together."""

from __future__ import annotations

import signal
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir.control import obeyed_state
from ftlab.rundir.directory import RunDir
from ftlab.rundir.submission import Submission
from ftlab.slurm.commands import JobState

_TAIL = 1 << 14  # bytes of a log that hold its last line
_ENDS = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "was ended at its time limit (hydra.launcher.timeout_min) before it had saved; "
    "hydra.launcher.signal_delay_s gives it longer",
    "OUT_OF_MEMORY": "was killed for its memory (hydra.launcher.mem_gb)",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "got a node that did not start",
    "DEADLINE": "was ended at its deadline",
    "PREEMPTED": "was preempted, and the cluster does not queue again what it preempts",
}


def failure(path: Path, submission: Submission, state: JobState | None) -> str | None:
    """Why a run is not finished whose job has ended; None where it is.

    :param path: the run directory. :param state: what Slurm still knows of the job.
    """
    try:
        manifest = RunDir(path).manifest()
    except RunDirError as error:
        return str(error)
    if manifest.get("status") == "finished":
        return None
    if (asked := obeyed_state(path)) is not None:
        return f"It was {asked} by ftlab control"
    reason = submission.failures.read(path)
    if reason is None and manifest.get("status") == "failed":
        reason = manifest.get("error")
    reason = reason or _job_reason(submission, state)
    return f"{reason.strip()}\nLog: {log_file(submission)}"


def log_file(submission: Submission) -> Path:
    """The log to look into: that of errors, unless nothing is in it."""
    errors = Path(submission.stderr)
    return errors if errors.is_file() and errors.stat().st_size else Path(submission.stdout)


def _job_reason(submission: Submission, state: JobState | None) -> str:
    name, code, word = f"Job {submission.job}", submission.exit_code, state.word if state else ""
    if word in _ENDS:
        return f"{name} {_ENDS[word]}"
    if code is None:
        return f"{name} left the queue before its script ended ({word or 'Slurm no longer knows why'})"
    if submission.is_given_up:
        return (
            f"{name} was told to stop once more than hydra.launcher.max_num_timeout allows; the same command, or ftlab "
            "resume, goes on"
        )
    line = _last_line(Path(submission.stderr)) or _last_line(Path(submission.stdout))
    if code > 128:
        number = code - 128
        known = signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
        return f"{name} was killed by {known}"
    return f"{name} ended with exit code {code}" + (f": {line}" if line else "")


def _last_line(path: Path) -> str | None:
    """The last line of a log that is not srun's or Slurm's own."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL, 0))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    kept = (line.strip() for line in reversed(lines) if not line.startswith(("srun: ", "slurmstepd: ")))
    return next((line for line in kept if line), None)
