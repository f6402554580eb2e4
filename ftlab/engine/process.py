"""What a process has once, however many runs are at work in it: signals and warnings.

A run asks for its share of each: its :class:`Interruption` hears the signals, and its log takes the warnings that its
own work raises. Only the main thread can install signal handlers; runs in other threads hear of a signal from there.
Imports no torch.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TextIO

from ftlab.errors import Interrupted, Preempted

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def die_with_parent() -> None:
    """A process whose launcher was killed must not go on writing into a run directory that nobody holds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


# --- signals ---------------------------------------------------------------------------------------------------------


class Interruption:
    """How one run is told to stop: Ctrl-C by a person, one of the others of :data:`SIGNALS` by a scheduler,
    :meth:`request` by a program.

    In training the first request lets the step end, saves and stops; a second Ctrl-C stops at once. Elsewhere, where
    nothing is lost that a continued run would not make again, the first one raises KeyboardInterrupt too. That is at
    once in the main thread; a run in another thread stops at its next :meth:`check`, at the latest between two steps.
    What leaves the context is the error that fits the signal.

    :param message: of that error. :ivar is_training: set by whoever runs the training loop.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._signal: signal.Signals | None = None
        self._is_urgent = False
        self.status = "interrupted"  # of the run that it ends
        self.is_training = False
        self._is_in_main_thread = False

    @property
    def asked_by(self) -> signal.Signals | None:
        """What has asked last."""
        return self._signal

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
        self._is_urgent |= self.requested and number == signal.SIGINT
        self._signal = number
        return self._is_in_main_thread and (self._is_urgent or not self.is_training)

    def end(self, status: str, message: str) -> None:
        """Let the run stop as if it had been asked to, by its user's own word.

        :param status: that its manifest gets. :param message: of the error that leaves the context.
        """
        self.status, self._message = status, message
        self.request(signal.SIGINT if not self.requested else self._signal or signal.SIGINT)

    def check(self) -> None:
        """:raises KeyboardInterrupt: the run has been asked to stop, and need not finish a step first."""
        if self.requested and (self._is_urgent or not self.is_training):
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
        if threading.current_thread() is threading.main_thread():
            self._install()
        self._interruptions.append(interruption)

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
# For a program that starts runs in other threads than its main one.
handled_signals: Callable[[], Any] = _SIGNALS.handled


# --- warnings --------------------------------------------------------------------------------------------------------


class _Warnings:
    """Gives each warning to the log of the run whose work raised it, once."""

    def __init__(self) -> None:
        self._open: dict[Callable[[str], None], set[str]] = {}  # what each log has been told
        self._current: ContextVar[Callable[[str], None] | None] = ContextVar("log of this thread's run", default=None)
        self._mutex = threading.Lock()
        self._before: warnings.catch_warnings[None] | None = None  # the process as it was

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

    def _show(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        text = f"WARNING py.warnings: {warnings.formatwarning(message, category, filename, lineno, line)}"
        current = self._current.get()
        # A thread that a library started belongs to no run that could be told: every log has it then.
        for write in [*self._open] if current is None else [current]:
            lines = self._open.get(write)
            if lines is not None and text not in lines:
                lines.add(text)
                with suppress(OSError, ValueError):  # a full disk or a closed log must not end what only warns
                    write(text)

    def _install(self) -> None:
        self._before = warnings.catch_warnings()
        self._before.__enter__()
        warnings.showwarning = self._show
        warnings.simplefilter("always")  # "default" would keep from a second run what the first was told

    def _uninstall(self) -> None:
        assert self._before is not None
        self._before.__exit__(None, None, None)


_WARNINGS = _Warnings()
collected_warnings: Callable[[Callable[[str], None]], Any] = _WARNINGS.collected
