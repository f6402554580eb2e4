"""How long a run has been at work."""

from __future__ import annotations

import time


class Clock:
    """Seconds of work that went into a run, over all its starts.

    :param spent: by the starts before this one; by those that were killed, up to the last line that they logged.
    """

    def __init__(self, spent: float):
        self._spent = spent
        self._started = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Take time out in which the run only waited."""
        self._started += seconds

    def seconds(self) -> float:
        return round(self._spent + time.monotonic() - self._started, 1)
