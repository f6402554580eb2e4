"""What a run says: on the terminal, and without colours in its log.txt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ftlab.base.console import Terminal
from ftlab.base.progress import Bar
from ftlab.engine.process import collected_warnings


class Output:
    """What a run tells: on the terminal, and in its log, which also gets the warnings that its work raises.

    :param log: the file that gets a copy of every line; None where what the process prints is in a file already.
    :param has_terminal: False where the terminal is somebody else's.
    """

    def __init__(self, log: Path | None, has_terminal: bool = True):
        path = Path(os.devnull) if log is None else log
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        is_terminal = None if has_terminal else False  # None: rich looks
        self.console = Terminal(log, highlight=False, quiet=not has_terminal, force_terminal=is_terminal)
        self._log = Terminal(file=self._file, width=160, highlight=False, color_system=None)
        self._warnings = collected_warnings(self.note)

    def __enter__(self) -> Output:
        self._warnings.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._warnings.__exit__(*error)
        self._file.close()

    def say(self, what: Any = "") -> None:
        """A line of rich markup, or any rich renderable."""
        soft_wrap = isinstance(what, str)  # a path cut in two cannot be copied
        self.console.print(what, soft_wrap=soft_wrap)
        self._log.print(what, soft_wrap=soft_wrap)

    def note(self, line: str) -> None:
        """For the log only."""
        self._log.print(line, markup=False, soft_wrap=True)

    def progress(self, description: str, total: int, unit: str = "", only_live: bool = False) -> Bar:
        return Bar(self.console, description, total, unit, only_live)
