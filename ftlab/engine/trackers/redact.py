"""What is sent to a tracker is sent without secrets: those that are known, and what looks like one."""

from __future__ import annotations

import os
import re
from typing import Any

from ftlab.base.redaction import REDACTED, masked, secret_in

_NAMES = re.compile(r"(?i)(?:token|secret|password|passwd|api_?key|access_?key|credentials?)$")
_SHORTEST = 8  # characters of a value of the environment that is worth hiding


def redact(text: str) -> str:
    """``text`` without the values of the environment's secrets, keys, and names and passwords in URLs."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMES.search(name):
            text = text.replace(value, REDACTED)
    return masked(text)


def redacted(value: Any) -> Any:
    """The same in every string of a config or a document; one that looks like a secret in itself goes as a whole."""
    if isinstance(value, dict):
        return {redacted(key): redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    if isinstance(value, str):
        return REDACTED if secret_in(value) else redact(value)
    return value
