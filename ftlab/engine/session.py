"""One run at work: what it is, what it has done, and what it speaks through. Read once and handed on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ftlab.distributed.ranks import Ranks
from ftlab.distributed.world import ALONE
from ftlab.engine.clock import Clock
from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.output import Output
from ftlab.engine.process import Interruption
from ftlab.engine.trackers.hub import Trackers
from ftlab.engine.turns import TURNS, Turn
from ftlab.errors import RunDirError
from ftlab.preflight.directory import resume_command
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Phase, Plan
from ftlab.schema import Run

Result = TypeVar("Result")


@dataclass(frozen=True)
class Share:
    """What a run has of a process that other runs work in too, and whose terminal is none of theirs.

    :param turn: reserved for it.
    :param load_base: gives a base model with modules of the run's own, over frozen weights that others have too.
    """

    turn: Turn
    load_base: Callable[[Run], Any]


@dataclass(frozen=True)
class Session:
    """What everything that works on a run shares. There may be several in a process, each in a thread of its own.

    :param plan: as run.yaml has it. :param manifest: kept in memory; only its :class:`Manifest` writes it.
    :param hooks: what the caller wants to be told of. :param turn: its part of the process's time.
    :param share: what it has of a process that others work in too; None where that is the run's alone.
    :param ranks: the processes that work on the run together.
    """

    run_dir: RunDir
    plan: Plan
    manifest: Manifest
    output: Output
    clock: Clock
    interruption: Interruption
    trackers: Trackers
    hooks: PhaseHooks
    turn: Turn
    share: Share | None
    ranks: Ranks

    def once(self, do: Callable[[], Result]) -> Result:
        """What one process of the run does for all, as whatever writes to the run directory; all get its result."""
        return self.ranks.once(do)

    @property
    def writes(self) -> bool:
        """Whether this is the process of the run that writes to its directory."""
        return self.ranks.world.is_first

    @property
    def resume_command(self) -> str:
        return resume_command(self.run_dir)

    @property
    def has_several_phases(self) -> bool:
        return len(self.plan.phases) > 1

    def load_base(self, config: Run) -> Any:
        """:param config: the phase's."""
        if self.share is not None:
            return self.share.load_base(config)
        from ftlab.model.load import load_model

        return load_model(config)

    def steps_before(self) -> int:
        """Optimizer steps of the phases that are done."""
        return sum(result["steps"] for result in self.manifest.phases.values())

    def tokens_before(self) -> int:
        """Tokens that the phases trained on that are done."""
        return sum(result["tokens"] for result in self.manifest.phases.values())

    def phases_left(self) -> list[Phase]:
        """Phases that are not done, whether this start runs them or not."""
        return self.plan.left(self.manifest.phases)


@contextmanager
def session_of(
    run_dir: RunDir, hooks: PhaseHooks, started: float | None = None, ranks: Ranks | None = None,
    share: Share | None = None, turns: int | None = None,
) -> Iterator[Session]:  # fmt: skip
    """The session of a run whose lock is held. :param ranks: None: this process is alone.
    :param share: None: the process is the run's. :param turns: as of :meth:`Turns.taking`.

    :raises Interrupted: on Ctrl-C, SIGTERM or SIGUSR1, with a checkpoint if training had begun.
    """
    ranks = ranks or Ranks(ALONE)
    plan, manifest = run_dir.plan(), Manifest(run_dir, ranks.world.is_first)
    interruption = Interruption(f"Interrupted. Continue with: {resume_command(run_dir)}")
    log = run_dir.log if ranks.world.is_first else None
    turn_of = TURNS.taking(turns) if share is None else share.turn.at_work()
    with Output(log, has_terminal=share is None) as output, interruption, turn_of as turn:
        clock = Clock(max(manifest.values.get("seconds") or 0, _seconds_logged(run_dir)), started)
        trackers = Trackers(run_dir, plan, manifest, output.say)
        try:
            yield Session(run_dir, plan, manifest, output, clock, interruption, trackers, hooks, turn, share, ranks)
        finally:
            # Nothing had happened in a run directory that was taken away again; a full disk takes no other status.
            status = manifest.values.get("status", "running")
            trackers.finish("failed" if status == "running" else status)
            if ranks.world.is_first:
                shutil.rmtree(run_dir.prepared, ignore_errors=True)  # the others have it open


def _seconds_logged(run_dir: RunDir) -> float:
    """How far the last line of metrics.jsonl had come; a damaged one is put back from a checkpoint, or told, later."""
    try:
        last = run_dir.read_last_metrics() or {}
    except RunDirError:
        return 0.0
    seconds = last.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0
