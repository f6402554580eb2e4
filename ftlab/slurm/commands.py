"""The commands of Slurm: submit, ask, cancel. Each failure is told in Slurm's own words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftlab.errors import NotReadyError

_PATIENCE = 60  # seconds that a command of Slurm's may take: a busy controller answers late
# States of a job that is still to run, or runs. Everything else is an end.
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job. :param word: RUNNING, CANCELLED and so on. :param reason: why it waits.
    :param node: where it runs. :param restarts: how often it was queued again."""

    word: str
    reason: str = ""
    node: str = ""
    restarts: int = 0

    @property
    def is_waiting(self) -> bool:
        return self.word in _WAITING

    @property
    def is_active(self) -> bool:
        """Whether it is in the queue or at work."""
        return self.word in _WAITING | _RUNNING


def check_installed() -> None:
    """:raises NotReadyError: the commands of Slurm are not on the path."""
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        raise NotReadyError(
            f"Slurm is not installed here: there is no {missing[0]} on the PATH. Submit from a login node of the "
            "cluster, or write the script alone with hydra.launcher.dry_run=true."
        )


def submit(script: Path) -> str:
    """The id of the job that ``sbatch`` makes of a script. :raises NotReadyError: it refuses."""
    done = _call("sbatch", "--parsable", str(script))
    found = re.match(r"[0-9]+", done.stdout.strip())
    if done.returncode != 0 or found is None:
        words = "; ".join(_words(done.stderr)) or done.stdout.strip() or f"exit code {done.returncode}"
        raise NotReadyError(f"sbatch has not taken the job: {words}")
    return found[0]


def states(ids: Iterable[str]) -> dict[str, JobState]:
    """What Slurm says of each job that it still knows.

    It forgets an ended one after some minutes, and an accounting data base, where there is one, does not.

    :param ids: ``12``, or ``12_3`` of an array. :raises NotReadyError: it does not answer.
    """
    asked = {*ids}
    if not asked:
        return {}
    of_array = sorted({one.partition("_")[0] for one in asked}, key=int)
    options = (
        "--noheader",
        "--array",
        "--states=all",
        "--Format",
        "JobArrayID:|,State:|,Reason:|,NodeList:|,RestartCnt:|",
    )
    done = _call("squeue", *options, f"--jobs={','.join(of_array)}")
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise NotReadyError(f"squeue does not answer: {'; '.join(_words(done.stderr))}")
    found = {}
    for line in done.stdout.splitlines():
        name, word, reason, node, restarts, *_ = line.split("|")
        found[name.strip()] = JobState(word, "" if reason == "None" else reason, node, int(restarts or 0))
    found = {name: state for name, state in found.items() if name in asked}
    return {**_accounted(asked - found.keys()), **found}


def _accounted(ids: set[str]) -> dict[str, JobState]:
    """The same from the accounting data base; nothing where there is none."""
    if not ids or shutil.which("sacct") is None:
        return {}
    options = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State")
    done = _call("sacct", *options, f"--jobs={','.join(sorted(ids))}")
    lines = [line.split("|") for line in done.stdout.splitlines() if done.returncode == 0]
    return {line[0]: JobState(line[1].split()[0]) for line in lines if len(line) == 2 and line[0] in ids and line[1]}


def cancel(ids: Sequence[str]) -> None:
    """:raises NotReadyError: Slurm refuses."""
    done = _call("scancel", *ids)
    if done.returncode != 0:
        raise NotReadyError(f"scancel has not cancelled them: {'; '.join(_words(done.stderr))}")


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    check_installed()
    try:
        # A session of its own: Ctrl-C is for the one who waits.
        return subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        raise NotReadyError(f"{command[0]} has not answered for {_PATIENCE} seconds. Is the cluster up?") from None


def _words(text: str) -> list[str]:
    """The lines of an error output, each once, without the name of the program."""
    lines = (re.sub(r"^\w+: (error: )?", "", line.strip()) for line in text.splitlines())
    return [*dict.fromkeys(line for line in lines if line)]
