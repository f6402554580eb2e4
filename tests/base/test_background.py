"""Work beside what a thread goes on with: one piece at a time, whose error comes up once."""

from __future__ import annotations

import threading
import warnings

import pytest

from ftlab.base.background import Background
from ftlab.engine.process import collected_warnings


def test_a_piece_of_work_begins_when_the_one_before_is_done():
    background, may_end, done = Background("work"), threading.Event(), []

    def first() -> None:
        assert may_end.wait(10)
        done.append("first")

    background.start(first)
    background.check()
    assert done == []
    threading.Timer(0.05, may_end.set).start()
    background.start(lambda: done.append("second"))
    background.wait()
    assert done == ["first", "second"]


@pytest.mark.parametrize("ask", ["check", "wait", "start"])
def test_what_work_ends_with_is_raised_once(ask):
    background = Background("work")

    def fail() -> None:
        raise OSError("no room")

    background.start(fail)
    background.settle()
    with pytest.raises(OSError, match="no room"):
        background.start(fail) if ask == "start" else getattr(background, ask)()
    background.check()
    background.wait()


def test_warnings_of_work_are_its_runs():
    """Of two runs in a process, the one that has begun it has them in its log."""
    logs: list[list[str]] = [[], []]
    background = Background("work")
    with collected_warnings(logs[0].append):
        thread = threading.Thread(target=lambda: _in_log(logs[1], background))
        thread.start()
        thread.join()
    assert [len(log) for log in logs] == [0, 1]


def _in_log(log: list[str], background: Background) -> None:
    with collected_warnings(log.append):
        background.start(lambda: warnings.warn("slow", stacklevel=1))
        background.wait()
