"""The tables of a report: the leaderboard and what the runs cost. Each can be sorted by every column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from ftlab.base.numbers import readable
from ftlab.rundir.leaderboard import TRAIN_LOSS, is_number
from ftlab.rundir.leaderboard_table import duration
from ftlab.rundir.summary import GOLDEN_COUNTS
from ftlab.use.report.collect import Evaluated, Report, RunPage
from ftlab.use.report.markup import NONE, as_text, quiet, section, swatch

_Cell = tuple[str, object]  # HTML, and what it is sorted by: a number, a text, or None where there is none
_Row = TypeVar("_Row", RunPage, Evaluated)
_Column = tuple[str, Callable[[RunPage], _Cell]]
_NOTHING: _Cell = (NONE, None)


def leaderboard(report: Report) -> str:
    objective = report.board.objective
    ranked_by = None if objective is None else objective.measure
    measures = dict.fromkeys(name for run in report.runs for name in run.entry.measures if name not in GOLDEN_COUNTS)
    columns: list[_Column] = [("run", _switch), ("rank", lambda run: _count(run.entry.rank))]
    columns += [(key, partial(_setting, key=key)) for key in report.keys]
    columns += [("state", _state), ("step", _step)]
    if ranked_by is not None:
        columns.append((ranked_by, lambda run: _number(run.entry.value, ranked_by)))
    if ranked_by != TRAIN_LOSS:
        columns.append((TRAIN_LOSS, lambda run: _number(run.entry.loss)))
    columns += [(name, partial(_measure, measure=name)) for name in measures if name != ranked_by]
    columns.append(("folder", lambda run: (as_text(run.entry.path or NONE), str(run.entry.path or ""))))
    note = quiet("The name of a column sorts by it; the box of a run shows or hides its curves.")
    buttons = (
        '<p class="tools"><button type="button" data-show="all">show all</button> '
        '<button type="button" data-show="best">only the best five</button> '
        '<button type="button" data-show="none">hide all</button></p>'
    )
    table = _table("leaderboard", columns, report.runs, _run)
    return section("board", "Leaderboard", note, buttons if len(report.runs) > 1 else "", table)


def costs(report: Report) -> str:
    """Empty where nothing has begun."""
    begun = [run for run in report.runs if run.entry.path is not None]
    if not begun:
        return ""
    columns: list[_Column] = [
        ("run", lambda run: (f"{swatch(run)} {as_text(run.label)}", run.entry.number)),
        ("time", lambda run: (duration(run.entry.seconds).replace("-", NONE), run.entry.seconds)),
        ("steps", lambda run: _count(run.entry.step)),
        ("tokens", lambda run: _count(run.entry.tokens)),
        ("tokens/s in training", lambda run: _count(_median(run, "tokens_per_second"))),
        ("tokens/s of all the time", lambda run: _count(_rate(run))),
    ]
    has_memory = any(run.memory is not None for run in begun)
    if has_memory:
        columns.append(("peak GPU memory, GB", lambda run: _number(run.memory)))
    seconds = sum(run.entry.seconds or 0.0 for run in begun)
    tokens = sum(run.entry.tokens for run in begun)
    total = f"In all {duration(seconds)} of work, and {tokens:,.0f} tokens trained on."
    note = quiet(total if has_memory else f"{total} Memory is logged of GPUs, and there was none.")
    return section("costs", "Costs", note, _table("cost-table", columns, begun, _run))


def evaluations(report: Report) -> str:
    """What ``ftlab evaluate`` has found. Empty where nothing was evaluated."""
    if not report.evaluated:
        return ""
    columns: list[tuple[str, Callable[[Evaluated], _Cell]]] = [
        ("run", lambda one: (f"{swatch(one.run)} {as_text(one.run.label)}", one.run.entry.number)),
        ("evaluation", lambda one: (as_text(one.name), one.name)),
        ("beside", lambda one: _NOTHING if one.other is None else (as_text(one.other), one.other)),
    ]
    names = dict.fromkeys(name for one in report.evaluated for name in one.metrics)
    columns += [(name, partial(_metric, name=name)) for name in names]
    note = quiet(
        "By ftlab evaluate, with 95 % intervals. A line with another model beside is the difference to it on the same "
        "rows: * where a paired test tells them apart."
    )
    return section("evaluations", "Evaluations", note, _table("evaluation-table", columns, report.evaluated, _of))


def _of(one: Evaluated) -> RunPage:
    return one.run


def _metric(one: Evaluated, name: str) -> _Cell:
    found = one.metrics.get(name, {})
    value: Any = found.get("value" if one.other is None else "difference")
    if not is_number(value):
        return _NOTHING
    told = readable(value) if one.other is None else f"{'+' if value > 0 else ''}{readable(value)}"
    low: Any = found.get("low")
    high: Any = found.get("high")
    if is_number(low) and is_number(high):
        told += f" ({readable(low)} to {readable(high)})"
    if found.get("verdict") in ("better", "worse"):
        told += f" * {found['verdict']}"
    return as_text(told), value if value == value else None


def _run(run: RunPage) -> RunPage:
    return run


def _table(
    name: str,
    columns: Sequence[tuple[str, Callable[[_Row], _Cell]]],
    rows_of: Iterable[_Row],
    run_of: Callable[[_Row], RunPage],
) -> str:
    """It scrolls by itself where it is wider than the page. :param run_of: of a row, to show and hide it with."""
    rows = [(run_of(row), [make(row) for _, make in columns]) for row in rows_of]
    numeric = [
        at > 0 and all(value is None or isinstance(value, int | float) for _, value in column)
        for at, column in enumerate(zip(*(cells for _, cells in rows)))
    ]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    heads = "".join(
        f'<th scope="col"{kind}><button type="button" class="sort">{as_text(title)}</button></th>'
        for (title, _), kind in zip(columns, kinds)
    )
    body = "".join(
        f'<tr data-run="{run.entry.number}">'
        + "".join(
            f'<td{kind} data-value="{"" if value is None else as_text(value)}">{text}</td>'
            for (text, value), kind in zip(cells, kinds)
        )
        + "</tr>"
        for run, cells in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{name}"><table id="{name}"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


# --- cells -----------------------------------------------------------------------------------------------------------


def _number(value: float | None, measure: str = "") -> _Cell:
    """One that is no number is shown, and sorted as if it were missing."""
    if value is None:
        return _NOTHING
    return as_text(readable(value, measure)), value if value == value else None


def _count(value: float | None) -> _Cell:
    return _NOTHING if value is None else (f"{value:,.0f}", value)


def _measure(run: RunPage, measure: str) -> _Cell:
    return _number(run.entry.measures.get(measure), measure)


def _setting(run: RunPage, key: str) -> _Cell:
    value = run.settings.get(key)
    if value is None:
        return _NOTHING
    try:
        return as_text(value), float(value)
    except ValueError:
        return as_text(value), value


def _state(run: RunPage) -> _Cell:
    return f'<span class="{run.entry.state}">{run.entry.state}</span>', run.entry.state


def _step(run: RunPage) -> _Cell:
    entry = run.entry
    if not entry.step and entry.total_steps is None:
        return _NOTHING
    total = f"/{entry.total_steps:,}" if entry.total_steps is not None else ""
    return f"{entry.step:,}{total}", entry.step


def _switch(run: RunPage) -> _Cell:
    """A box that shows or hides a run."""
    number, label = run.entry.number, as_text(run.label)
    return (
        f'<label class="switch"><input type="checkbox" checked data-switch="{number}" aria-label="show {label}">'
        f"{swatch(run)} <span>{label}</span></label>"
    ), number


def _median(run: RunPage, key: str) -> float | None:
    """Of what was logged."""
    curve = run.train.get(key)
    values = sorted(value for value in (curve.values if curve is not None else []) if value is not None)
    return values[len(values) // 2] if values else None


def _rate(run: RunPage) -> float | None:
    return run.entry.tokens / run.entry.seconds if run.entry.seconds else None
