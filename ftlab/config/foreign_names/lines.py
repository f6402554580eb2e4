"""What a key of another tool is here: the kinds of answers, and how one is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml


class NotNeeded(str):
    """Why what the other tool wants to be told need not be said here."""


class Absent(str):
    """Why there is no such thing here, or what takes its place."""


# Overrides, parted by spaces, with "{}" for the value that was given there and "[{}]" for it as a list; with a note,
# where the meaning differs.
Answer = str | tuple[str, str] | NotNeeded | Absent
# A mapping has an answer for each value, in lower case, and perhaps "" for the others.
Line = Answer | Mapping[str, Answer] | Callable[[Any], Answer]

_PARTS = re.compile(r" (?=[a-z][a-z_./0-9]*=)")
_OFF = (None, False, 0, "", "no", "none", "null", "false")


class UnknownValueError(ValueError):
    """The other tool knows no such value. ``allowed``: those that it does."""

    def __init__(self, allowed: list[str]):
        super().__init__(f"must be one of: {', '.join(allowed)}.")
        self.allowed = allowed


def answer(line: Line, value: Any) -> Answer:
    """What a line says of one value, of whatever type; None is a name without a value, as a switch is given.

    :raises UnknownValueError: the line has an answer for some values alone.
    """
    if callable(line) and not isinstance(line, str):
        return line(value)
    if not isinstance(line, Mapping):
        return line
    word = as_word(value)
    if word in line:
        return line[word]
    if "" in line:
        return line[""]
    if value is None:
        return next(iter(line.values()))
    raise UnknownValueError([*line])


def as_word(value: Any) -> str:
    """A value as the tables write it: in lower case, numbers without what does not matter.

    >>> as_word(True), as_word(1.0), as_word("FA2"), as_word(None)
    ('true', '1', 'fa2', '')
    """
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return "" if value is None else str(value).lower()


def is_off(value: Any) -> bool:
    """Whether a value switches off what its key is about, or leaves it as it is."""
    return value in ([], {}) or any(value is off or (type(value) is type(off) and value == off) for off in _OFF)


def as_list(value: Any) -> list[Any]:
    """A list, or words parted by commas or spaces, perhaps in brackets."""
    if isinstance(value, list):
        return value
    words = str(value).strip("[]() ")
    return [yaml.safe_load(word) for word in re.split(r"[,\s]+", words) if word]


def parts(template: str) -> list[str]:
    """The overrides of an answer."""
    return _PARTS.split(template)


def overrides(template: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The keys that an answer sets, with their values.

    >>> list(overrides("lora.r={}", 8)), list(overrides("lora.target_modules=[{}]", "q_proj,v_proj"))
    ([('lora.r', 8)], [('lora.target_modules', ['q_proj', 'v_proj'])])
    """
    for part in parts(template):
        key, _, text = part.partition("=")
        if text == "{}":
            yield key, value
        elif text == "[{}]":
            yield key, as_list(value)
        else:
            yield key, yaml.safe_load(text.format(value))
