"""``ftlab ls SWEEP``: the leaderboard of a sweep, while it is at work and afterwards."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo, echo_json
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.rundir import summary
from ftlab.rundir.leaderboard import Entry, Leaderboard, as_dict, read_sweep
from ftlab.rundir.leaderboard_table import best_line, problems, show
from ftlab.rundir.lock import is_held
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import LsTask

COUNTS = ("steps", "tokens", "seconds")


def ls_sweep(sweep: SweepDir, task: LsTask) -> None:
    """Print it. Writes nothing.

    :raises ConfigError: nothing was measured that it could be sorted by. :raises RunDirError: its journal is damaged.
    """
    is_measure = task.sort not in (None, "time", "name", *COUNTS)
    board = read_sweep(sweep, task.sort if is_measure else None)
    if is_measure and task.sort is not None and all(entry.value is None for entry in board.entries) and board.measures:
        raise ConfigError([unsortable(task.sort, [*board.measures, "train_loss"])])
    chosen = [entry for entry in board.entries if task.status in (None, entry.state)]
    if task.sort is not None and not is_measure:
        chosen.sort(key=lambda entry: _place(entry, task.sort or ""))
    shown = chosen[: task.limit]
    if task.format == "json":
        echo_json(as_dict(board, shown))
        return
    if not chosen:
        counts = ", ".join(f"{count} {state}" for state, count in board.states.items())
        echo(f"No job of {sweep.path} has status={task.status}. There are: {counts}.")
        return
    to = Terminal(highlight=False, emoji=False)
    show(board, to, shown)
    lines = [f"{len(shown)} of {len(board.entries)} jobs"] if len(shown) < len(board.entries) else []
    for line in [*lines, *filter(None, [best_line(board)]), *problems(board), *_going_on(sweep, board)]:
        to.print(Text(line), soft_wrap=True)


def unsortable(word: str, measures: Iterable[str]) -> Mistake:
    """What to say where runs are to be sorted by something that none of them measured."""
    words = list(dict.fromkeys(["time", "name", *COUNTS, *map(summary.measure_word, measures)]))
    return Mistake("task.sort", f"must be one of: {', '.join(words)}.", word, nearest(word, words))


def _place(entry: Entry, by: str) -> float:
    """Newest or most first. A sweep begins its jobs by number, and they have no other name."""
    if by in ("time", "name"):
        return entry.number if by == "name" else -entry.number
    return -{"steps": entry.step, "tokens": entry.tokens, "seconds": entry.seconds or 0}[by]


def _going_on(sweep: SweepDir, board: Leaderboard) -> list[str]:
    """What goes on with a sweep that is not done and that nobody is at work on."""
    if {*board.states} <= {"finished"} or "running" in board.states or is_held(sweep.path):
        return []
    return [f"What is not finished goes on with: ftlab resume {shlex.quote(str(sweep.path))}"]
