"""Work that is done beside what a thread goes on with, one piece at a time."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable


class Background:
    """A thread for each piece of work. What a piece ends with is raised once, where somebody asks.

    :param name: of the thread.
    """

    def __init__(self, name: str):
        self._name = name
        self._error: BaseException | None = None
        # Not the thread's own join: a Ctrl-C within it makes Python 3.11 take a thread that works for one that is done.
        self._done = threading.Event()
        self._done.set()

    def start(self, work: Callable[[], None]) -> None:
        """Begin with a piece of work, when the one before is done. :raises BaseException: which that ended with."""
        self.wait()
        context = contextvars.copy_context()  # the log that takes the warnings of whoever begins it
        thread = threading.Thread(target=context.run, args=(self._do, work), name=self._name, daemon=True)
        self._done.clear()
        try:
            thread.start()
        except BaseException:  # the system has no thread to give
            self._done.set()
            raise

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def check(self) -> None:
        """:raises BaseException: which the work ended with, if it has. Nothing is waited for."""
        if self._done.is_set():
            self.wait()

    def wait(self) -> None:
        """Wait for the end of the work. :raises BaseException: which it ended with."""
        self.settle()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """Wait for the end of the work, whatever it ends with."""
        self._done.wait()
