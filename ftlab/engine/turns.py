"""Several runs at work in one process: one of them computes at a time, and finds the process as it left it.

What the libraries keep once for a process goes with the turn: random states, and accelerate's record of precision,
devices and accumulation; and the threads that share out a computation, of which a waiting run keeps none. A run that is
alone never waits, and nothing is copied. Imports no torch.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_MAPS = Path("/proc/self/maps")  # of Linux: the libraries that this process has loaded
_OPENMP = ("libgomp", "libiomp", "libomp")


class Turn:
    """A run's part of the process's time.

    :param count: how many turns the steps of a phase are divided into; None: as many as there are steps.
    :param leaves: the others are in other processes, and this one ends with the turn.
    :ivar step: of the phase at work, the last that has ended; :ivar steps: how many it has. :ivar first: the step that
        the first of its phases went on from in this process.
    :ivar ended: the step that the last turn ended with. :ivar waited: seconds in which others were at work.
    :ivar is_given_up: the run has left its place in memory to another, and goes on from its checkpoint next.
    :ivar is_dismissed: the run is to stop with its next step. :ivar when_over: is called when a turn has ended, and
        what its steps have come to is logged, by the thread that hands over.
    :ivar is_watched: a turn ends after its steps also while no other run waits.
    :ivar keeps_place: the place among the others is kept when the run has ended, until it is cancelled or replaced.
    :ivar place_at_end: as which of all runs of the process it ended; None: it has not.
    """

    def __init__(self, turns: Turns, count: int | None, is_reserved: bool, leaves: bool = False):
        self._turns, self._count = turns, count
        self.is_reserved = is_reserved  # it is one of several, even when the others are done
        self._leaves = leaves
        self.is_starting = False
        self.thread: int | None = None
        self.step = self.steps = self.ended = 0
        self.first: int | None = None
        self.waited = 0.0
        self.is_given_up = self.is_dismissed = self.is_watched = self.keeps_place = False
        self.place_at_end: int | None = None
        self.when_over: Callable[[], None] = lambda: None

    @property
    def is_wanted(self) -> bool:
        """Whether another run is waiting."""
        return self._leaves or self._turns.are_wanted

    @property
    def is_over(self) -> bool:
        """Whether the turn ends with the last step. That depends on its number alone, so that a run that is continued
        has the same turns."""
        length = 1 if self._count is None else math.ceil(self.steps / self._count)
        return (self.is_wanted or self.is_watched) and self.step % length == 0

    @property
    def must_leave(self) -> bool:
        """Whether the run whose turn is next has no place in memory but this one's."""
        return self._leaves or self._turns.next_needs_place(self)

    def let_others_work(self) -> None:
        """Let each of the others have its turn. To be called where nothing is half done, as between two steps."""
        if self.is_wanted or self.is_watched:
            self.when_over()
        if self.is_wanted:
            begun = time.monotonic()
            self._turns.hand_over(self)
            self.waited += time.monotonic() - begun

    @contextmanager
    def at_work(self) -> Iterator[Turn]:
        """Take the turn, once it has come, in this thread; at the end it is given back for good, or, where the run only
        left its place to another, until its next turn."""
        with self._turns.working(self):
            yield self


