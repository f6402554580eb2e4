"""What is typed: lines of a terminal with readline's keys and its history, or those of a pipe."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ftlab.base.filenames import is_utf8
from ftlab.errors import FtlabError

_QUOTES = '"""'
_KEPT = 2000  # lines of history
_LOOKS = 0.2  # seconds between two looks for a signal
PROMPT, MORE = ">>> ", "... "


class UnreadableInput(FtlabError, ValueError):
    """What was typed is no text, or has no end."""


class PipeReader:
    """Lines of standard input, without a prompt."""

    is_terminal = False

    def read(self) -> str | None:
        """What is said next: a line, or all between two ``\\"\\"\\"``; None at the end.

        :raises UnreadableInput: there is no second ``\\"\\"\\"``, or it is no UTF-8.
        """
        line = self._line(PROMPT)
        if line is None:
            return None
        before, quotes, text = line.partition(_QUOTES)
        if not quotes or not (before.strip() == "" or before.lstrip().startswith("/")):
            return _as_text(line)
        lines = [text]
        while _QUOTES not in lines[-1]:
            line = self._line(MORE)
            if line is None:
                raise UnreadableInput(f"{_QUOTES} was not closed, and nothing was asked.")
            lines.append(line)
        lines[-1] = lines[-1].partition(_QUOTES)[0]
        return _as_text(f"{before}{_trimmed(lines)}")

    def close(self) -> None:
        """Keep what is to be kept."""

    def _line(self, prompt: str) -> str | None:
        """:param prompt: what a terminal asks with."""
        line = sys.stdin.buffer.readline()  # of which each line that is no UTF-8 is told by itself
        return line.decode("utf-8", "surrogateescape").rstrip("\r\n") if line else None


class TerminalReader(PipeReader):
    """:param history: the file of what was typed, or None. :param words: of a line and its last word, what Tab offers
    for that."""

    is_terminal = True

    def __init__(self, history: Path | None, words: Callable[[str, str], Sequence[str]]):
        import readline

        self._readline, self._history = readline, history
        if history is not None and history.is_file():
            try:
                readline.read_history_file(history)
            except OSError:  # it cannot be read; what is typed now is known all the same
                self._history = None
        readline.set_history_length(_KEPT)
        readline.set_completer_delims(" \t\n")
        readline.set_completer(lambda text, at: self._completion(words, text, at))
        readline.parse_and_bind("tab: complete")

    def close(self) -> None:
        if self._history is None:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)  # it may hold what is nobody else's
            self._readline.write_history_file(self._history)
        except OSError:
            return  # a chat that has no place for its history is one all the same

    def _completion(self, words: Callable[[str, str], Sequence[str]], text: str, at: int) -> str | None:
        found = words(self._readline.get_line_buffer(), text)
        return found[at] if at < len(found) else None

    def _line(self, prompt: str) -> str | None:
        try:
            with _no_signal_missed():
                return input(prompt)
        except EOFError:
            return None


@contextmanager
def _no_signal_missed() -> Iterator[None]:
    """``input()`` looks for signals only where one interrupts its waiting for a key: Ctrl-C that comes between a key
    and that waiting, or to another thread, would do nothing until the line is ended, and then throw it away. A timer
    interrupts the waiting again and again."""
    handler = signal.signal(signal.SIGALRM, lambda number, frame: None)
    timer = signal.setitimer(signal.ITIMER_REAL, _LOOKS, _LOOKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def _trimmed(lines: Sequence[str]) -> str:
    """Without the line breaks right after the first and right before the second quotes."""
    text = "\n".join(lines)
    return text.removeprefix("\n").removesuffix("\n")


def _as_text(line: str) -> str:
    if not is_utf8(line):
        raise UnreadableInput("What was typed is not UTF-8, and nothing was asked.")
    return line
