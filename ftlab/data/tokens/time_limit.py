"""A limit of time on the rendering of a conversation, in any thread of any process.

What a chat template does may depend on the row, so one that passed its trial can still run without end. Signals reach
the main thread alone, and a process for each rendering would cost more than the rendering. Here one thread watches
over all others of its process, and raises an exception in the one that takes too long: jinja2's loops are Python's
own, and end with it at once.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_EVERY = 0.5  # seconds between two looks
_deadlines: dict[int, float] = {}  # by thread
_lock = threading.Lock()  # held to take a deadline away
_watcher: threading.Thread | None = None


class TooSlow(Exception):
    """The time is over."""


def run_limited(seconds: float, function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Return what a function of pure Python returns. It may not call this within.

    :raises TooSlow: it was stopped.
    """
    if _watcher is None or not _watcher.is_alive():  # none yet, or the process is a fork of one that has it
        _start()
    thread = threading.get_ident()
    _deadlines[thread] = time.monotonic() + seconds
    try:
        return function(*args, **options)
    finally:
        with _lock:
            if _deadlines.pop(thread, None) is None:  # the exception is on its way, and would arrive too late
                _raise_in(thread, None)


def _start() -> None:
    global _watcher
    with _lock:
        if _watcher is None or not _watcher.is_alive():
            _deadlines.clear()
            _watcher = threading.Thread(target=_watch, name="ftlab template limit", daemon=True)
            _watcher.start()


def _watch() -> None:
    while True:
        time.sleep(_EVERY)
        now = time.monotonic()
        for thread, deadline in list(_deadlines.items()):
            if now > deadline:
                with _lock:
                    if _deadlines.get(thread) == deadline:
                        del _deadlines[thread]
                        _raise_in(thread, TooSlow)


def _raise_in(thread: int, kind: type[Exception] | None) -> None:
    error = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)
