"""Lists of messages, in the words of ShareGPT, of OpenAI's API, or of the user -> canonical messages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftlab.data.formats.columns import parse_json
from ftlab.data.formats.records import Message, RowError, is_blank, shorten_value

# What data.tags may name: the keys of role and content, and the words for each role.
TAGS = ("role", "content", "user", "assistant", "observation", "function", "system")

_CALL = "function_call"  # the role of a ShareGPT turn whose content is the JSON of tool calls
_CANONICAL = {"user": "user", "assistant": "assistant", "observation": "tool", "function": _CALL, "system": "system"}

# Each style's words, its own first: that one stays known where data.tags gives others.
_STYLES: dict[str, dict[str, tuple[str, ...]]] = {
    "sharegpt": {
        "role": ("from",),
        "content": ("value",),
        "user": ("human", "user"),
        "assistant": ("gpt", "assistant"),
        "system": ("system",),
        "observation": ("observation", "tool"),
        "function": ("function_call",),
    },
    "messages": {
        "role": ("role",),
        "content": ("content",),
        "system": ("system", "developer"),
        "user": ("user",),
        "assistant": ("assistant",),
        "observation": ("tool", "function"),
        "function": (),
    },
}

_QUESTION = frozenset({"user", "tool"})
_ANSWER = frozenset({"assistant"})
BEGINNING = _QUESTION | {"system"}  # the roles that may begin a conversation
# The roles that may follow each. The answers to parallel tool calls stand in a row.
_NEXT = {"system": _QUESTION, "user": _ANSWER, "tool": _ANSWER | {"tool"}, "assistant": _QUESTION}

_STRINGS = ("name", "tool_call_id", "reasoning_content")
_REPLACED = frozenset({"role", "content", "tool_calls", "function_call", "train", "weight", "loss_weight"})


@dataclass(frozen=True, slots=True)
class Words:
    """:param roles: canonical roles by the words for them. :param own: whether the keys are the canonical ones."""

    noun: str
    role: str
    content: str
    roles: dict[str, str]
    is_canonical: bool


@dataclass(frozen=True, slots=True)
class Turns:
    messages: list[Message]
    trains: list[bool] | None

    @property
    def has_answer(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"


def detect_words(turns: list[Any], style: str | None, tags: Mapping[str, str]) -> Words:
    """:param style: ``sharegpt`` or ``messages``; None sees which by the keys of the first turn."""
    seen = style
    if seen is None:
        first = turns[0]
        seen = "sharegpt" if isinstance(first, dict) and ("from" in first or "value" in first) else "messages"
    return _words_of_tags(seen, style is None, frozenset(tags.items())) if tags else _PLAIN[seen]


@functools.cache
def _words_of_tags(style: str, either: bool, tags: frozenset[tuple[str, str]]) -> Words:
    given, own = dict(tags), _STYLES[style]
    roles: dict[str, str] = {}
    for known in _STYLES.values() if either else (own,):
        for tag, role in _CANONICAL.items():
            if tag not in given:
                roles.update(dict.fromkeys(known[tag][:1], role))
    roles |= {given[tag]: role for tag, role in _CANONICAL.items() if tag in given}
    return _words(style, given.get("role", own["role"][0]), given.get("content", own["content"][0]), roles)


def _words(style: str, role: str, content: str, roles: dict[str, str]) -> Words:
    return Words("turn" if style == "sharegpt" else "message", role, content, roles, (role, content) == _OWN_KEYS)


_OWN_KEYS = ("role", "content")
_PLAIN = {
    style: _words(
        style,
        words["role"][0],
        words["content"][0],
        {word: _CANONICAL[tag] for tag in words if tag in _CANONICAL for word in words[tag]},
    )
    for style, words in _STYLES.items()
}


def begins_conversation(turns: Any, tags: Mapping[str, str]) -> bool:
    """Whether the value is a list that begins with a question or a system message, not with an answer."""
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return False
    words = detect_words(turns, None, tags)
    role = turns[0].get(words.role)
    return isinstance(role, str) and words.roles.get(role) in BEGINNING


def read_turns(
    turns: list[Any], words: Words, system: str = "", is_answer: bool = False, merges: bool = False
) -> Turns:
    """Messages in the right order: an optional system message, then questions (user or tool) and answers in turn.

    :param system: the system message of a column of its own. :param is_answer: the list begins with an answer.
    :param merges: whether turns of one side in a row become one, with an empty line between them.
    :raises RowError: with the number of the turn, from 1.
    """
    role_key, content_key, roles, own = words.role, words.content, words.roles, words.is_canonical
    messages: list[Message] = []
    allowed = _ANSWER if is_answer else BEGINNING
    if not is_blank(system):
        messages.append({"role": "system", "content": system})
        allowed = _QUESTION
    trains: dict[int, bool] = {}
    for number, turn in enumerate(turns, 1):
        message: Message | None = None
        try:
            word, content = turn[role_key], turn[content_key]
            role = roles[word]
            if len(turn) == 2 and type(content) is str and role != _CALL:
                message = turn if own and word == role else {"role": role, "content": content}
        except (KeyError, TypeError):
            pass  # odd or wrong: read with care below
        if message is None:
            message = _read(turn, words, number)
            role, content = message["role"], message["content"]
            said = _trains(turn, words, number)
            if said is not None:
                trains[len(messages)] = said
        can_merge = role not in allowed and bool(messages) and _can_merge(messages[-1], message)
        is_merged = merges and can_merge
        if role not in allowed and not is_merged:
            raise _order_error(role, allowed, number, can_merge)
        allowed = _NEXT[role]
        if not content or content.isspace():
            if role == "system":  # the same as none, as in a column
                trains.pop(len(messages), None)
                continue
            if role != "tool" and not message.get("tool_calls"):
                last = number == len(turns) and role == "assistant"
                which = "the last assistant turn" if last else f"{words.noun} {number} ({role})"
                raise RowError(f"{which} is empty")
        if is_merged:
            place, default = len(messages) - 1, role == "assistant"
            if trains.pop(len(messages), default) != trains.get(place, default):
                raise RowError(
                    f"{words.noun} {number} is merged with the one before it, and only one of them is trained"
                )
            messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{content}"}
            continue
        messages.append(message)
    if not trains:
        return Turns(messages, None)
    return Turns(messages, [trains.get(i, m["role"] == "assistant") for i, m in enumerate(messages)])


def _can_merge(one: Message, other: Message) -> bool:
    """Whether two turns in a row are text of one side, and of nothing else."""
    if {one["role"], other["role"]} not in ({"user"}, {"assistant"}) or one.get("tool_calls"):
        return False
    return all(key == "content" or one.get(key) == value for key, value in other.items())


def _order_error(role: str, allowed: frozenset[str], number: int, can_merge: bool) -> RowError:
    if role == "system":
        return RowError("a system message stands after the first place")
    expected = "an assistant" if "assistant" in allowed else "a user or tool"
    advice = " (data.on_same_role=merge joins it to the one before)" if can_merge else ""
    return RowError(f"turn {number} should be {expected} turn, not {role}{advice}")


def _read(turn: Any, words: Words, number: int) -> Message:
    """One message of any kind, or why it is none."""
    here = f"{words.noun} {number}"
    made = isinstance(turn, dict) and (turn.get("tool_calls") or turn.get("function_call"))
    if not isinstance(turn, dict) or words.role not in turn or (words.content not in turn and not made):
        raise RowError(f"{here} must be an object with {words.role!r} and {words.content!r}")
    word, content = turn[words.role], turn.get(words.content)
    role = words.roles.get(word) if isinstance(word, str) else None
    if role is None:
        raise RowError(f"{here} has the unknown role {shorten_value(word)}; known: {', '.join(words.roles)}")
    turn, content = _without_parts(turn, content, words, here)
    calls = _tool_calls(turn, here)
    if role == _CALL:
        calls, role, content = _parse_calls(content, here), "assistant", ""
    if calls and role != "assistant":
        raise RowError(f"{here}: only an assistant calls tools, not {role}")
    message: Message = {
        "role": role,
        "content": "" if content is None and calls else _content(content, words.content, here),
    }
    if calls:
        message["tool_calls"] = calls
    for key, value in turn.items():
        if value is not None and key not in _REPLACED and key != words.role and key != words.content:
            if key in _STRINGS and not isinstance(value, str):
                raise RowError(f"{here}: {key!r} must be a string, not {type(value).__name__}")
            message[key] = value
    return message


def _without_parts(turn: Message, content: Any, words: Words, here: str) -> tuple[Message, Any]:
    """A message whose content is a list of LLaMA-Factory's parts (``type`` and ``value``) with its reasoning and its
    tool calls where OpenAI has them. Others as they are."""
    if not isinstance(content, list) or not any(isinstance(part, dict) and "value" in part for part in content):
        return turn, content
    found: dict[str, list[str]] = {"text": [], "reasoning": [], "tool_call": []}
    for part in content:
        kind, value = (part.get("type"), part.get("value")) if isinstance(part, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(value, str):
            raise RowError(f"{here}: a part of {words.content!r} must be an object with 'type' and 'value'")
        if kind not in found:
            known = ", ".join(map(repr, found))
            raise RowError(
                f"{here}: a part of {words.content!r} is of type {shorten_value(kind)}; only {known} can be read"
            )
        found[kind].append(value)
    turn = dict(turn)
    if found["reasoning"]:
        turn["reasoning_content"] = "".join(found["reasoning"])
    if found["tool_call"]:
        turn["tool_calls"] = [call for value in found["tool_call"] for call in _parse_calls(value, here)]
    return turn, "".join(found["text"])


def _content(content: Any, key: str, here: str) -> str:
    """A string, or OpenAI's list of text parts joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(f"{here}: {key!r} must be a string, not {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind is not None and kind != "text":
            raise RowError(f"{here}: a part of {key!r} is of type {shorten_value(kind)}; only 'text' can be read")
        text = part.get("text") if kind else None
        if not isinstance(text, str):
            raise RowError(f"{here}: a part of {key!r} must be an object with 'type' and 'text'")
        texts.append(text)
    return "".join(texts)


