"""Processes that train a run for another one, which waits for them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ftlab.engine.process import Interruption
from ftlab.engine.turns import Turn
from ftlab.errors import Interrupted, JobFailedError, Preempted, RunDirError
from ftlab.rundir.checkpoints import newest_whole
from ftlab.rundir.control import obeyed_state
from ftlab.rundir.directory import RunDir
from ftlab.rundir.names import TRAINER_STATE
from ftlab.rundir.records import read_trainer_state

_PAUSE = 0.1  # seconds between two looks
_TAIL = 1 << 14  # bytes of what a process has printed that hold its last line


def start(
    module: str, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``python -m MODULE WORDS``. It has a session of its own: what Ctrl-C sends goes through this process alone.

    :param log: what it prints is appended to it.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words], stdout=file, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip


def take_turn(run_dir: RunDir, turns: int, turn: Turn) -> None:
    """Let the processes of a run train until its turn is over, which they end with a checkpoint.

    :param turns: that the steps of each of its phases are divided into. :param turn: the run's; is told how far it is.
    :raises Interrupted: on a signal, or where its user has paused or stopped it. :raises JobFailedError: it failed.
    """
    log = run_dir.path / "ranks" / "launch.txt"
    log.parent.mkdir(exist_ok=True)
    _tell_progress(run_dir, turn)
    turn.first = turn.step if turn.first is None else turn.first
    with Interruption("Interrupted.") as interruption:
        interruption.is_training = True  # it is for the processes to end their step
        process = start("ftlab.engine.launch", [str(run_dir.path), "--turns", str(turns)], log)
        told = None
        while process.poll() is None:
            if interruption.asked_by != told:
                told = interruption.asked_by
                with suppress(ProcessLookupError):
                    process.send_signal(told or signal.SIGTERM)
            time.sleep(_PAUSE)
    _tell_progress(run_dir, turn)
    turn.ended = turn.step
    if interruption.requested or obeyed_state(run_dir.path) is not None:
        raise Interrupted("Interrupted.")
    if process.returncode == Preempted.exit_code:
        turn.is_given_up = True
    elif (why := why_not_finished(run_dir.path, process.returncode, log)) is not None:
        raise JobFailedError(why)


def _tell_progress(run_dir: RunDir, turn: Turn) -> None:
    """How far the phase is that has begun last, by its newest checkpoint."""
    done = run_dir.manifest().get("phases", {})
    left = run_dir.plan().left(done)
    if not left:
        turn.step = turn.steps
        return
    newest, _ = newest_whole(run_dir.phase(left[0].folder), left[0].config.stage.name, reads_weights=False)
    if newest is not None:
        state = read_trainer_state(newest / TRAINER_STATE)
        turn.step, turn.steps = state["global_step"], state["max_steps"]


def why_not_finished(path: Path, code: int, log: Path) -> str | None:
    """Why a run is not finished whose process has ended; None where it is, or has ended as its user asked.

    :param path: the run directory. :param code: the exit code of the process. :param log: what it has printed.
    """
    try:
        manifest = RunDir(path).manifest()
    except RunDirError as error:
        return str(error)
    if manifest.get("status") == "finished" or obeyed_state(path) is not None:
        return None
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    if manifest.get("status") == "failed":
        return str(manifest.get("error"))
    lines = log.read_bytes()[-_TAIL:].decode("utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"its process ended with exit code {code}: {last.strip()}"
