"""``ftlab ls``: the runs below a folder, how they ended and what they measured."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.numbers import readable
from ftlab.base.terminal import echo, echo_json
from ftlab.errors import ConfigError, Mistake
from ftlab.rundir import summary
from ftlab.rundir.compare import lower_is_better
from ftlab.rundir.leaderboard_table import COLOURS
from ftlab.rundir.names import LATEST
from ftlab.rundir.summary import Summary
from ftlab.rundir.sweep import SweepDir, is_sweep, sweep_of_run
from ftlab.schema import LsTask, Run
from ftlab.use.sweep_board import COUNTS, ls_sweep, unsortable

# Of what is told of a run, what a narrow terminal goes without, in this order.
_DROPPED_FIRST = ("overrides", "seconds", "tokens", "method", "model", "steps", "began", "stage", "phases")
_PLACES = ("run.", "sweep.", "hydra.", "task=", "tracker=", "-")  # begin what says where a run is, and not what
_TO_THE_RIGHT = ("phases", "steps", "tokens", "seconds")
_BETWEEN = 2  # cells between columns
_NAME = 40  # cells of a name that stays whole, to be copied; a longer one is folded before measures are left out


def ls(run: Run, overrides: Sequence[str]) -> None:
    """Print the runs below ``task.folder``; of a sweep its leaderboard. Writes nothing.

    :raises ConfigError: there is no such folder, or nothing to sort by.
    """
    task = run.task
    assert isinstance(task, LsTask)
    folder = Path(task.folder).expanduser()
    if folder.name == LATEST and folder.is_symlink():
        folder = folder.parent / folder.readlink()  # the run has its own name
    if not folder.is_dir():
        reason = "is no folder" if folder.exists() else "does not exist"
        where = "Runs are in outputs/ of the folder that they were started in: ftlab ls FOLDER"
        raise ConfigError([Mistake("task.folder", f"{reason}. {where}", task.folder)])
    if is_sweep(folder):
        ls_sweep(SweepDir(folder), task)
        return
    every = [summary.summarize(path) for path in summary.find_runs(folder)]
    by = task.sort or "time"
    measure = None if by in ("time", "name", *COUNTS) else _measure(every, by)
    chosen = _sorted([one for one in every if task.status in (None, one.status)], measure or by)
    shown = chosen[: task.limit]
    if task.format == "json":
        echo_json([_as_dict(one) for one in shown])
    elif not every:
        echo(f"No run in {folder}. ftlab starts one; ftlab --help says how.")
    elif not chosen:
        counts = ", ".join(f"{count} {status}" for status, count in Counter(one.status for one in every).items())
        echo(f"No run in {folder} has status={task.status}. There are: {counts}.")
    else:
        _print(Terminal(highlight=False, emoji=False), folder, shown, len(chosen), measure)


def _measure(every: list[Summary], word: str) -> str:
    """The measure that is meant by ``golden_exact_match``, ``validation_loss`` or ``loss``."""
    known = [name for one in every for name in one.after]
    found = summary.find_measure(word, known)
    if found is None and every:
        raise ConfigError([unsortable(word, known)])
    return found or word


def _sorted(runs: list[Summary], by: str) -> list[Summary]:
    """Newest, best or most first; a run without the measure comes last, after those where it is no number."""
    if by == "time":
        return sorted(runs, key=lambda one: -one.began)
    if by == "name":
        return sorted(runs, key=lambda one: [_natural(part) for part in one.path.parts])
    if by in COUNTS:
        return sorted(runs, key=lambda one: -(getattr(one, by) or 0))
    sign = 1 if lower_is_better(by) else -1

    def place(one: Summary) -> tuple[int, float]:
        if by not in one.after:
            return (2, 0.0)
        return (1, 0.0) if math.isnan(one.after[by]) else (0, sign * one.after[by])

    return sorted(runs, key=place)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which ``run-2`` comes before ``run-10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


# --- the table -------------------------------------------------------------------------------------------------------


def _print(to: Terminal, folder: Path, runs: Sequence[Summary], total: int, measure: str | None) -> None:
    """:param total: how many there were before ``limit``. :param measure: what they are sorted by, if by a measure."""
    columns = {"run": [_name(one.path, folder) for one in runs], "status": [one.status for one in runs]}
    columns |= {name: [_cell(one, name) for one in runs] for name in ("phases", "stage", "model", "method", *COUNTS)}
    columns["golden exact match"] = [_change(one, summary.GOLDEN) for one in runs]
    columns["validation"] = [_main_change(one, measure) for one in runs]
    columns["began"] = [time.strftime("%Y-%m-%d %H:%M", time.localtime(one.began)) for one in runs]
    columns["overrides"] = [" ".join(_chosen(one)) for one in runs]
    spared = _drop_columns(columns, to.known_width, [_swept(one) for one in runs])
    if to.known_width is not None and _needed(columns) > to.known_width:
        columns["validation"] = [cell.replace(" ", "\n", 1) for cell in columns["validation"]]
        columns["golden exact match"] = [cell.replace("→ ", "→\n") for cell in columns["golden exact match"]]
        room = to.known_width - _width({name: cells for name, cells in columns.items() if name != "run"}) - _BETWEEN
        columns["run"] = [_folded(cell, room) for cell in columns["run"]]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(
            _header(name), justify="right" if name in _TO_THE_RIGHT else "left", overflow="fold", no_wrap=name != "run"
        )
    for cells in zip(*columns.values()):
        styles = (COLOURS.get(cell, "") if name == "status" else "" for name, cell in zip(columns, cells))
        table.add_row(*(Text(cell, style=style) for cell, style in zip(cells, styles)))
    wide = to if to.known_width is not None else Terminal(highlight=False, emoji=False, width=_width(columns))
    wide.print(Text(str(folder), style="bold"), soft_wrap=True)
    wide.print(table)
    for line in _notes(runs, spared, total):
        to.print(Text(line), soft_wrap=True)


def _drop_columns(columns: dict[str, list[str]], width: int | None, swept: Sequence[Sequence[str]]) -> list[str]:
    """Take out columns until the rest fits ``width``; None is a pipe, which takes everything.

    :param swept: of the jobs of a sweep what tells them apart, which goes below the name where it has no column.
    """
    spared = []
    for name in _DROPPED_FIRST:
        if width is None or _needed(columns) <= width:
            break
        del columns[name]
        spared.append(name)
        if name == "overrides":
            columns["run"] = ["\n".join([job, *lines]) for job, lines in zip(columns["run"], swept)]
    return spared


def _folded(name: str, room: int) -> str:
    """The same in lines, the first of which ends behind a part of the name rather than in it."""
    end = max(name.rfind("-", 0, room), name.rfind("/", 0, room)) + 1
    return f"{name[:end]}\n{name[end:]}" if cell_len(name) > room and "\n" not in name and end else name


def _needed(columns: dict[str, list[str]]) -> int:
    """The width of the table with long names folded."""
    longest = max(cell_len(line) for cell in columns["run"] for line in cell.split("\n"))
    return _width(columns) - max(0, longest - _NAME)


def _width(columns: dict[str, list[str]]) -> int:
    widest = [
        max(cell_len(line) for cell in (_header(name), *cells) for line in cell.split("\n"))
        for name, cells in columns.items()
    ]
    return sum(widest) + _BETWEEN * (len(columns) - 1)


def _header(column: str) -> str:
    return column.replace(" ", "\n")


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else "."


def _chosen(one: Summary) -> list[str]:
    """What a run was told to be: of a sweep's job what tells it from the others, else all but where it is."""
    return _swept(one) or [line for line in one.overrides if not line.startswith(_PLACES)]


