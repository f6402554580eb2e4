"""Names of files that are not UTF-8, which no record of a run could hold: shown, and how to rename them.

Python reads such a byte as half of a surrogate pair (PEP 383).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def show(text: str) -> str:
    """The same text, with ``\\xff`` in place of a byte that is not UTF-8."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def rename_advice(path: str | Path) -> str:
    """The command that gives a file, or the first folder on the way to it, a name in UTF-8."""
    parts = Path(path).parts
    first = next(i for i, part in enumerate(parts) if not is_utf8(part))
    wrong = str(Path(*parts[: first + 1]))
    escaped = show(wrong.replace("\\", "\\\\").replace("'", "\\'"))
    clean = os.fsencode(wrong).decode("utf-8", "replace").replace("\ufffd", "_")
    return f"Rename it: mv -- $'{escaped}' {shlex.quote(clean)}"
