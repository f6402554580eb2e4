"""The terminal, or what stands in for it: the only way out for text, so that none of it can steer the terminal.

A row, a file's name or an error may hold sequences that clear the screen, rename the window or turn the reading order
round. Their characters are shown by their number instead, ``<U+001B>``, here as in ``log.txt``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ftlab.base.redaction import redact

# C0 without tab and line break, delete, C1, and what overrides the direction of reading.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


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

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_controls(text), **options)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_controls(text), style, control)


def echo(text: object = "") -> None:
    """A line without markup."""
    print(escape_controls(str(text)))


def echo_error(text: object) -> None:
    """A line on the error output. What it repeats of the user's words may hold a secret, and is shown without it."""
    print(escape_controls(redact(str(text))), file=sys.stderr)


def echo_json(value: Any) -> None:
    """A document, to be read by a program."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def discard_output() -> None:
    """Send further output of the process to nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
