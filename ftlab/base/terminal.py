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
from typing import Any, TextIO

# C0 without tab and line break, delete, C1, what overrides the direction of reading, and what no output can encode.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str) -> str:
    """The same text, with ``<U+001B>`` in place of a character that a terminal would obey.

    >>> escape_controls("\\x1b[2J")
    '<U+001B>[2J'
    """
    return _CONTROLS.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def echo(text: object = "") -> None:
    """A line without markup, broken between words where the width is known.

    :raises NotReadyError: the output is a file on a full disk.
    """
    _print(_fitted(escape_controls(str(text)), sys.stdout))


def echo_error(text: object) -> None:
    """A line on the error output. What it repeats of the user's words may hold a secret, and is shown without it.

    Where it cannot be written, because its disk is full or nobody reads any more, nothing is left to say it on.
    """
    from ftlab.base.redaction import redact  # whose patterns --help does not need

    try:
        print(_fitted(escape_controls(redact(str(text))), sys.stderr), file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        discard_output(sys.stderr)


def _fitted(text: str, stream: TextIO) -> str:
    """Lines no longer than the terminal is wide, but for words that are; what goes on is indented a little more."""
    width = asked_width()
    if width is None and stream.isatty():
        width = shutil.get_terminal_size().columns
    return text if width is None else "\n".join(_broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    if line.isascii() and len(line) <= width:
        return line
    from ftlab.base.wrapping import pieces  # of which a line that fits has no need

    return "\n".join(piece.indent + line[piece.start : piece.stop] + piece.end for piece in pieces(line, width))


def asked_width() -> int | None:
    """What ``COLUMNS`` says, which counts behind a pipe too."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) > 0 else None


def write(text: str, is_dim: bool = False) -> None:
    """A piece of a line, as it comes. :param is_dim: in a colour that steps back, where the terminal has such.

    :raises NotReadyError: as :func:`echo`.
    """
    shown = escape_controls(text)
    has_colours = sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
    _print(f"\x1b[2m{shown}\x1b[0m" if is_dim and has_colours else shown, end="")


def echo_document(text: str) -> None:
    """Lines as they are, however wide: a program may read them. :raises NotReadyError: as :func:`echo`."""
    _print(escape_controls(text).removesuffix("\n"))


def echo_json(value: Any, is_line: bool = False) -> None:
    """A document, to be read by a program. :param is_line: in one line, one of several."""
    text = json.dumps(value, indent=None if is_line else 2, ensure_ascii=False)
    _print(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _print(text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise full_output(error) from None


def full_output(error: OSError) -> Exception:
    """What to raise where the output's disk is full. Nothing more is written there."""
    from ftlab.errors import NotReadyError  # which imports Hydra

    discard_output(sys.stdout)
    return NotReadyError(f"The output cannot be written: {error.strerror}.")


def discard_output(stream: TextIO) -> None:
    """Send what the process still writes to ``stream``, standard output or the error output, to nowhere, so that the
    interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
