"""What a run does between two steps: it stops when it has been asked to, obeys its user, and lets other runs of the
process work."""

from __future__ import annotations

import signal
import time
from typing import Any

from transformers import TrainerCallback

from ftlab.base.background import Background
from ftlab.engine.control import Control
from ftlab.engine.session import Session
from ftlab.engine.trackers.rates import Rates

_SIGNALS = 256  # more than there are
_PATIENCE = 20.0  # seconds that a stop waits for a step at which processes agree; Slurm kills 30 after it has asked


class BetweenSteps(TrainerCallback):
    """A stop lets the step end, saves and leaves the loop. Of several processes all do, once one has been asked, with
    the next step at which they wait for each other anyhow: one that is logged, evaluated or saved; or earlier, where
    that is more than some seconds away. So does a run whose turn is over and whose place in memory another needs.
    Waiting for other runs is neither work nor training.

    :param rates: measure how fast the run trains. :param control: what the user asks for meanwhile.
    :ivar background: where checkpoints are written; known once there is a trainer.
    """

    background: Background

    def __init__(self, session: Session, rates: Rates, control: Control):
        self._control = control
        self._interruption, self._turn, self._clock, self._rates, self._ranks = (
            session.interruption, session.turn, session.clock, rates, session.ranks,
        )  # fmt: skip
        self._begun = 0  # the step that the turn began after
        self._lines = 0  # of the journal that all processes obey
        self._asked: tuple[int, float] = 0, 0.0  # step and time at which processes agreed last
        self._asks_at = 0  # the step at which they do at the latest

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._interruption.is_training = True
        self._begun = self._turn.step = state.global_step
        self._turn.steps = state.max_steps
        self._asked, self._asks_at = (state.global_step, time.monotonic()), state.global_step + 1
        if self._turn.first is None:
            self._turn.first = state.global_step
        self._control.begin(args, state, kwargs["lr_scheduler"], kwargs["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._interruption.is_training = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._interruption.check()
        if self._is_turn_over:
            self._rates.pause()
            waited = self._turn.waited
            self._turn.let_others_work()
            self._clock.leave_out(self._turn.waited - waited)
            self._begun = self._turn.step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._turn.step = state.global_step
        is_last = self._turn.step == self._turn.steps
        if is_last or self._is_turn_over:
            self._turn.ended = self._turn.step
            if not is_last and self._turn.must_leave:
                self._turn.is_given_up = True
                self._interruption.request(signal.SIGUSR1)
        if self._turn.is_dismissed:
            self._interruption.request(signal.SIGUSR1)
        agreed = 0
        waits = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        if waits or self._turn.is_given_up or state.global_step >= self._asks_at:
            asked_by = int(self._interruption.asked_by or 0)
            # One number says both. Where one process has read more than another was asked, that has its turn later.
            self._lines, agreed = divmod(self._ranks.greatest(_SIGNALS * self._control.lines + asked_by), _SIGNALS)
            self._asks_at = state.global_step + self._steps_until_next(state.global_step)
        if agreed and not self._interruption.requested:
            self._interruption.request(signal.Signals(agreed))
        if self._control.obey(self._lines, args, state, control) or agreed:
            control.should_save = control.should_training_stop = True

    def _steps_until_next(self, step: int) -> int:
        """After how many steps processes agree again at the latest: as many as fit into the time that a stop may wait,
        by those since the last time, where they were slowest. One alone waits for nobody, and looks after each."""
        if self._ranks.world.size == 1:
            return 1
        (last, since), now = self._asked, time.monotonic()
        self._asked = step, now
        milliseconds = self._ranks.greatest(round(1000 * (now - since)))
        return max(1, int(1000 * _PATIENCE * (step - last) / max(milliseconds, 1)))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._control.reads_checkpoint:
            self.background.wait()
            self._control.saved(state)

    @property
    def _is_turn_over(self) -> bool:
        return self._turn.step > self._begun and self._turn.is_over
