"""Lines broken for the width of a terminal so that nothing in them is lost: neither a path nor a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len

# What a reader will copy: alone on its line, or after a colon up to the line's end.
_COMMAND = re.compile(r"(?:^\s*|: )((?:ftlab|tensorboard|wandb|python|pip|git|iconv|gunzip) .*)$")
# A number stays with the word before it: at the beginning of a line it says nothing.
_WORD = re.compile(r"(?<!\S)[^\W\d]\S{,23} [\d.,]*\d,?(?=\s|$)|\S+")
_ARGUMENT = re.compile(r"""(?:'[^']*'|"[^"]*"|\S)+""")  # of a shell: quotes hold it together


@dataclass(frozen=True)
class Piece:
    """``line[start:stop]``, which begins with ``indent`` and ends with ``end``."""

    start: int
    stop: int
    indent: str = ""
    end: str = ""


def pieces(line: str, width: int) -> list[Piece]:
    r"""Break a line between words, each piece ``width`` columns wide at most; a longer word stays whole.

    A command goes on a line of its own if it fits there, and else goes on after a backslash, as a shell reads it.

    >>> for piece in pieces("Stopped. Continue with: ftlab resume outputs/a", 30):
    ...     print(piece.indent + "Stopped. Continue with: ftlab resume outputs/a"[piece.start : piece.stop] + piece.end)
    Stopped. Continue with:
      ftlab resume outputs/a
    """
    if cell_len(line) <= width:
        return [Piece(0, len(line))]
    text = line.lstrip()
    indent = line[: len(line) - len(text)] + ("    " if text.startswith("- ") else "  ")
    found = _COMMAND.search(line)
    command = found.start(1) if found else len(line)
    breaks = list(_breaks(line, command, width, indent))
    return [
        Piece(
            start, start + len(line[start:stop].rstrip()), indent if start else "",
            " \\" if command < stop < len(line) else "",
        )
        for start, stop in zip([0, *breaks], [*breaks, len(line)])
    ]  # fmt: skip


def _breaks(line: str, command: int, width: int, indent: str) -> Iterator[int]:
    """Where the second piece begins, and each after it. :param command: where a command begins."""
    start = 0
    words = [*_WORD.finditer(line, 0, command), *_ARGUMENT.finditer(line, command)]
    for word in words:
        if not line[start : word.start()].strip():
            continue  # a piece has one word at least
        used = cell_len(line[start : word.end()]) + (len(indent) if start else 0)
        if word.start() >= command and word is not words[-1]:
            used += len(" \\")
        is_command = word.start() == command and cell_len(line[start:]) + (len(indent) if start else 0) > width
        if used > width or is_command:
            start = word.start()
            yield start
