"""A leaderboard as a table of rich's: in ``ftlab ls SWEEP``, at the end of a sweep, and live while it is at work."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftlab.base.numbers import readable
from ftlab.rundir.leaderboard import TRAIN_LOSS, Entry, Leaderboard
from ftlab.rundir.summary import GOLDEN

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ftlab.base.console import Terminal

COLOURS = {
    "finished": "green", "running": "cyan", "stopped": "yellow", "paused": "yellow", "interrupted": "yellow",
    "new": "yellow", "waiting": "dim", "killed": "red", "failed": "red", "unreadable": "red",
}  # fmt: skip
_NONE = "-"
_BETWEEN = 2  # cells between columns
_PIPE = 10_000  # cells of a line in a pipe
_KEYS = 5  # of what differs at most so many have a column each
# Cells of a column that has all of what differs: so that most overrides stay in a line, and the fewest.
_WISHED, _LEAST = 28, 12
_BREAKS = re.compile(r"(?:[^.=_/]|\.(?=\d))+[.=_/]?|[.=_/]")  # where an override may be broken
_LEFT = ("state", "folder", "overrides")
# What a narrow terminal goes without, in this order.
_MEASURED = ("golden", TRAIN_LOSS, "step")
_DROPPED_FIRST = ("time", "tokens/s", "folder", "ETA", *_MEASURED)


def render(board: Leaderboard, width: int | None, shown: Sequence[Entry] | None = None) -> RenderableType:
    """The table, and lines that belong to it.

    :param width: cells that there are; None for a pipe that wants lines whole. :param shown: the entries that are
        wanted; None: all.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    entries = board.entries if shown is None else shown
    columns, changes = _columns(board, entries), _changes(entries)
    spared = _drop(columns, changes, width)
    if width is not None and changes and _width({**changes, **columns}) > width:
        changes = _folded(entries, width - _width(columns) - _BETWEEN)
    arranged = {"rank": columns.pop("rank"), "job": columns.pop("job"), **changes, **columns}
    table = Table(box=None, pad_edge=False)
    for name, cells in arranged.items():
        is_word = name in _LEFT or not all(_is_number(cell) for cell in cells)
        table.add_column(Text(_header(name, cells)), justify="left" if is_word else "right", no_wrap=True)
    best = board.best
    for entry, row_cells in zip(entries, zip(*arranged.values())):
        styles = [COLOURS.get(entry.state, "") if name == "state" else "" for name in arranged]
        row = [Text(cell, style=style) for cell, style in zip(row_cells, styles)]
        table.add_row(*row, style="bold" if best is not None and entry.number == best.number else None)
    lines = [Text(line, style="dim") for line in _notes(board, spared)]
    return Group(table, *lines)


def show(board: Leaderboard, to: Terminal, shown: Sequence[Entry] | None = None) -> None:
    """Print it with its title, as wide as the terminal is; a pipe that says no width gets all columns.

    :param shown: as of :func:`render`.
    """
    from rich.text import Text

    from ftlab.base.console import Terminal

    width = to.known_width
    wide = to if width is not None else Terminal(highlight=False, emoji=False, width=_PIPE)
    wide.print(Text(f"sweep {board.folder}" if board.folder is not None else "runs", style="bold"), soft_wrap=True)
    wide.print(render(board, width, shown))


def problems(board: Leaderboard) -> list[str]:
    """A line for each that failed or cannot be read."""
    said = {"failed": "failed", "unreadable": "cannot be read"}
    wrong = sorted((entry for entry in board.entries if entry.state in said), key=lambda entry: entry.number)
    return [
        f"job {entry.number + 1} {said[entry.state]}: {entry.first_error or 'it has not said why'}" for entry in wrong
    ]


