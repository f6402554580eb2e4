"""One of the runs that take turns in a process: its thread, and how it ends."""

from __future__ import annotations

import gc
import threading
import traceback

from rich.markup import escape

from ftlab.base.console import Terminal
from ftlab.base.numbers import readable
from ftlab.base.terminal import echo_error
from ftlab.distributed.sharding import needs_launch
from ftlab.engine import child
from ftlab.engine.session import Share
from ftlab.engine.turns import TURNS
from ftlab.engine.work import Prepared
from ftlab.errors import FtlabError, Interrupted, RunDirError
from ftlab.rundir.claim import choose_remaining_phases, hold
from ftlab.rundir.control import obeyed_state
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest


class Job:
    """One of the runs.

    :param turns: that its steps are divided into.
    :ivar configs: of its phases. :ivar is_launched: whether it is trained by processes of its own.
    :ivar is_stopped: a signal has ended it. :ivar is_over: it has come to an end, and no thread is at work for it.
    """

    def __init__(self, run: Prepared, share: Share, turns: int, to: Terminal):
        from ftlab.engine.run import phases_to_run

        self.run, self.share, self._turns, self._to = run, share, turns, to
        self.configs = [phase.config for phase in phases_to_run(RunDir(run.path))]
        self.is_launched = any(map(needs_launch, self.configs))
        self._thread: threading.Thread | None = None
        self._ends: list[dict[str, str]] = []
        self._dismissal: str | None = None
        self._told = 0  # the step that was told last
        self.is_stopped = self.is_over = False

    def start(self) -> None:
        """Begin, or go on with, the run, whose turn it is."""
        self._join()
        if self.is_over:  # it has failed on leaving its place
            return
        self._thread = threading.Thread(target=self._work, name=str(self.run.path), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End a run that has no place in memory now."""
        self._join()
        self.is_stopped = self._dismissal is None
        if self._dismissal is not None:
            run_dir = RunDir(self.run.path)
            with hold(run_dir):
                self._record_stop(run_dir)
        self._end()

    def _end(self) -> None:
        self.is_over = True
        TURNS.end(self.share.turn)

    def _join(self) -> None:
        """Wait for the thread of a run that has left its place, and may be closing its files."""
        if self._thread is not None:
            self._thread.join()

    def _record_stop(self, run_dir: RunDir) -> None:
        if self._dismissal is not None:
            Manifest(run_dir).record(status="stopped")

    def dismiss(self, why: str) -> None:
        """Let the run stop at its next chance: others do better."""
        self._dismissal = why
        self.share.turn.is_dismissed = True
        self._ends.append({"stopped": why})
        self._to.print(escape(f"{self.run.title}: stopped by {why}"), soft_wrap=True)

    @property
    def is_left(self) -> bool:
        return self.share.turn.place_at_end is None

    @property
    def steps(self) -> int:
        return self.share.turn.steps

    @property
    def first(self) -> int | None:
        return self.share.turn.first

    @property
    def ended(self) -> int:
        return self.share.turn.ended

    def _train(self, run_dir: RunDir) -> None:
        """:raises Interrupted: the run has left, or is to stop."""
        from ftlab.engine.run import execute

        turn = self.share.turn
        try:
            if self.is_launched:
                with hold(run_dir):
                    choose_remaining_phases(run_dir)
                with turn.at_work():
                    child.take_turn(run_dir, self._turns, turn)
                return
            with hold(run_dir):
                choose_remaining_phases(run_dir)
                try:
                    execute(run_dir, share=self.share)
                except Interrupted:
                    self._record_stop(run_dir)
                    raise
        finally:
            turn.when_over()  # of a run that is over, or has left

    def _work(self) -> None:
        turn, run_dir = self.share.turn, RunDir(self.run.path)
        try:
            self._train(run_dir)
        except Interrupted:
            if obeyed_state(self.run.path) is not None:
                turn.is_given_up = False  # what its user asked for comes first
            else:
                self.is_stopped = not turn.is_given_up and self._dismissal is None
        except FtlabError as error:
            self._fail(str(error), str(error))
        except BaseException as error:  # a user's reward may call sys.exit
            self._fail(f"{type(error).__name__}: {error}", traceback.format_exc())
        gc.collect()  # a trainer, its model and its callbacks know each other
        if not turn.is_given_up:
            self._end()

    def _fail(self, why: str, told: str) -> None:
        self.share.turn.is_given_up = False
        self._ends.append({"error": why})
        echo_error(f"{self.run.title} failed:\n{told}")

    def take_ends(self) -> list[dict[str, str]]:
        """Why it failed or was stopped, once."""
        ends, self._ends = self._ends, []
        return ends

    def turns_taken(self, count: int) -> int:
        turn = self.share.turn
        return count if not self.is_left else count * turn.step // max(turn.steps, 1)

    def tell(self) -> None:
        """A line, where a turn has ended since the last."""
        turn = self.share.turn
        if turn.ended == self._told:
            return
        self._told = turn.ended
        loss = ""
        try:
            last = RunDir(self.run.path).read_last_metrics() or {}
        except RunDirError:  # which ends the run itself, or is put right by it
            last = {}
        if isinstance(last.get("loss"), float):
            loss = f", loss {readable(last['loss'])}"
        self._to.print(escape(f"{self.run.title}: step {turn.ended} of {turn.steps}{loss}"), soft_wrap=True)
