"""The terminal, or what stands in for it: the only way out for text, so that none of it can steer the terminal.

A row, a file's name or an error may hold sequences that clear the screen, rename the window or turn the reading order
round. Their characters are shown by their number instead, ``<U+001B>``, here as in ``log.txt``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ftlab.base.redaction import redact
from ftlab.base.wrapping import pieces
from ftlab.errors import NotReadyError

# C0 without tab and line break, delete, C1, what overrides the direction of reading, and what no output can encode.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    """The same text, with ``<U+001B>`` in place of a character that a terminal would obey.

    >>> escape_controls("\\x1b[2J")
    '<U+001B>[2J'
    """
    return _CONTROLS.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


class Terminal(Console):
    """Writes on to nowhere once nobody reads any more, as behind ``| head``; rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()

    @property
    def known_width(self) -> int | None:
        """Columns of the terminal, or those that ``COLUMNS`` says; None for a pipe that wants lines whole."""
        is_known = self.is_terminal or (self.file is sys.stdout and _asked_width() is not None)
        return self.width if is_known else None

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich has it; but a line that is not to be wrapped by rich's rules (``soft_wrap``) is broken between words
        where the width is known. A word, such as a path, is never cut: it could not be copied."""
        width = self.known_width
        if options.get("soft_wrap") and width is not None and len(objects) == 1 and isinstance(objects[0], str | Text):
            (line,) = objects
            text = self.render_str(line, markup=options.get("markup")) if isinstance(line, str) else line
            objects = (_between_words(text, width),)
        try:
            super().print(*objects, **options)
        except OSError as error:
            if error.errno != errno.ENOSPC or self.file is not sys.stdout:
                raise
            self.quiet = True  # what a run computes is worth more than what it prints
            discard_output()
            echo_error(f"The output cannot be written any more: {error.strerror}. What goes on says so no longer here.")

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_controls(text), **options)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_controls(text), style, control)


def echo(text: object = "") -> None:
    """A line without markup, broken between words where the width is known.

    :raises NotReadyError: the output is a file on a full disk.
    """
    _print(_fitted(escape_controls(str(text)), sys.stdout))


def echo_error(text: object) -> None:
    """A line on the error output. What it repeats of the user's words may hold a secret, and is shown without it."""
    print(_fitted(escape_controls(redact(str(text))), sys.stderr), file=sys.stderr)


def _fitted(text: str, stream: TextIO) -> str:
    """Lines no longer than the terminal is wide, but for words that are; what goes on is indented a little more."""
    width = _asked_width()
    if width is None and stream.isatty():
        width = shutil.get_terminal_size().columns
    return text if width is None else "\n".join(_broken(line, width) for line in text.split("\n"))


def _between_words(text: Text, width: int) -> Text:
    """The same text with line breaks between words; what goes on is indented a little more."""
    return Text("\n").join(
        Text.assemble(piece.indent, line[piece.start : piece.stop], piece.end)
        for line in text.split("\n", allow_blank=True)
        for piece in pieces(line.plain, width)
    )


def _broken(line: str, width: int) -> str:
    return "\n".join(piece.indent + line[piece.start : piece.stop] + piece.end for piece in pieces(line, width))


def _asked_width() -> int | None:
    """What ``COLUMNS`` says, which counts behind a pipe too."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) > 0 else None


def echo_json(value: Any) -> None:
    """A document, to be read by a program."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    _print(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        discard_output()
        raise NotReadyError(f"The output cannot be written: {error.strerror}.") from None


def discard_output() -> None:
    """Send further output of the process to nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