def duration(seconds: float | None) -> str:
    """``1:05``, ``2:03:20``."""
    if seconds is None:
        return _NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _columns(board: Leaderboard, entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Cells of all columns but those of what differs; a column that would say nothing is left out."""
    objective = board.objective.measure if board.objective is not None else None
    makers: dict[str, Callable[[Entry], str]] = {
        "rank": lambda entry: _NONE if entry.rank is None else str(entry.rank),
        "job": lambda entry: str(entry.number + 1),
        "state": lambda entry: entry.state,
        "step": _step,
        TRAIN_LOSS: lambda entry: _number(entry.loss),
    }
    if objective is not None and objective not in (GOLDEN, TRAIN_LOSS):
        makers[objective] = lambda entry: _number(entry.value, objective)
    makers |= {
        "golden": lambda entry: _number(entry.measures.get(GOLDEN), GOLDEN),
        "tokens/s": lambda entry: _NONE if entry.tokens_per_second is None else f"{entry.tokens_per_second:,.0f}",
        "time": lambda entry: duration(entry.seconds),
        "ETA": lambda entry: duration(entry.eta),
        "folder": lambda entry: _folder(board, entry),
    }
    cells = {name: [make(entry) for entry in entries] for name, make in makers.items()}
    return {name: column for name, column in cells.items() if name in ("rank", "job") or {*column} != {_NONE}}


def _changes(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What differs, a column for each key; one for all where the entries have too many, or others each."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry.changes))
    if not keys:
        return {}
    if len(keys) > _KEYS or any(len(entry.changes) != len(keys) for entry in entries):
        return {"overrides": [" ".join(entry.overrides) for entry in entries]}
    return {key: [entry.changes[key] for entry in entries] for key in keys}


def _folded(entries: Sequence[Entry], room: int) -> dict[str, list[str]]:
    """What differs in one column of several lines. A line breaks between overrides, else behind a ``.``, ``=`` or
    ``_``, and anywhere only where there is none of those."""
    room = max(room, _LEAST)
    return {"overrides": ["\n".join(_lines(entry.overrides, room)) for entry in entries]}


def _lines(overrides: Sequence[str], room: int) -> list[str]:
    from rich.cells import cell_len, chop_cells

    lines: list[str] = [""]
    for override in overrides:
        if cell_len(f"{lines[-1]} {override}") <= room:
            lines[-1] = f"{lines[-1]} {override}".lstrip()
            continue
        lines.append("")
        for piece in [override] if cell_len(override) <= room else _BREAKS.findall(override):
            if cell_len(lines[-1] + piece) <= room:
                lines[-1] += piece
            else:
                lines += chop_cells(piece, room)
    return [line for line in lines if line]


def _drop(columns: dict[str, list[str]], changes: dict[str, list[str]], width: int | None) -> list[str]:
    """Take out columns until the rest fits. :param changes: are kept, but may be folded in the end."""
    spared = []
    for name in _DROPPED_FIRST:
        least = _width(changes)
        if "overrides" in changes:
            least = min(least, _LEAST if name in _MEASURED else _WISHED)
        if width is None or _width(columns) + _BETWEEN + least <= width:
            break
        if name in columns:
            del columns[name]
            spared.append(name)
    return spared


def _width(columns: dict[str, list[str]]) -> int:
    from rich.cells import cell_len

    widest = [
        max(cell_len(line) for cell in (_header(name, cells), *cells) for line in cell.split("\n"))
        for name, cells in columns.items()
    ]
    return sum(widest) + _BETWEEN * max(0, len(columns) - 1)


def _header(name: str, cells: Sequence[str]) -> str:
    """The name in lines that are hardly wider than what is below; a key without the group that all of it shares."""
    from rich.cells import cell_len

    pieces = re.findall(r"[^._ /]+[._ /]?", name)
    room = max(cell_len(piece) for piece in (*(line for cell in cells for line in cell.split("\n")), *pieces))
    lines: list[str] = []
    for piece in pieces:
        if lines and len((lines[-1] + piece).rstrip()) <= room:
            lines[-1] += piece
        else:
            lines.append(piece)
    return "\n".join(line.rstrip() for line in lines)


def _step(entry: Entry) -> str:
    if entry.state == "waiting" or (not entry.step and entry.total_steps is None):
        return _NONE
    return f"{entry.step:,}/{entry.total_steps:,}" if entry.total_steps is not None else f"{entry.step:,}"


def _number(value: float | None, measure: str = "") -> str:
    return _NONE if value is None else readable(value, measure)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?|[-+]?[\d,.:/]+(e[-+]?\d+)?|nan|-?inf", cell) is not None


def _folder(board: Leaderboard, entry: Entry) -> str:
    if entry.path is None:
        return _NONE
    inside = board.folder is not None and entry.path.is_relative_to(board.folder)
    return str(entry.path.relative_to(board.folder)) if inside and board.folder is not None else str(entry.path)


def _notes(board: Leaderboard, spared: Sequence[str]) -> list[str]:
    notes = []
    if set(board.states) != {"finished"}:
        counts = ", ".join(f"{count} {state}" for state, count in board.states.items())
        left = f"; about {duration(board.eta)} left" if board.eta is not None else ""
        notes.append(f"{len(board.entries)} jobs: {counts}{left}")
    if spared:
        notes.append(f"Too wide to show: {', '.join(spared)}")
    return notes


def best_line(board: Leaderboard) -> str | None:
    """``Best by validation loss: job 2 of 4: lora.r=16, in outputs/s/1``; None where none is better than others."""
    best = board.best
    if best is None or best.path is None or board.objective is None:
        return None
    changed = f": {' '.join(best.overrides)}" if best.overrides else ""
    name = f"job {best.number + 1} of {len(board.entries)}{changed}"
    return f"Best by {board.objective.measure}: {name}, in {os.path.normpath(best.path)}"
