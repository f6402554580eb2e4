"""Execute a plan: every phase that is not done yet, one after the other, by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from ftlab.engine import starts, summary
from ftlab.engine.interruption import Interruption
from ftlab.engine.output import Output
from ftlab.engine.phase import Clock, PhaseRun
from ftlab.engine.trackers.hub import Trackers, tracked
from ftlab.errors import DivergedError, FtlabError, RunDirError
from ftlab.rundir.directory import RunDir


def execute(run_dir: RunDir, back_to: int | None = None) -> None:
    """Run every phase of a run directory that is not done yet.

    :param back_to: the step of the checkpoint that the first of them goes on from; None: its newest.
    :raises Interrupted: on Ctrl-C, SIGTERM or SIGUSR1, with a checkpoint if training had begun.
    """
    interruption = Interruption(f"Interrupted. Continue with: {_resume(run_dir)}")
    with (
        _lock(run_dir),
        _room(run_dir),
        Output(run_dir.log) as output,
        interruption,
        tracked(run_dir, output.say) as trackers,
    ):
        _execute(run_dir, output, interruption, trackers, back_to)


@contextmanager
def _lock(run_dir: RunDir) -> Iterator[None]:
    with run_dir.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunDirError(
                f"Another process is at work in {run_dir.path}. Wait for it, or start beside it: run.if_exists=new."
            ) from None
        yield


@contextmanager
def _room(run_dir: RunDir) -> Iterator[None]:
    """Say it in words where nothing more can be written, not even what went wrong."""
    try:
        yield
    except Exception as error:
        # safetensors and tokenizers have errors of their own for a full disk, with the system's words.
        is_full = getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error)
        if isinstance(error, FtlabError) or not is_full:
            raise
        raise RunDirError(
            f"The disk of {run_dir.path} is full. Free some space, and continue with: {_resume(run_dir)}"
        ) from None


def _resume(run_dir: RunDir) -> str:
    return f"ftlab resume {shlex.quote(str(run_dir.path))}"


def _execute(
    run_dir: RunDir, output: Output, interruption: Interruption, trackers: Trackers, back_to: int | None
) -> None:
    clock = Clock(run_dir)
    plan = run_dir.plan()
    manifest = run_dir.manifest()
    done = manifest.get("phases", {})
    if manifest.get("status") == "finished" and all(phase.name in done for phase in plan.phases):
        output.say(f"{run_dir.path} is finished already. run.if_exists=new starts another run beside it.")
        summary.summary(output, run_dir)
        return
    starts.begin(run_dir, plan)
    output.say(f"[bold]{escape(plan.title)}[/bold]  {escape(str(run_dir.path))}")
    try:
        chosen = plan.phases[0].config.run.phases
        for phase in plan.phases:
            if phase.name not in done and (chosen is None or phase.name in chosen):
                if len(plan.phases) > 1:
                    output.say(f"\n[bold]phase {escape(phase.name)}[/bold]")
                PhaseRun(run_dir, plan, phase, output, clock, interruption, trackers, back_to).run()
                back_to = None  # it was a step of the phase at which the run stood
    except KeyboardInterrupt:
        run_dir.update_manifest(status="interrupted", seconds=clock.seconds())
        raise
    except FtlabError as error:
        output.note(str(error))
        if run_dir.has_begun or isinstance(error, DivergedError):
            run_dir.update_manifest(status="failed", error=str(error))
        else:
            run_dir.remove()  # nothing was measured, and there are no weights: the mended command starts from nothing
        raise
    except BaseException as error:
        run_dir.update_manifest(status="failed", error=str(error))
        output.note(traceback.format_exc())
        raise
    left = [phase.name for phase in plan.phases if phase.name not in run_dir.manifest()["phases"]]
    status = "stopped" if left else "finished"
    run_dir.update_manifest(status=status, seconds=clock.seconds())
    summary.summary(output, run_dir)
    if left:
        output.say(f"Phases left: {escape(', '.join(left))}. Continue with: {escape(_resume(run_dir))}")
