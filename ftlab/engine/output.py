"""What a run says: on the terminal, and without colours in its log.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ftlab.base.terminal import Terminal
from ftlab.engine.process import collected_warnings


class Output:
    """What a run tells: on the terminal, and in its log, which also gets the warnings that its work raises.

    :param log: the file that gets a copy of every line.
    """

    def __init__(self, log: Path):
        self._file = log.open("a", encoding="utf-8", buffering=1)
        self.console = Terminal(highlight=False)
        self._log = Console(file=self._file, width=160, highlight=False, color_system=None)
        self._warnings = collected_warnings(self.note)

    def __enter__(self) -> Output:
        self._warnings.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._warnings.__exit__(*error)
        self._file.close()

    def say(self, what: Any = "") -> None:
        """A line of rich markup, or any rich renderable."""
        soft_wrap = isinstance(what, str)  # a path cut in two cannot be copied
        self.console.print(what, soft_wrap=soft_wrap)
        self._log.print(what, soft_wrap=soft_wrap)

    def note(self, line: str) -> None:
        """For the log only."""
        self._log.print(line, markup=False, soft_wrap=True)

    def progress(self, description: str, total: int, unit: str = "") -> Bar:
        return Bar(self, description, total, unit)


class Bar:
    """A live bar with an ETA on a terminal; elsewhere a line at each tenth of the way."""

    def __init__(self, output: Output, description: str, total: int, unit: str):
        self._output, self._description, self._total = output, description, total
        self._done = self._told = 0
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}" + (f" {unit}" if unit else "")),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            _Eta(),
            console=output.console,
            transient=True,
            disable=not output.console.is_terminal,
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
        if not self._output.console.is_terminal and (tenth > self._told or done == self._total):
            if tenth > self._told:
                eta = _clock(self._live.tasks[0].time_remaining)
                line = f"{self._description}  {done}/{self._total}  {self._live.tasks[0].fields['status']}"
                self._output.console.print(f"{line}  ETA {eta}", markup=False)
            self._told = tenth


class _Eta(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("ETA ", style="dim") + TimeRemainingColumn(compact=True).render(task)


def _clock(seconds: float | None) -> str:
    return "--:--" if seconds is None else f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
