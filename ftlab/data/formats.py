"""Rows of every format -> canonical records.

A canonical conversation is a list of ``{"role", "content"}`` messages (an assistant's may carry ``tool_calls``) with
optional ``tools``; a text is a string. A row that cannot become one raises :class:`RowError` with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


class RowError(ValueError):
    """Why one row cannot be used."""


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: list[Message]
    tools: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    text: str


Record = Conversation | Text


class Columns:
    """The columns of one row under the names that its format knows them by."""

    def __init__(self, row: Mapping[str, Any], names: Mapping[str, str]):
        self._row, self._names = row, names

    def get(self, name: str) -> Any:
        return self._row.get(self._names.get(name, name))

    def text(self, name: str, required: bool = True) -> str:
        """A string column; empty where it is missing and not required."""
        column = self._names.get(name, name)
        value = self._row.get(column)
        if value is None:
            if not required:
                return ""
            raise RowError(f"has no column {column!r}; it has {', '.join(map(repr, self._row)) or 'none'}")
        if not isinstance(value, str):
            raise RowError(f"column {column!r} must be a string, not {type(value).__name__}")
        if required and not value.strip():
            raise RowError(f"column {column!r} is empty")
        return value


def alpaca(row: Columns) -> Conversation:
    """instruction, output; optional input, system, history (a list of [question, answer])."""
    messages = _system(row)
    history = row.get("history") or []
    for turn in history if isinstance(history, list) else [history]:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
            raise RowError("history must be a list of [question, answer] pairs of strings")
        messages += [_message("user", turn[0]), _message("assistant", turn[1])]
    prompt = "\n".join(part for part in (row.text("instruction"), row.text("input", required=False)) if part)
    return Conversation([*messages, _message("user", prompt), _message("assistant", row.text("output"))])


def instruction(row: Columns) -> Conversation:
    """instruction, response; optional context."""
    prompt = "\n".join(part for part in (row.text("instruction"), row.text("context", required=False)) if part)
    return Conversation([*_system(row), _message("user", prompt), _message("assistant", row.text("response"))])


def prompt_completion(row: Columns) -> Conversation:
    """prompt, completion."""
    return Conversation([_message("user", row.text("prompt")), _message("assistant", row.text("completion"))])


_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
                   "observation": "tool", "tool": "tool", "function_call": "function_call"}  # fmt: skip


def sharegpt(row: Columns) -> Conversation:
    """conversations of {from, value}; optional system and tools. Roles: human, gpt, function_call, observation."""
    messages = _system(row)
    for number, turn in enumerate(_list(row, "conversations"), 1):
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise RowError(f"turn {number} must be an object with 'from' and 'value'")
        role = _SHAREGPT_ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
        if role is None:
            raise RowError(f"turn {number} has the unknown role {turn['from']!r}; known: {', '.join(_SHAREGPT_ROLES)}")
        if not isinstance(turn["value"], str):
            raise RowError(f"turn {number}: 'value' must be a string, not {type(turn['value']).__name__}")
        is_call = role == "function_call"
        messages.append(_tool_calls(turn["value"], number) if is_call else _message(role, turn["value"]))
    return _checked(Conversation(messages, _tools(row)))


def messages(row: Columns) -> Conversation:
    """messages of {role, content}, as OpenAI's API takes them; optional tools, assistant tool_calls."""
    found: list[Message] = []
    for number, message in enumerate(_list(row, "messages"), 1):
        if not isinstance(message, dict) or "role" not in message:
            raise RowError(f"message {number} must be an object with 'role' and 'content'")
        if message["role"] not in ("system", "user", "assistant", "tool"):
            raise RowError(f"message {number} has the unknown role {message['role']!r}")
        content = message.get("content")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise RowError(f"message {number}: 'content' must be a string, not {type(content).__name__}")
        found.append({**message, "content": content or ""})
    return _checked(Conversation(found, _tools(row)))


def text(row: Columns) -> Text:
    """text, or training_content."""
    name = "text" if row.get("text") is not None or row.get("training_content") is None else "training_content"
    return Text(row.text(name))


# The columns that each format knows; what data.columns may name.
COLUMNS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "instruction": ("instruction", "context", "response", "system"),
    "prompt_completion": ("prompt", "completion"),
    "sharegpt": ("conversations", "system", "tools"),
    "messages": ("messages", "tools"),
    "text": ("text", "training_content"),
}

CONVERTERS: dict[str, Callable[[Columns], Record]] = {
    "alpaca": alpaca,
    "instruction": instruction,
    "prompt_completion": prompt_completion,
    "sharegpt": sharegpt,
    "messages": messages,
    "text": text,
}


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _system(row: Columns) -> list[Message]:
    content = row.text("system", required=False)
    return [_message("system", content)] if content else []


def _list(row: Columns, name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise RowError(f"column {name!r} must be a list that is not empty")
    return value


def _tools(row: Columns) -> list[Any] | None:
    value = row.get("tools")
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except json.JSONDecodeError as error:
            raise RowError(f"column 'tools' is not JSON: {error.msg}") from None
    if value and not isinstance(value, list):
        raise RowError("column 'tools' must be a list of tools, or JSON of one")
    return value or None


def _tool_calls(value: str, number: int) -> Message:
    try:
        calls = json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(f"turn {number}: function_call is not JSON: {error.msg}") from None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise RowError(f"turn {number}: function_call must be JSON with 'name' and 'arguments'")
    functions = [{"arguments": {}, **call} for call in calls]
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": f} for f in functions]}


def _checked(conversation: Conversation) -> Conversation:
    """An optional system message, then questions (user or tool) and answers in turn, ending with an answer."""
    roles = [m["role"] for m in conversation.messages]
    # The answers to parallel tool calls stand in a row, and are one turn.
    turns = [role for i, role in enumerate(roles) if not (role == "tool" and roles[i - 1 : i] == ["tool"])]
    if "system" in turns[1:]:
        raise RowError("a system message stands after the first place")
    turns = turns[1:] if turns[0] == "system" else turns
    for number, role in enumerate(turns, 1):
        if (role == "assistant") != (number % 2 == 0):
            expected = "an assistant" if number % 2 == 0 else "a user or tool"
            raise RowError(f"turn {number} should be {expected} turn, not {role}")
    if not turns or len(turns) % 2:
        raise RowError("the conversation does not end with an assistant turn")
    last = conversation.messages[-1]
    if not last["content"].strip() and not last.get("tool_calls"):
        raise RowError("the last assistant turn is empty")
    return conversation
