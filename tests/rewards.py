"""A reward that random answers differ in."""

from __future__ import annotations

from typing import Any


def letters(completions: list[str], **_: Any) -> list[float]:
    return [len(completion) / 10 for completion in completions]
