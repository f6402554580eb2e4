"""What a chat prints: answers as they come, wrapped between words on a terminal, and what is to be said beside them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo, echo_error, echo_json, write
from ftlab.use.chat.thinking import ThinkingSplitter
from ftlab.use.models.speaker import Answer, Speaker


class Wrapped:
    """Text that comes in pieces, broken between words at the width of the terminal.

    :param width: its columns; None: lines are left as they are.
    """

    def __init__(self, width: int | None):
        self._width, self._column, self._word, self._is_dim = width, 0, "", False

    def write(self, text: str, is_dim: bool) -> None:
        if self._width is None:
            write(text)
            return
        if is_dim != self._is_dim:
            self.flush()
            self._is_dim = is_dim
        for character in text:
            if character == "\n":
                self.flush()
                write("\n")
                self._column = 0
            elif character.isspace():
                self.flush()
                if self._column < self._width:
                    write(character, self._is_dim)
                self._column += 1  # past the edge: the next word begins a line
            else:
                self._word += character
                if cell_len(character) > 1 or cell_len(self._word) >= self._width:  # may be broken anywhere
                    self.flush()

    def flush(self) -> None:
        """Write the word that more might have come to."""
        if not self._word:
            return
        size = cell_len(self._word)
        if self._width is not None and self._column and self._column + size > self._width:
            write("\n")
            self._column = 0
        write(self._word, self._is_dim)
        self._column += size
        self._word = ""


class Screen:
    """:param is_terminal: whether a user sits there. :param format: ``text`` or ``json``.
    :ivar shows_thinking: whether what is thinking of an answer is printed. :ivar failed: whether something went wrong
    that a script should know of.
    """

    def __init__(self, is_terminal: bool, format: str):
        self.is_terminal, self._is_json = is_terminal, format == "json"
        self.shows_thinking = True
        self.failed = False

    def note(self, text: str) -> None:
        """Something beside the answers; where these go to a program, not between them."""
        if self.is_terminal and not self._is_json:
            echo(text)
        else:
            echo_error(text)

    def show(self, text: str) -> None:
        """What was asked for with a command."""
        echo(text)

    def show_json(self, value: Any) -> None:
        echo_json(value, is_line=True)

    @property
    def is_json(self) -> bool:
        return self._is_json

    def error(self, error: Exception) -> None:
        self.failed = True
        echo_error(error)

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row in rows:
            table.add_row(*row)
        console = Terminal(highlight=False, emoji=False, markup=False)
        width = console.known_width
        if width is None:
            echo("\n".join(f"{name}  {value}" for name, value in rows))
        else:
            console.print(table)

    def begin(self, speaker: Speaker, is_named: bool, opens_thinking: bool) -> Shown:
        """An answer is about to come. :param is_named: whether several answer, so that it has to be said who does."""
        return Shown(self, speaker, is_named, opens_thinking)


class Shown:
    """An answer on the screen."""

    def __init__(self, screen: Screen, speaker: Speaker, is_named: bool, opens_thinking: bool):
        self._screen, self._speaker = screen, speaker
        self._thinking = ThinkingSplitter(opens_thinking)
        self._out = Wrapped(shutil.get_terminal_size().columns if screen.is_terminal else None)
        self._is_silent, self._is_empty, self._hides = screen.is_json, True, False
        if is_named and not self._is_silent:
            write(f"{speaker.name}:\n", is_dim=screen.is_terminal)

    def write(self, text: str) -> None:
        """A piece of it, as the model writes it."""
        if self._is_silent:
            return
        if not self._screen.is_terminal:
            write(text)
            return
        for piece, is_thinking in self._thinking.feed(text):
            self._piece(piece, is_thinking)

    def _piece(self, text: str, is_thinking: bool) -> None:
        if is_thinking and not self._screen.shows_thinking:
            if not self._hides:
                self._hides = True
                self._out.write("thinking ...\n", is_dim=True)
            return
        if self._is_empty:
            text = text.lstrip("\n")
            self._is_empty = not text
        self._out.write(text, is_thinking)

    def end(self, asked: str, answer: Answer, turn: int) -> None:
        """It is whole, or cut. :param asked: what it answers. :param turn: its number in the conversation."""
        if self._is_silent:
            values = {
                "turn": turn, "run": self._speaker.run, "model": self._speaker.name, "prompt": asked,
                "answer": answer.text, "cut": answer.cut, **speed(answer),
            }  # fmt: skip
            echo_json(values, is_line=True)
            return
        for piece, is_thinking in self._thinking.end():
            self._piece(piece, is_thinking)
        self._out.flush()
        write("\n")
        if self._screen.is_terminal:
            write(f"{answer.told}\n\n", is_dim=True)
        else:
            echo_error(answer.told)


def speed(answer: Answer) -> dict[str, Any]:
    rate, first = answer.tokens_per_second, answer.to_first
    return {
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "seconds_to_first_token": None if first is None else round(first, 4),
        "seconds": round(answer.seconds, 4),
        "tokens_per_second": None if rate is None else round(rate, 2),
    }


def is_terminal() -> bool:
    """Whether a user types, and reads what is printed."""
    return sys.stdin.isatty() and sys.stdout.isatty()