def _swept(one: Summary) -> list[str]:
    """Of a sweep's job, the overrides that tell it from the others."""
    found = sweep_of_run(one.path)
    return found[0].journal().changed(found[1].overrides) if found is not None else []


def _cell(one: Summary, column: str) -> str:
    if one.status == "unreadable":
        return ""
    if column == "phases":
        return f"{len(one.done)}/{len(one.phases)}"
    if column == "stage":
        return " ".join(dict.fromkeys(one.stages))
    value = getattr(one, column)
    if isinstance(value, str):
        return value
    return "" if value is None else f"{value:,.0f}"


def _main_change(one: Summary, measure: str | None) -> str:
    """What the runs are sorted by, or what the run's stage is about."""
    name = measure if measure in one.after and measure != summary.GOLDEN else one.main
    return f"{name.removeprefix(summary.VALIDATION)} {_change(one, name)}" if name is not None else ""


def _change(one: Summary, measure: str) -> str:
    if measure not in one.after:
        return ""
    before = f"{readable(one.before[measure], measure)} → " if measure in one.before else ""
    return f"{before}{readable(one.after[measure], measure)}"


def _notes(runs: Sequence[Summary], dropped: Sequence[str], total: int) -> list[str]:
    lines = [f"{len(runs)} of {total} runs"] if len(runs) < total else []
    if dropped:
        names = sorted(dropped, key=lambda name: name == "overrides")
        lines.append(f"Too wide to show: {', '.join(names)} (format=json has everything)")
    for one in runs:
        if one.problem is not None and one.status in ("failed", "unreadable"):
            lines.append(
                f"{one.path} {'failed' if one.status == 'failed' else 'cannot be read'}: {_first(one.problem)}"
            )
    killed = [one for one in runs if one.status == "killed"]
    stopped = killed or [one for one in runs if one.status == "interrupted"]
    if killed:
        lines.append("killed: the manifest says running, but no process is at work there")
    if stopped:
        lines.append(f"Continue with: ftlab resume {shlex.quote(str(stopped[0].path))}")
    return lines


def _first(problem: str) -> str:
    return problem.strip().partition("\n")[0]


# --- json ------------------------------------------------------------------------------------------------------------


def _as_dict(one: Summary) -> dict[str, Any]:
    began = datetime.fromtimestamp(one.began).astimezone().isoformat(timespec="seconds")
    return {
        **vars(one),
        "path": str(one.path),
        "began": began,
        "before": _plain(one.before),
        "after": _plain(one.after),
    }


def _plain(measures: dict[str, float]) -> dict[str, float | str]:
    """Numbers that JSON has no way to write become words."""
    return {name: value if math.isfinite(value) else str(value) for name, value in measures.items()}
