"""Being told to stop: Ctrl-C by a person, SIGTERM or SIGUSR1 by a scheduler."""

from __future__ import annotations

import signal
from typing import Any

from transformers import TrainerCallback

from ftlab.errors import Interrupted, Preempted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interruption(TrainerCallback):
    """In training the first signal lets the step end, saves and stops; a second Ctrl-C stops at once. Elsewhere, where
    nothing is lost that a continued run would not make again, the first one raises KeyboardInterrupt too. What leaves
    the context is the error that fits the signal.

    :param message: of that error.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._signal: signal.Signals | None = None
        self._training = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self._signal is not None

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """:raises Interrupted: in place of KeyboardInterrupt."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            raise (Preempted if self._signal in SIGNALS[1:] else Interrupted)(self._message) from None

    def _handle(self, number: int, frame: Any) -> None:
        at_once = not self._training or (self.requested and number == signal.SIGINT)
        self._signal = signal.Signals(number)
        if at_once:
            raise KeyboardInterrupt

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.requested:
            control.should_save = control.should_training_stop = True
