"""Tab completion: what a shell asks when a key is pressed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence


def answer(argv: Sequence[str], start: Callable[[Sequence[str]], None]) -> None:
    """Let Hydra complete a line. It knows no bare words, so those before the last one are taken out."""
    line = os.environ.get("COMP_LINE")
    if line is not None:
        program, *words = line.split(" ")
        given = [word for word in words[:-1] if "=" in word or word.startswith("-")]
        os.environ["COMP_LINE"] = " ".join([program, *given, *words[-1:]])
    start(argv)