class Turns:
    """Who computes. :ivar places: how many runs may be in memory at once; None: all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Turn] = deque()  # its first is at work, or about to be
        self._ends = itertools.count()
        self.places: int | None = None

    @property
    def are_wanted(self) -> bool:
        return len(self._queue) > 1

    @contextmanager
    def taking(self, count: int | None = None) -> Iterator[Turn]:
        """Take a turn, and give it back at the end. :param count: of turns in all, where others are in other processes;
        None: there are none."""
        with self._append(Turn(self, count, is_reserved=False, leaves=count is not None)).at_work() as turn:
            yield turn

    def reserve(self, count: int) -> Turn:
        """A turn after those of all others, for a thread that is still to come. :param count: see :class:`Turn`."""
        return self._append(Turn(self, count, is_reserved=True))

    def _append(self, turn: Turn) -> Turn:
        with self._changed:
            self._queue.append(turn)
        return turn

    def end(self, turn: Turn) -> None:
        """The run of a turn has come to its end; it may not have begun, and waits for nothing more."""
        with self._changed:
            if turn.place_at_end is None:
                turn.place_at_end = next(self._ends)
            self._changed.notify_all()

    def cancel(self, turn: Turn) -> None:
        """Take a turn back whose run has no thread at work; one that is over is none."""
        with self._changed:
            if turn in self._queue:
                self._queue.remove(turn)
                self._changed.notify_all()

    def replace(self, turn: Turn, count: int) -> Turn:
        """A turn in the place that another has kept, or, where that has none, after those of all others."""
        with self._changed:
            if turn not in self._queue:
                return self.reserve(count)
            new = Turn(self, count, is_reserved=True)
            self._queue[self._queue.index(turn)] = new
            self._changed.notify_all()
            return new

    def next_without_thread(self, seconds: float) -> Turn | None:
        """The turn that has come while its run has no thread: whoever asks has to start one. None: not in so long."""
        with self._changed:
            if not self._lacks_thread():
                self._changed.wait(seconds)
            if not self._lacks_thread():
                return None
            self._queue[0].is_starting = True
            return self._queue[0]

    def _lacks_thread(self) -> bool:
        first = self._queue[0] if self._queue else None
        return first is not None and first.thread is None and not first.is_starting and first.place_at_end is None

    def next_needs_place(self, turn: Turn) -> bool:
        with self._changed:
            if self.places is None or len(self._queue) < 2 or self._queue[0] is not turn:
                return False
            in_memory = sum(one.thread is not None for one in self._queue)
            is_needed = self._queue[1].thread is None and in_memory >= self.places
            return is_needed or in_memory > self.places  # which larger ones that came may have made fewer

    @contextmanager
    def working(self, turn: Turn) -> Iterator[None]:
        with self._changed:
            here = threading.get_ident()
            assert here not in [other.thread for other in self._queue], "it would wait for itself"
            turn.thread, turn.is_given_up, turn.is_starting = here, False, False
            is_alone = not self.are_wanted and not turn.is_reserved
        try:
            self._wait_for(turn)
            if not is_alone:
                _restore(_State.fresh())
            yield
        finally:
            with self._changed:
                turn.thread = None
                self._queue.remove(turn)
                if turn.is_given_up or turn.keeps_place:
                    self._queue.append(turn)
                if not turn.is_given_up:
                    turn.place_at_end = next(self._ends)
                self._changed.notify_all()

    def hand_over(self, turn: Turn) -> None:
        state = _State.current()
        _release_workers()
        with self._changed:
            self._queue.rotate(-1)
            self._changed.notify_all()
        self._wait_for(turn)
        _restore(state)

    def _wait_for(self, turn: Turn) -> None:
        with self._changed:
            while self._queue[0] is not turn:
                self._changed.wait()


TURNS = Turns()


class _State(NamedTuple):
    """:ivar random: states of Python, NumPy, torch and its devices; None leaves them as they are.
    :ivar shared: what each of accelerate's states shares within the process."""

    random: tuple[Any, ...] | None
    shared: tuple[dict[str, Any], ...]

    @classmethod
    def fresh(cls) -> _State:
        """Of a run that begins: it seeds what it draws from, and accelerate has not begun."""
        return cls(None, tuple({} for _ in _shared_states()))

    @classmethod
    def current(cls) -> _State:
        import numpy as np
        import torch

        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        states = random.getstate(), np.random.get_state(), torch.get_rng_state(), devices
        return cls(states, tuple(dict(state) for state in _shared_states()))


def _shared_states() -> list[dict[str, Any]]:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [state._shared_state for state in (PartialState, AcceleratorState, GradientState)]


def _restore(state: _State) -> None:
    import numpy as np
    import torch

    for shared, values in zip(_shared_states(), state.shared):
        shared.clear()
        shared.update(values)
    if state.random is not None:
        python, numpy_state, cpu, devices = state.random
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _release_workers() -> None:
    """End the OpenMP workers of this thread; its next computation begins with new ones, which takes 0.1 ms.

    A thread has workers of its own, as many as there are cores. With those of waiting threads beside them libgomp
    counts more than there are cores, and puts them to sleep at every step of a computation: small ones take 2.5 times
    as long.
    """
    soft = 1  # omp_pause_soft of OpenMP 5.0: settings stay as they are
    for library in _openmp_libraries():
        library.omp_pause_resource_all(soft)


@cache
def _openmp_libraries() -> tuple[ctypes.CDLL, ...]:
    """Those that computations are shared out by. torch loads its own before anything is computed."""
    if not _MAPS.exists():
        return ()
    paths = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "/" in line}
    found = []
    for path in sorted(path for path in paths if Path(path).name.startswith(_OPENMP)):
        with suppress(OSError, AttributeError):  # one that is older than OpenMP 5.0 has no such function
            library = ctypes.CDLL(path)
            library.omp_pause_resource_all.argtypes = [ctypes.c_int]
            found.append(library)
    return tuple(found)