def _trains(turn: Message, words: Words, number: int) -> bool | None:
    """What the message says of itself: OpenAI's ``weight`` of 0 or 1, LLaMA-Factory's ``loss_weight``, or ``train``."""
    weight, train = turn.get("weight"), turn.get("train")
    name = "weight" if weight is not None else "loss_weight"
    weight = turn.get(name)
    if weight is not None and weight not in (0, 1):
        raise RowError(f"{words.noun} {number}: {name!r} must be 0 or 1, not {shorten_value(weight)}")
    if train is not None and not isinstance(train, bool):
        raise RowError(f"{words.noun} {number}: 'train' must be true or false, not {shorten_value(train)}")
    if weight is not None and train is not None and bool(weight) != train:
        raise RowError(f"{words.noun} {number}: 'weight' and 'train' contradict each other")
    return train if weight is None else bool(weight)


def _tool_calls(turn: Message, here: str) -> list[Message]:
    """The calls of an OpenAI message; ``function_call`` is how one was written before there could be several."""
    calls, legacy = turn.get("tool_calls"), turn.get("function_call")
    if legacy is not None:
        if calls:
            raise RowError(f"{here} has both 'tool_calls' and 'function_call'")
        return [_tool_call(_function(legacy, here, "'function_call'"))]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise RowError(f"{here}: 'tool_calls' must be a list, not {type(calls).__name__}")
    found = []
    for call in calls:
        kind = call.get("type") if isinstance(call, dict) else None
        if kind is not None and kind != "function":
            raise RowError(f"{here}: a tool call is of type {shorten_value(kind)}; only 'function' can be read")
        nested = isinstance(call, dict) and call.get("function") is not None
        function = _function(call["function"] if nested else call, here, "a tool call")
        if nested:
            found.append(call if kind and function is call["function"] else {**call, **_tool_call(function)})
        else:  # the name and arguments themselves
            found.append(_tool_call({key: value for key, value in function.items() if key not in ("id", "type")}))
            if call.get("id") is not None:
                found[-1]["id"] = call["id"]
    return found


def _parse_calls(content: Any, here: str) -> list[Message]:
    """The calls that a ShareGPT turn writes as JSON."""
    value = parse_json(content, f"{here}: function_call is not JSON") if isinstance(content, str) else content
    calls = value if isinstance(value, list) else [value]
    functions = [_function(call, here, "function_call") for call in calls or [None]]
    return [_tool_call(function) for function in functions]


def _tool_call(function: Message) -> Message:
    return {"type": "function", "function": function}


def _function(function: Any, here: str, what: str) -> Message:
    """A call's name and arguments, the arguments an object whether or not they came as JSON of one."""
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or is_blank(name):
        form = "JSON" if what == "function_call" else "an object"
        raise RowError(f"{here}: {what} must be {form} with 'name' and 'arguments'")
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        return function
    if isinstance(arguments, str):
        arguments = (
            {} if is_blank(arguments) else parse_json(arguments, f"{here}: the arguments of {what} are not JSON")
        )
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowError(f"{here}: the arguments of {what} must be an object, not {type(arguments).__name__}")
    return {**function, "arguments": arguments}
