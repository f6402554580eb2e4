"""The README and the pages of docs/ as a new user goes through them: each command as it stands there, in a terminal of
80 columns and 24 lines, and what it said.

``WALKTHROUGH=FILE pytest -m slow tests/test_walkthrough.py`` writes everything that was said to a file, to be read.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len

COLUMNS, LINES = 80, 24
_BLOCK = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.MULTILINE)
_INLINE = re.compile(r"`((?:ftlab|python -m ftlab|job|step)\s[^`]+)`")
_COMMAND = re.compile(r"(?:echo .* \| )?(?:python -m )?ftlab(?=\s|$)")
_SAID = re.compile(r"job \d|step \d+:|[│┃]|\w+: .*\d")  # how what a page shows of the output begins
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


@dataclass(frozen=True)
class Shown:
    """What a page shows, with its line: a command to type, or else text that a command prints."""

    line: int
    text: str
    is_command: bool


def shown(page: str) -> Iterator[Shown]:
    """Commands and printed lines of a page in their order: those in blocks, and those inside a sentence."""
    places = [(found.start(), found[0], True) for found in _BLOCK.finditer(page)]
    prose = _BLOCK.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), page)
    places += [(found.start(1), " ".join(found[1].split()), False) for found in _INLINE.finditer(prose)]
    for start, text, is_block in sorted(places):
        first = page.count("\n", 0, start) + 1
        for below, line in enumerate(text.split("\n") if is_block else [text]):
            command = re.split(r"\s+#", line.strip())[0].strip()
            if _COMMAND.match(command):
                yield Shown(first + below, command, True)
            elif _SAID.match(line.strip()) and not line.strip().startswith("- "):
                yield Shown(first + below, line.strip(), False)


@dataclass(frozen=True)
class Said:
    """What a command left in the terminal. :param raw: with every frame of what moves."""

    code: int
    raw: str

    @property
    def frames(self) -> list[str]:
        """Every line that was ever in the terminal, also those that others took the place of."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", _ESCAPE.sub("", self.raw))]

    @property
    def too_wide(self) -> list[str]:
        return [line for line in self.frames if cell_len(line) > COLUMNS]

    @property
    def text(self) -> str:
        """What stands in the terminal at the end: lines that a moving bar took back are gone."""
        lines, row, column = [""], 0, 0
        for piece in re.split(rf"({_ESCAPE.pattern}|[\r\n\b])", self.raw.replace("\r\n", "\n")):
            if piece == "\n":
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif piece == "\r":
                column = 0
            elif piece.startswith("\x1b["):
                count = int(piece[2:-1]) if piece[2:-1].isdigit() else 1
                if piece.endswith("A"):
                    row = max(0, row - count)
                elif piece.endswith("K"):
                    lines[row] = "" if piece[2:-1] == "2" else lines[row][:column]
            elif not piece.startswith("\x1b"):
                lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
                column += len(piece)
        return "\n".join(line.rstrip() for line in lines).strip("\n")


def in_terminal(command: str, folder: Path, env: dict[str, str], typed: str, timeout: float) -> Said:
    """Run a line of a shell as a user does who sits at a terminal.

    :param typed: what waits for whatever the command asks.
    :param timeout: seconds after which it is stopped; its exit code is then that of SIGKILL.
    """
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env={**env, "TERM": "xterm-256color"},
        stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    os.write(outer, typed.encode())
    said, deadline = bytearray(), time.monotonic() + timeout
    try:
        while time.monotonic() < deadline and (read := _read(outer, deadline)):
            said += read
        if time.monotonic() >= deadline:
            os.killpg(process.pid, signal.SIGKILL)
        return Said(process.wait(), said.decode("utf-8", "replace"))
    finally:
        os.close(outer)


def _read(outer: int, deadline: float) -> bytes:
    """What comes next; nothing at the end, or when the time is over."""
    if not select.select([outer], [], [], max(0, deadline - time.monotonic()))[0]:
        return b""
    try:
        return os.read(outer, 65536)
    except OSError:  # Linux says so where all who could write have gone
        return b""


def alike(text: str) -> str:
    """Text without what differs from run to run or from terminal to terminal: numbers, and where lines are broken."""
    return " ".join(re.sub(r"\d[\d,.]*", "#", text).split())
