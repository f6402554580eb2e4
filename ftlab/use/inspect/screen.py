"""A terminal of few lines: what is shown there while data is prepared, and how much of a row fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.control import Control
from rich.segment import ControlType
from rich.text import Text as Coloured

from ftlab.base.console import Terminal
from ftlab.base.wrapping import pieces
from ftlab.policy.tokens import Tokens
from ftlab.use.inspect.rows import Row
from ftlab.use.inspect.show import TEXT_TOKENS, SampleView, as_plain, show_row

_BESIDE = 4  # lines of a screen that are not the row's: blank ones, the result, the prompt of the shell
_LEAST = 100  # tokens of a text that are shown however few lines there are


def is_screen(to: Terminal) -> bool:
    """Whether lines that were printed can be taken back."""
    return to.is_terminal and to.file.isatty() and not to.is_dumb_terminal


@contextmanager
def preview(to: Terminal, text: str) -> Iterator[None]:
    """Show what fits of a text, and take it away at the end of the block; if that fails, it stays.

    :param text: as a console captured it, colours included.
    """
    lines = [Coloured.from_ansi(line) for line in text.rstrip("\n").split("\n")]
    kept, height = 0, 1  # the line of a bar
    while kept < len(lines) and height + _height(lines[kept], to.width) < to.height - 1:
        height += _height(lines[kept], to.width)
        kept += 1
    shown = lines[:kept] if kept == len(lines) else [*lines[:kept], Coloured("…")]
    for line in shown:
        to.print(line, no_wrap=True, overflow="ignore", crop=False)
    yield
    up = sum(_height(line, to.width) for line in shown)
    to.control(Control(ControlType.CARRIAGE_RETURN, *[(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * up))


def _height(line: Coloured, width: int) -> int:
    return max(1, -(-line.cell_len // width))


def views_that_fit(rows: Sequence[Row], tokens: Tokens, full: bool, to: Terminal) -> list[SampleView]:
    """The samples of rows, each cut in the middle until it is no higher than the terminal. :param full: cut nothing."""
    return [view for row in rows for view in _views_of(row, tokens, full, to)]


def _views_of(row: Row, tokens: Tokens, full: bool, to: Terminal) -> list[SampleView]:
    limit = TEXT_TOKENS
    while True:
        views = list(show_row(row, tokens, full, limit))
        if full or limit <= _LEAST or max(_lines(view, to.width) for view in views) <= to.height - _BESIDE:
            return views
        limit = max(_LEAST, limit * 2 // 3)


def _lines(view: SampleView, width: int) -> int:
    text = [view.title, as_plain(view.text, ("", "")).rstrip("\n"), as_plain(view.ids, ("", ""), " ")]
    return sum(len(pieces(line, width)) for part in text for line in part.split("\n"))
