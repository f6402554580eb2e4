"""The terminal, or what stands in for it."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class Terminal(Console):
    """Writes on to nowhere once nobody reads any more, as behind ``| head``; rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()


def discard_output() -> None:
    """Send further output of the process to nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
