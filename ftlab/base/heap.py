"""Of the memory of this process: how the C library hands it out, and what Python looks through for garbage."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_THRESHOLD = gc.get_threshold()
_SELDOM = 100_000  # objects that are new since the garbage collector last looked; Python looks after 700


def use_one_heap() -> None:
    """Let all threads that begin from now on allocate from one heap, where the C library is glibc.

    glibc gives each thread a heap of its own, which keeps what the thread's largest step needed. Of runs that take
    turns, one thread works at a time, and all of them need that only once.
    """
    _mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """From here on, what is freed stays with the process for what it allocates next, where the C library is glibc.

    It otherwise takes each block of more than 32 MiB from the system and gives it back when it is freed. The system
    clears it page by page each time, which is 4 % of a step on a CPU whose logits are such blocks, and more of a longer
    row. Every step needs the same again, so that peaks were within 2.5 % of those without.
    """
    _mallopt(_M_MMAP_MAX, 0)
    _mallopt(_M_TRIM_THRESHOLD, -1)


def _mallopt(parameter: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and one heap
    if mallopt is not None:
        mallopt(parameter, value)


def collect_seldom() -> None:
    """From here to :func:`leave_imports_uncollected` the garbage collector hardly works: importing leaves next to no
    garbage, and to look for it through what there is so far, again and again, is a seventh of the time it takes."""
    gc.set_threshold(_SELDOM)


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Within, as after :func:`collect_seldom`: rows leave no garbage either, and to look for it through all that is
    imported takes a fifth of the time that they do."""
    before = gc.get_threshold()
    collect_seldom()
    try:
        yield
    finally:
        gc.set_threshold(*before)


def leave_imports_uncollected() -> None:
    """What is there when a process first calls this, which is to be its imported modules, is passed over by the garbage
    collector: it never becomes garbage, and looking through it takes a large part of a second in each collection."""
    gc.set_threshold(*_THRESHOLD)
    _freeze()


@functools.cache
def _freeze() -> None:
    """Once: to ask ``gc`` whether something is frozen, it counts all of that, which takes a tenth of a small run."""
    gc.freeze()
