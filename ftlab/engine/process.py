"""What a process has once, however many runs are at work in it: signals, warnings and the random state.

A run asks for its share of each: its :class:`Interruption` hears the signals, its log takes the warnings that its own
work raises, and :class:`Turns` gives it the random state that it left behind. Only the main thread can install signal
handlers; runs in other threads hear of a signal from there. Imports no torch.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ftlab.errors import Interrupted, Preempted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def quiet_libraries() -> None:
    """No telemetry, no banners. Called before the libraries are imported; a user's own environment wins."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "BITSANDBYTES_NOWELCOME": "1",
    }.items():
        os.environ.setdefault(name, value)


# --- signals ---------------------------------------------------------------------------------------------------------


class Interruption:
    """How one run is told to stop: Ctrl-C by a person, SIGTERM or SIGUSR1 by a scheduler, :meth:`request` by a program.

    In training the first request lets the step end, saves and stops; a second Ctrl-C stops at once. Elsewhere, where
    nothing is lost that a continued run would not make again, the first one raises KeyboardInterrupt too: at once in
    the main thread, at the next :meth:`check` in another. What leaves the context is the error that fits the signal.

    :param message: of that error. :ivar is_training: set by whoever runs the training loop.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._signal: signal.Signals | None = None
        self.is_training = False
        self._is_in_main_thread = False

    @property
    def requested(self) -> bool:
        return self._signal is not None

    def __enter__(self) -> Interruption:
        self._is_in_main_thread = threading.current_thread() is threading.main_thread()
        _SIGNALS.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """:raises Interrupted, Preempted: in place of KeyboardInterrupt."""
        _SIGNALS.remove(self)
        if kind is KeyboardInterrupt:
            raise (Preempted if self._signal in SIGNALS[1:] else Interrupted)(self._message) from None

    def request(self, number: signal.Signals = signal.SIGTERM) -> bool:
        """Ask the run to stop, from any thread. Whether a run of the main thread has nothing to finish first."""
        again = self.requested and number == signal.SIGINT
        self._signal = number
        return self._is_in_main_thread and (not self.is_training or again)

    def check(self) -> None:
        """:raises KeyboardInterrupt: the run has been asked to stop."""
        if self.requested:
            raise KeyboardInterrupt


class _Signals:
    """Hands the signals of the process to every run in it."""

    def __init__(self) -> None:
        self._interruptions: list[Interruption] = []
        self._handlers: dict[signal.Signals, Any] = {}  # as they were before
        self._depth = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Listen, where this is the main thread; in another one signals cannot be listened to, and need not be."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._install()
        try:
            yield
        finally:
            self._uninstall()

    def add(self, interruption: Interruption) -> None:
        self._interruptions.append(interruption)
        if threading.current_thread() is threading.main_thread():
            self._install()

    def remove(self, interruption: Interruption) -> None:
        self._interruptions.remove(interruption)
        if threading.current_thread() is threading.main_thread():
            self._uninstall()

    def _install(self) -> None:
        if self._depth == 0:
            self._handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._depth += 1

    def _uninstall(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        at_once = [one.request(signal.Signals(number)) for one in [*self._interruptions]]
        if any(at_once):
            raise KeyboardInterrupt


_SIGNALS = _Signals()
handled_signals: Callable[[], Any] = _SIGNALS.handled


# --- warnings --------------------------------------------------------------------------------------------------------


class _Warnings(logging.Handler):
    """Gives each warning to the log of the run whose work raised it, once."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._open: dict[Callable[[str], None], set[str]] = {}  # what each log has been told
        self._current: ContextVar[Callable[[str], None] | None] = ContextVar("log of this thread's run", default=None)
        self._mutex = threading.Lock()
        self._filters = warnings.catch_warnings()

    @contextmanager
    def collected(self, write: Callable[[str], None]) -> Iterator[None]:
        """Let the warnings of this thread's work go to ``write``, a line each."""
        with self._mutex:
            if not self._open:
                self._install()
            self._open[write] = set()
        token = self._current.set(write)
        try:
            yield
        finally:
            self._current.reset(token)
            with self._mutex:
                del self._open[write]
                if not self._open:
                    self._uninstall()

    def emit(self, record: logging.LogRecord) -> None:
        current, line = self._current.get(), self.format(record)
        # A thread that a library started belongs to no run that could be told: every log has it then.
        for write in [*self._open] if current is None else [current]:
            lines = self._open.get(write)
            if lines is not None and line not in lines:
                lines.add(line)
                write(line)

    def _install(self) -> None:
        self._filters = warnings.catch_warnings()  # which remembers the filters of the process
        self._filters.__enter__()
        logging.captureWarnings(True)
        warnings.simplefilter("always")  # "default" would keep from a second run what the first was told
        logger = logging.getLogger("py.warnings")
        logger.handlers, logger.propagate = [self], False

    def _uninstall(self) -> None:
        logging.getLogger("py.warnings").handlers = []
        logging.captureWarnings(False)
        self._filters.__exit__(None, None, None)


_WARNINGS = _Warnings()
collected_warnings: Callable[[Callable[[str], None]], Any] = _WARNINGS.collected


# --- the random state ------------------------------------------------------------------------------------------------


class Turns:
    """One run of a process computes at a time, and finds the random state as it left it. A run that is alone never
    waits, and nothing is copied."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()  # its first is at work

    @contextmanager
    def taking(self) -> Iterator[Callable[[], None]]:
        """Take a turn, and give it back at the end. What is yielded lets the others have theirs: to be called where
        nothing is half done, as between two steps."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._wait_for(ticket)
        try:
            yield lambda: self._pass(ticket)
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _pass(self, ticket: object) -> None:
        if len(self._queue) == 1:
            return
        state = _random_state()
        with self._changed:
            self._queue.rotate(-1)
            self._changed.notify_all()
            self._wait_for(ticket)
        _restore_random_state(state)

    def _wait_for(self, ticket: object) -> None:
        while self._queue[0] is not ticket:
            self._changed.wait()


TURNS = Turns()


def _random_state() -> tuple[Any, ...]:
    import numpy as np
    import torch

    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), devices


def _restore_random_state(state: tuple[Any, ...]) -> None:
    import numpy as np
    import torch

    python, numpy_state, cpu, devices = state
    random.setstate(python)
    np.random.set_state(numpy_state)
    torch.set_rng_state(cpu)
    if devices:
        torch.cuda.set_rng_state_all(devices)
