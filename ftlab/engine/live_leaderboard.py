"""The leaderboard of a sweep while it is at work, drawn anew on a terminal; elsewhere a bar's lines."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ftlab.base.progress import Bar
from ftlab.errors import RunDirError
from ftlab.rundir.leaderboard import read_sweep
from ftlab.rundir.leaderboard_table import render
from ftlab.rundir.sweep import SweepDir

_SECONDS = 2.0  # between two looks: of 16 runs one takes some 0.03 seconds


class LiveLeaderboard:
    """Below the lines that are told meanwhile; gone at the end, when the same table is told for good."""

    def __init__(self, console: Console, sweep: SweepDir):
        self._console, self._sweep = console, sweep
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=1 / _SECONDS, transient=True,
            vertical_overflow="ellipsis",
        )  # fmt: skip

    def __enter__(self) -> LiveLeaderboard:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, done: int) -> None:
        """As a bar's: how far the sweep is, its rows tell."""

    def expect(self, total: int) -> None:
        """As a bar's."""

    def _draw(self) -> RenderableType:
        try:
            return Group(Text(), render(read_sweep(self._sweep), self._console.width))
        except RunDirError as error:  # of a file that is being damaged now: it is told where it matters
            return Text(str(error))


def sweep_progress(console: Console, sweep: SweepDir | None, total: int, unit: str) -> AbstractContextManager[Any]:
    """:param sweep: None: there is no leaderboard of what is at work. :param total, unit: as a bar has them."""
    if sweep is not None and console.is_terminal:
        return LiveLeaderboard(console, sweep)
    return Bar(console, "sweep", total, unit)
