"""A console of rich's over the terminal: tables, colours and progress, with nothing in them that steers it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ftlab.base.terminal import asked_width, discard_output, echo_error, escape_controls, full_output
from ftlab.base.wrapping import pieces


class Terminal(Console):
    """Writes on to nowhere once nobody reads any more, as behind ``| head``; rich would end the process.

    :param log: the file that gets every line too. With it a full disk below standard output is told once, and what a
        run computes goes on; without it, it is an error.
    """

    def __init__(self, log: Path | None = None, **options: Any):
        super().__init__(**options)
        self._copy = log

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output(sys.stdout)

    @property
    def known_width(self) -> int | None:
        """Columns of the terminal, or those that ``COLUMNS`` says; None for a pipe that wants lines whole."""
        is_known = self.is_terminal or (self.file is sys.stdout and asked_width() is not None)
        return self.width if is_known else None

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints; but a line that is not to be wrapped by rich's rules (``soft_wrap``) is broken between words
        where the width is known. A word, such as a path, is never cut: it could not be copied.

        :raises NotReadyError: standard output is a file on a full disk, and there is no log.
        """
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
            self.quiet = True
            told = full_output(error)
            if self._copy is None:
                raise told from None
            echo_error(
                f"Standard output is full ({error.strerror}); the run goes on, and what it says is in {self._copy}"
            )

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_controls(text), **options)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_controls(text), style, control)


def _between_words(text: Text, width: int) -> Text:
    """The same text with line breaks between words; what goes on is indented a little more."""
    return Text("\n").join(
        Text.assemble(piece.indent, line[piece.start : piece.stop], piece.end)
        for line in text.split("\n", allow_blank=True)
        for piece in pieces(line.plain, width)
    )
