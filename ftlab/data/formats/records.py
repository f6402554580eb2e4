"""What rows become."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

Message = dict[
    str, Any
]  # role (system, user, assistant, tool), content; perhaps tool_calls, name, reasoning_content ...


class RowError(ValueError):
    """The reason why one row cannot be used. Rows are counted by it, so what varies from row to row is kept short."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """:param trains: for each message, whether the row wants it learned; None where the row does not say."""

    messages: list[Message]
    tools: list[Any] | None = None
    trains: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """:param prompt: ends with a user or tool message. :param chosen: begins and ends with an assistant message."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """:param label: whether the answer is a good one."""

    prompt: list[Message]
    answer: list[Message]
    label: bool
    tools: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """:param messages: end with a user or tool message. :param columns: what else the row has, for reward functions."""

    messages: list[Message]
    answer: str | None
    columns: dict[str, Any]
    tools: list[Any] | None = None


Record = Conversation | Text | Pair | Labelled | Prompt


def content_hash(record: Record | None, *more: str) -> int:
    """A hash of 64 bits of what a record says: the columns that a prompt carries for its rewards do not count.

    :param more: what is hashed beside it.
    """
    if record is None:
        return _hash(repr(more))
    names = ("messages", "answer", "tools") if isinstance(record, Prompt) else record.__slots__
    # Not the record's own repr, which is Python: this is a fifth of the time that rows are compared in.
    return _hash(repr((type(record).__name__, *[getattr(record, name) for name in names], *more)))


def prompt_hash(record: Record) -> int | None:
    """The same of what a record asks: all that comes before its last answer; None for plain text."""
    if isinstance(record, Text):
        return None
    if isinstance(record, Prompt):
        return _hash(repr((record.messages, record.tools)))
    messages = record.messages if isinstance(record, Conversation) else record.prompt
    if isinstance(record, Conversation) and messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return _hash(repr((messages, record.tools)))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def shorten_value(value: Any) -> str:
    """Return a short form of any value, for use in a reason."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no longer one
        text = "a number of thousands of digits"
    except RecursionError:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:37]}..."


def is_blank(text: str) -> bool:
    return not text or text.isspace()
