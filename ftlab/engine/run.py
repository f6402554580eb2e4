"""Execute a plan: every phase that is not done yet, one after the other, by one process at a time."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rich.markup import escape

from ftlab.distributed.failures import describe_missing, misses_another
from ftlab.distributed.ranks import Ranks
from ftlab.engine import starts, summary
from ftlab.engine.control import check_state
from ftlab.engine.finished import remarks_on_finished
from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.phase import PhaseRun
from ftlab.engine.session import Session, Share, session_of
from ftlab.errors import DivergedError, FtlabError, OutOfMemoryError, RunDirError, StartAgainError
from ftlab.preflight.directory import finished_line, left_line, resume_command
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import Phase, Plan

_LITTLE = 1 << 20  # bytes: what a full disk may still have


def execute(
    run_dir: RunDir, checkpoint: int | None = None, hooks: PhaseHooks | None = None, started: float | None = None,
    ranks: Ranks | None = None, part: Part | None = None, share: Share | None = None, turns: int | None = None,
) -> None:  # fmt: skip
    """Run every phase of a run directory that is not done yet. Its lock must be held.

    :param checkpoint: the step of the checkpoint that the first of them goes on from; None: its newest.
    :param hooks: what the caller wants to be told of. :param started: when the command began; None: now.
    :param ranks: the processes that work on it together; None: this one alone. :param part: what this
        process does of it; None: all. :param share: what it has of a process that others work in; None: it is its own.
    :param turns: that the steps of a phase are divided into, where others have theirs in other processes: it ends with
        the first of them, as on a signal.
    :raises Interrupted: on Ctrl-C, SIGTERM or SIGUSR1, with a checkpoint if training had begun.
    """
    with _room(run_dir), session_of(run_dir, hooks or PhaseHooks(), started, ranks, share, turns) as session:
        left = session.phases_left()
        if session.manifest.values.get("status") == "finished" and not left:
            session.output.say(escape(finished_line(run_dir)))
            for line in remarks_on_finished(run_dir):
                session.output.say(f"[yellow]{escape(line)}[/yellow]")
            summary.results(session)
            return
        part = part or Part()
        if part.begins:
            differs = session.once(lambda: starts.record_start(run_dir, session.plan, session.manifest))
            session.output.say(f"[bold]{escape(session.plan.title)}[/bold]  {escape(str(run_dir.path))}")
            if differs is not None:
                session.output.say(f"[yellow]{escape(differs)}[/yellow]")
        with _ending(session):
            check_state(session)
            for phase in _chosen(session.plan, left, part):
                if session.has_several_phases:
                    session.output.say(f"\n[bold]phase {escape(phase.name)}[/bold]")
                PhaseRun(session, phase, checkpoint).run()
                checkpoint = None  # it was a step of the phase at which the run stood
        if part.ends:
            _end(session)


@dataclass(frozen=True)
class Part:
    """What of a run a process does, where each phase has processes of its own.

    :param phase: None: all that are chosen. :param begins: whether the start is told and written down.
    :param ends: whether the results are.
    """

    phase: str | None = None
    begins: bool = True
    ends: bool = True


def _chosen(plan: Plan, left: Sequence[Phase], part: Part) -> list[Phase]:
    """Of the phases that are not done, those that this start runs, or, where it is but one's process, that one."""
    return plan.chosen(left) if part.phase is None else [phase for phase in left if phase.name == part.phase]


def phases_to_run(run_dir: RunDir) -> list[Phase]:
    """The phases that a start of a run has to do."""
    plan = run_dir.plan()
    return plan.chosen(plan.left(run_dir.manifest().get("phases", {})))


def _end(session: Session) -> None:
    left = session.phases_left()
    session.manifest.record(status="stopped" if left else "finished", seconds=session.clock.seconds())
    summary.results(session)
    if left:
        session.output.say(escape(left_line(session.run_dir, left)))
    elif _is_pilot(session):
        session.once(lambda: _pilots().write_verdict(session))


def _is_pilot(session: Session) -> bool:
    return any(phase.config.pilot.is_on for phase in session.plan.phases)


def _pilots() -> Any:
    return resolve_name("ftlab.engine.pilot")  # which imports torch


@contextmanager
def _room(run_dir: RunDir) -> Iterator[None]:
    """Say it in words where nothing more can be written, not even what went wrong."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FtlabError) or not (_is(error, errno.ENOSPC) or _is(error, errno.EFBIG)):
            raise
        if _is(error, errno.EFBIG):
            what = f"A file below {run_dir.path} is larger than this shell allows (ulimit -f). Raise the limit"
        else:
            place, other = _full_disk(run_dir)
            what = f"The disk of {place} is full. Free some space{other}"
        raise RunDirError(f"{what}, and continue with: {resume_command(run_dir)}") from None


def _is(error: Exception, number: int) -> bool:
    """safetensors and tokenizers have errors of their own, with the system's words."""
    return getattr(error, "errno", None) == number or os.strerror(number) in str(error)


def _full_disk(run_dir: RunDir) -> tuple[Path, str]:
    """Of the folders that a run writes to, the one whose disk has no room, and what else would do."""
    elsewhere = [(Path(tempfile.gettempdir()), ", or name another folder for temporary files with TMPDIR=FOLDER")]
    try:
        caches = sorted({phase.config.data.cache for phase in run_dir.plan().phases if phase.config.data.cache})
    except RunDirError:
        caches = []
    elsewhere += [(Path(cache).expanduser(), ", or give another data.cache=FOLDER") for cache in caches]
    for place, other in elsewhere:
        if place.is_dir() and shutil.disk_usage(place).free < _LITTLE < shutil.disk_usage(run_dir.path).free:
            return place, other
    return run_dir.path, ""


@contextmanager
def _ending(session: Session) -> Iterator[None]:
    """Write down how a run ended that did not come to its end."""
    run_dir, manifest = session.run_dir, session.manifest
    try:
        yield
    except KeyboardInterrupt:
        manifest.record(status=session.interruption.status, seconds=session.clock.seconds())
        raise
    except FtlabError as error:
        session.output.note(str(error))
        if (
            isinstance(error, DivergedError | OutOfMemoryError)
            and run_dir.has_begun
            and session.writes
            and _is_pilot(session)
        ):
            _pilots().write_failure(session, str(error))
        if run_dir.has_begun or isinstance(error, DivergedError | StartAgainError):
            manifest.record(status="failed", error=str(error))
        else:
            if session.writes:  # nothing was measured, and there are no weights: the mended command starts from nothing
                run_dir.remove()
            manifest.values["status"] = "failed"
        raise
    except BaseException as error:
        follows = session.ranks.world.size > 1 and misses_another(error)
        manifest.record(status="failed", error=describe_missing(error) if follows else str(error))
        session.output.note(traceback.format_exc())
        raise
