"""An evaluation for people: a table of metrics, and one for each comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.numbers import readable
from ftlab.measure.scores import Score
from ftlab.use.evaluate.compare import Contrast
from ftlab.use.evaluate.kept import Evaluation

_COLOURS = {"better": "green", "worse": "red", "differs": "yellow"}
_PIPE_WIDTH = 120
_WIDE = 100  # columns that a table with all of a comparison takes
_CELLS = ("name", "run", "other", "difference", "bounds", "p")


def console() -> Terminal:
    found = Terminal(highlight=False, emoji=False)
    return found if found.known_width is not None else Terminal(highlight=False, emoji=False, width=_PIPE_WIDTH)


def report(
    evaluation: Evaluation, contrasts: Sequence[tuple[str, list[Contrast]]], width: int | None = None
) -> Iterator[Any]:
    """Lines and tables, in their order.

    :param contrasts: what the run is compared with, and how. :param width: columns of the terminal, if it has any; a
        narrow one goes without the differences, which both sides tell.
    """
    yield Text(_heading(evaluation.values), style="bold")
    for line in (*_notes(evaluation.values), *evaluation.remarks):
        yield Text(line)
    if evaluation.measured:
        table = _table("", "value", "95 % interval", "rows")
        for name, one in evaluation.measured.items():
            table.add_row(name, readable(one.score.value), _interval(one.score), f"{one.score.rows:,}")
        yield table
    for other, found in contrasts:
        yield Text("")
        yield Text(f"beside {other}, on the same rows", style="bold")
        is_narrow = width is not None and width < _WIDE
        names = ["", "run", "other", *([] if is_narrow else ["difference"]), "95 % of difference", "p", ""]
        table = _table(*names)
        for contrast in found:
            cells = dict(zip(_CELLS, (contrast.name, *_contrast(contrast))))
            if is_narrow:
                del cells["difference"]
            style = _COLOURS.get(contrast.verdict)
            table.add_row(*cells.values(), Text(contrast.verdict if style else "", style=style or ""))
        yield table
    for name, reason in evaluation.failures.items():
        yield Text(f"{name} has no value: {reason}", style="red")


def _heading(values: dict[str, Any]) -> str:
    return f"{values['run']} ({values['model']}) on {values['rows']:,} {values['split']} rows of {values['data']}"


def _notes(values: dict[str, Any]) -> Iterator[str]:
    if values["remark"]:
        yield str(values["remark"])
    for reason, count in values["left_out"].items():
        yield f"{count:,} row{'s' * (count != 1)}: {reason}"


def _interval(score: Score) -> str:
    return "" if score.bounds is None else f"{readable(score.bounds[0])} to {readable(score.bounds[1])}"


def _contrast(one: Contrast) -> tuple[str, ...]:
    found = one.found
    sides = (readable(one.ours), readable(one.theirs))
    if found is None:
        return (*sides, _signed(one.ours - one.theirs), "", "")
    bounds = f"{_signed(found.low)} to {_signed(found.high)}"
    return (*sides, _signed(found.value), bounds, "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}")


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '-'}{readable(abs(value))}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 or not name else "right", no_wrap=True)
    return table
