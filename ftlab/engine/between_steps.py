"""What a run does between two steps: it stops when it has been asked to, and lets other runs of the process work."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ftlab.engine.session import Session


class BetweenSteps(TrainerCallback):
    """A stop lets the step end, saves and leaves the loop."""

    def __init__(self, session: Session):
        self._interruption, self._let_others_work = session.interruption, session.let_others_work

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._interruption.is_training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._interruption.is_training = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._let_others_work()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._interruption.requested:
            control.should_save = control.should_training_stop = True
