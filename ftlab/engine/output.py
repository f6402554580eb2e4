"""What a run says: on the terminal, and without colours in its log.txt."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from ftlab.base.progress import Bar
from ftlab.base.terminal import Terminal


def quiet_libraries() -> None:
    """No telemetry, no banners. Called before the libraries are imported; a user's own environment wins."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "BITSANDBYTES_NOWELCOME": "1",
    }.items():
        os.environ.setdefault(name, value)


class Output:
    """:param log: the file that gets a copy of every line, and the libraries' warnings."""

    def __init__(self, log: Path):
        self._file = log.open("a", encoding="utf-8", buffering=1)
        self.console = Terminal(highlight=False)
        self._log = Console(file=self._file, width=160, highlight=False, color_system=None)
        logging.captureWarnings(True)
        warnings.simplefilter("default")
        handler = logging.StreamHandler(self._file)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.getLogger("py.warnings").handlers = [handler]
        logging.getLogger("py.warnings").propagate = False

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("py.warnings").handlers = []
        self._file.close()

    def say(self, what: Any = "") -> None:
        """A line of rich markup, or any rich renderable."""
        soft_wrap = isinstance(what, str)  # a path cut in two cannot be copied
        self.console.print(what, soft_wrap=soft_wrap)
        self._log.print(what, soft_wrap=soft_wrap)

    def note(self, line: str) -> None:
        """For the log only."""
        self._log.print(line, markup=False, soft_wrap=True)

    def progress(self, description: str, total: int, unit: str = "") -> Bar:
        return Bar(self.console, description, total, unit)
