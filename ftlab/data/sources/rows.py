"""One row: what it says, or what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_HALVES = rb"\ud", rb"\uD"  # how JSON escapes half of a surrogate pair
NOT_UTF8 = "not UTF-8"  # how a reason begins that another encoding would mend
NUL = "holds a NUL character (U+0000), where many programs end a text; remove it"


@dataclass(frozen=True, slots=True)
class Row:
    """:param number: the line of a text, JSON Lines or CSV file, or the place in a list or table, from 1.
    :param problem: if any; ``value`` is then None.
    """

    number: int
    value: Any
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """Stands for a value that could not be read."""

    problem: str


class RepeatedKey(ValueError):
    """A JSON object has one key twice, and nothing says which of the two values is meant."""


def load_json(text: str) -> Any:
    """As ``json.loads``.

    :raises RepeatedKey: an object has a key twice.
    """
    return DECODER.decode(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RepeatedKey(f"has the key {shorten_key(twice)} twice in one object")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def shorten_key(key: str) -> str:
    """Return the key quoted, at most about 40 characters of it."""
    return repr(key) if len(key) <= 40 else f"{key[:37]!r}..."


def from_json(line: bytes) -> Any:
    """The object on one line of JSON Lines, or :class:`Broken`."""
    if b"\0" in line:
        return Broken(NUL)
    try:
        value = load_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Broken(f"{NOT_UTF8} at byte {error.start} of the line")
    except RepeatedKey as error:
        return Broken(str(error))
    except json.JSONDecodeError as error:
        comma = " (JSON Lines has no comma between rows)" if line.rstrip().endswith(b",") else ""
        return Broken(f"not JSON: {error.msg} in column {error.colno}{comma}")
    except (ValueError, RecursionError) as error:
        return Broken(f"not JSON: {is_reader_limit(error)}")
    return check_usable(value) if may_be_unusable(line) else require_object(value)


def from_text(text: bytes) -> Any:
    """``{"text": ...}`` of a line or a document, or :class:`Broken`."""
    if b"\0" in text:
        return Broken(NUL)
    try:
        return {"text": text.decode("utf-8")}
    except UnicodeDecodeError as error:
        return Broken(f"{NOT_UTF8} at byte {error.start}; is it text?")


def require_object(value: Any) -> Any:
    return value if isinstance(value, (dict, Broken)) else Broken("is not an object with columns")


def may_be_unusable(source: bytes) -> bool:
    """Whether this JSON has an escape that could stand for what :func:`check_usable` looks for. Cheap."""
    return rb"\u" in source and (rb"\u0000" in source or any(half in source for half in _HALVES))


def check_usable(value: Any) -> Any:
    """Return the value, or the problem if its strings hold what JSON can write, but UTF-8 and tokenizers cannot."""
    if holds_nul(value):
        return Broken(NUL)
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return Broken("holds half of a surrogate pair, which no text can")
    return require_object(value)


def holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(holds_nul, value.values()))
    return isinstance(value, list) and any(map(holds_nul, value))


def is_reader_limit(error: Exception) -> str:
    """Whether an error comes from a limit of Python's reader and is no error of the JSON."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
