"""Progress of long work on a console."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Bar:
    """A live bar with an ETA on a terminal; elsewhere a line at each tenth of the way.

    :param total: the count at which the work is done. :param unit: of what is counted, for the live bar.
    """

    def __init__(self, console: Console, description: str, total: int, unit: str):
        self._console, self._description, self._total = console, description, total
        self._done = self._told = 0
        self._live = Progress(
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

    def advance(self, count: int = 1) -> None:
        self.update(self._done + count)

    def update(self, done: int, status: str | None = None) -> None:
        """:param status: short text beside the bar, e.g. the loss; None leaves what is there."""
        self._done = done
        self._live.update(self._task, completed=done)
        if status is not None:
            self._live.update(self._task, status=status)
        tenth = 10 * done // max(self._total, 1)
        if not self._console.is_terminal and (tenth > self._told or done == self._total):
            if tenth > self._told:
                eta = _clock(self._live.tasks[0].time_remaining)
                line = f"{self._description}  {done}/{self._total}  {self._live.tasks[0].fields['status']}"
                self._console.print(f"{line}  ETA {eta}", markup=False)
            self._told = tenth


class _Eta(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("ETA ", style="dim") + TimeRemainingColumn(compact=True).render(task)


def _clock(seconds: float | None) -> str:
    return "--:--" if seconds is None else f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
