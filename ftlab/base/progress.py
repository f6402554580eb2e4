"""Progress of long work on a console."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as LiveProgress
from rich.text import Text

from ftlab.base.console import Terminal

Progress = Callable[..., AbstractContextManager[Any]]  # the arguments of a Bar, but for its console -> a bar


class Bar:
    """A live bar with an ETA on a terminal; elsewhere a line at each tenth of the way.

    Within another bar it is drawn below that one.

    :param total: the count at which the work is done. :param unit: of what is counted, for the live bar.
    :param only_live: nothing is written where there is no terminal.
    """

    def __init__(self, console: Console, description: str, total: int, unit: str = "", only_live: bool = False):
        self._console, self._description, self._total = console, description, total
        self._writes_lines = not console.is_terminal and not only_live
        self._done = self._told = 0
        self._live = LiveProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}" + (f" {unit}" if unit else "")),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            _Eta(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task(description, total=total, status="")

    def __enter__(self) -> Bar:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def expect(self, total: int) -> None:
        """There is more to do than was thought. :param total: the count at which the work is done."""
        if total != self._total:
            self._total = total
            self._live.update(self._task, total=total)

    def advance(self, count: int = 1) -> None:
        self.update(self._done + count)

    def update(self, done: int, status: str | None = None) -> None:
        """:param status: short text beside the bar, e.g. the loss; None leaves what is there."""
        self._done = done
        self._live.update(self._task, completed=done)
        if status is not None:
            self._live.update(self._task, status=status)
        tenth = 10 * done // max(self._total, 1)
        if self._writes_lines and (tenth > self._told or done == self._total):
            if tenth > self._told:
                eta = _clock(self._live.tasks[0].time_remaining)
                line = f"{self._description}  {done}/{self._total}  {self._live.tasks[0].fields['status']}"
                self._console.print(f"{line}  ETA {eta}", markup=False)
            self._told = tenth


def stderr_bar(description: str, total: int, unit: str = "", only_live: bool = False) -> Bar:
    """A bar beside what a command prints, and not in it."""
    return Bar(Terminal(stderr=True, highlight=False), description, total, unit, only_live)


class NoBar:
    """In place of a bar where nobody looks."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __enter__(self) -> NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def expect(self, total: int) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        pass


class _Eta(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("ETA ", style="dim") + TimeRemainingColumn(compact=True).render(task)


def _clock(seconds: float | None) -> str:
    return "--:--" if seconds is None else f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
