"""How long a run has been at work."""

from __future__ import annotations

import time


class Clock:
    """Seconds of work that went into a run, over all its starts.

    :param spent: by the starts before this one; by those that were killed, up to the last line that they logged.
    :param started: when the command began, as ``time.monotonic()`` has it; None: now.
    """

    def __init__(self, spent: float, started: float | None = None):
        self._spent = spent
        self._started = time.monotonic() if started is None else started

    def leave_out(self, seconds: float) -> None:
        """Take time out in which the run only waited."""
        self._started += seconds

    def seconds(self) -> float:
        return round(self._spent + time.monotonic() - self._started, 1)
