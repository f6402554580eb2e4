"""One converter for each format.

Of several spellings of one thing, a row's first wins, in the order given here; a null is no value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ftlab.data.formats.columns import Columns
from ftlab.data.formats.records import (
    Conversation,
    Labelled,
    Message,
    Pair,
    Prompt,
    Record,
    RowError,
    Text,
    is_blank,
    shorten_value,
)
from ftlab.data.formats.turns import Turns, begins_conversation, detect_words, read_turns

_PROMPTS = ("prompt", "instruction", "messages", "conversations")
_LISTS = ("messages", "conversations")
_QUESTIONS = ("prompt", "instruction")
_COMPLETIONS = ("completion", "output", "response")
_ANSWERS = ("answer", "ground_truth")
_TEXTS = ("text", "training_content")
_INSTRUCTION = ("instruction", "input", "system", "history")
_NO_DIFFERENCE = "chosen and rejected are the same"

# The columns that each format knows; what data.columns may name.
COLUMNS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history", "tools", "id"),
    "sharegpt": ("conversations", "system", "tools", "id"),
    "messages": ("messages", "system", "tools", "id"),
    "instruction": ("instruction", "context", "response", "system", "id"),
    "prompt_completion": ("prompt", "completion", "system", "tools", "id"),
    "preference": (*_PROMPTS, "input", "system", "history", "chosen", "rejected", "tools", "id"),
    "kto": (*_PROMPTS, "input", "system", "history", *_COMPLETIONS, "label", "tools", "id"),
    "prompts": (*_PROMPTS, "input", "system", "history", *_ANSWERS, "tools", "id"),
    "text": (*_TEXTS, "id"),
}


def alpaca(row: Columns) -> Conversation:
    """instruction, output; optional input, system, history (a list of [question, answer]), tools."""
    return Conversation([*_instruction(row), _message("assistant", row.text("output"))], row.tools())


def instruction(row: Columns) -> Conversation:
    """instruction, response; optional context, system."""
    asked = _message("user", _question(row, "context"))
    return Conversation([*_system(row), asked, _message("assistant", row.text("response"))])


def prompt_completion(row: Columns) -> Conversation:
    """prompt, completion, each a string or a list of messages; optional system, tools."""
    if row.get("prompt") is None:
        raise row.missing_columns((("prompt",),))
    prompt, answer = _prompt(row, "prompt"), _answer(row, "completion")
    trains = None
    if prompt.trains or answer.trains or any(message["role"] == "assistant" for message in prompt.messages):
        # The completion is what such a row is for: an answer within the prompt is learned only where it says so.
        of_answer = answer.trains or [message["role"] == "assistant" for message in answer.messages]
        trains = [*(prompt.trains or [False] * len(prompt.messages)), *of_answer]
    return Conversation(prompt.messages + answer.messages, row.tools(), trains)


def sharegpt(row: Columns) -> Conversation:
    """conversations of {from, value}; optional system, tools. Roles: human, gpt, function_call, observation, system."""
    return _conversation(row, "conversations", "sharegpt")


def messages(row: Columns) -> Conversation:
    """messages of {role, content}, as OpenAI's API takes them; optional system, tools."""
    return _conversation(row, "messages", "messages")


def text(row: Columns) -> Text:
    """text, or training_content."""
    column = row.first(_TEXTS)
    if column is None:
        raise row.missing_columns((_TEXTS,))
    return Text(row.text(column))


def preference(row: Columns) -> Pair:
    """chosen, rejected: strings, messages, or lists of messages; and what they answer, as in :func:`prompts`.

    Lists of messages that begin with a question are whole conversations: the prompt is what they share. They stand
    with no prompt, or beside one as a string, which is then part of them (TRL's implicit prompt).
    """
    if row.get("chosen") is None or row.get("rejected") is None:
        raise row.missing_columns((_PROMPTS, ("chosen",), ("rejected",)), (("chosen",), ("rejected",)))
    column = row.first(_PROMPTS)
    whole = [begins_conversation(row.get(name), row.tags) for name in ("chosen", "rejected")]
    if all(whole) and (column is None or (column == "prompt" and isinstance(row.get("prompt"), str))):
        both = (_turns(row, name, row.get(name), ends=True).messages for name in ("chosen", "rejected"))
        pair = Pair(*_split_shared_turns(*both), row.tools())
        asked = row.optional("prompt").strip()
        if not any(asked in message["content"] for message in pair.prompt):
            raise RowError("the prompt is no part of the conversations that chosen and rejected are")
        return pair
    if column is None:
        raise row.missing_columns((_PROMPTS, ("chosen",), ("rejected",)))
    prompt, chosen, rejected = _prompt(row, column), _answer(row, "chosen"), _answer(row, "rejected")
    if _is_same_message(chosen.messages, rejected.messages):
        raise RowError(_NO_DIFFERENCE)
    return Pair(prompt.messages, chosen.messages, rejected.messages, row.tools())


def kto(row: Columns) -> Labelled:
    """label; prompt or instruction and completion, output or response, or a conversation whose last turn is judged."""
    asked, answered, conversation = row.first(_QUESTIONS), row.first(_COMPLETIONS), row.first(_LISTS)
    if row.get("label") is None or not ((asked and answered) or conversation):
        raise row.missing_columns((_QUESTIONS, _COMPLETIONS, ("label",)), (_LISTS, ("label",)))
    label = _label(row.get("label"), row.name("label"))
    if asked and answered:
        return Labelled(_prompt(row, asked).messages, _answer(row, answered).messages, label, row.tools())
    assert conversation is not None
    messages = _turns(row, conversation, row.get(conversation), ends=True).messages
    return Labelled(messages[:-1], messages[-1:], label, row.tools())


def prompts(row: Columns) -> Prompt:
    """prompt (a string or messages), instruction (with input, history), messages or conversations; perhaps an answer.

    An assistant's turn at the end of messages is no part of the prompt; it is the answer where no column is.
    """
    column = row.first(_PROMPTS)
    if column is None:
        raise row.missing_columns((_PROMPTS,))
    turns = _prompt(row, column, may_be_answered=True)
    answered = turns.messages.pop()["content"] if turns.has_answer else ""
    given = row.first(_ANSWERS)
    answer = _reference_answer(row, given) if given else None if is_blank(answered) else answered
    read = (*(_INSTRUCTION if column == "instruction" else (column, "system")), "tools", *((given,) if given else ()))
    return Prompt(turns.messages, answer, row.unread_columns(read), row.tools())


CONVERTERS: dict[str, Callable[[Columns], Record]] = {
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "messages": messages,
    "instruction": instruction,
    "prompt_completion": prompt_completion,
    "preference": preference,
    "kto": kto,
    "prompts": prompts,
    "text": text,
}


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _system(row: Columns) -> list[Message]:
    content = row.optional("system")
    return [] if is_blank(content) else [_message("system", content)]


def _question(row: Columns, more: str) -> str:
    """The instruction and, on a line of its own, what it is about; either may be empty."""
    about = row.optional(more)
    asked = row.text("instruction", may_be_blank=not is_blank(about))
    return "\n".join(part for part in (asked, about) if not is_blank(part))


def _instruction(row: Columns) -> list[Message]:
    found = _system(row)
    history = row.get("history") or []
    for number, turn in enumerate(history if isinstance(history, list) else [history], 1):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(part, str) for part in turn)):
            raise RowError("history must be a list of [question, answer] pairs of strings")
        if any(map(is_blank, turn)):
            raise RowError(f"history pair {number}: the {'question' if is_blank(turn[0]) else 'answer'} is empty")
        found += [_message("user", turn[0]), _message("assistant", turn[1])]
    return [*found, _message("user", _question(row, "input"))]


def _conversation(row: Columns, column: str, style: str | None) -> Conversation:
    if row.get(column) is None:
        raise row.missing_columns(((column,),))
    turns = _turns(row, column, row.get(column), ends=True, style=style)
    return Conversation(turns.messages, row.tools(), turns.trains)


def _turns(
    row: Columns, column: str, value: Any, ends: bool, style: str | None = None, is_answer: bool = False
) -> Turns:
    """The messages of a column; a reason names the column where the row has several.

    :param ends: it must end with an answer. :param is_answer: it must begin with one, too.
    """
    if not isinstance(value, list) or not value:
        raise RowError(f"column {row.name(column)!r} must be a list that is not empty")
    try:
        system = "" if is_answer else row.optional("system")
        turns = read_turns(value, detect_words(value, style, row.tags), system, is_answer, row.merges)
        if ends and not turns.has_answer:
            raise RowError("the conversation does not end with an assistant turn")
    except RowError as error:
        if column in _LISTS:
            raise
        raise RowError(f"{row.name(column)}: {error}") from None
    return turns


def _prompt(row: Columns, column: str, may_be_answered: bool = False) -> Turns:
    """What is to be answered, from whichever column holds it."""
    if column == "instruction":
        return Turns(_instruction(row), None)
    value = row.get(column)
    if column == "prompt" and not isinstance(value, list):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise RowError(f"column {row.name(column)!r} must be a string or a list of messages, not {kind}")
        return Turns([*_system(row), _message("user", row.text(column))], None)
    turns = _turns(row, column, value, ends=False)
    asked = turns.messages[:-1] if turns.has_answer and may_be_answered else turns.messages
    if not asked or asked[-1]["role"] not in ("user", "tool"):
        raise RowError("the prompt does not end with a user or tool turn")
    return turns


def _answer(row: Columns, column: str) -> Turns:
    """A string, a message, or a list of messages that begins and ends with the assistant's."""
    value = row.get(column)
    if value is None or isinstance(value, str):
        return Turns([_message("assistant", row.text(column))], None)
    if not isinstance(value, dict | list):
        kind = type(value).__name__
        raise RowError(f"column {row.name(column)!r} must be a string, a message or a list of messages, not {kind}")
    return _turns(row, column, [value] if isinstance(value, dict) else value, ends=True, is_answer=True)


def _split_shared_turns(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """What two conversations share, up to a question; and what each has beyond it, its last answer at least."""
    if _is_same_message(chosen, rejected):
        raise RowError(_NO_DIFFERENCE)
    most = min(len(chosen), len(rejected)) - 1
    shared = next((i for i in range(most) if not _is_same_message(chosen[i], rejected[i])), most)
    while shared and not chosen[shared]["role"] == rejected[shared]["role"] == "assistant":
        shared -= 1
    if not shared:
        raise RowError("chosen and rejected do not begin with the same question")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _is_same_message(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:
        raise RowError("nested too deeply") from None


def _label(value: Any, column: str) -> bool:
    if isinstance(value, str):
        known = {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
        if known is not None:
            return known
    elif isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise RowError(f"column {column!r} must be true or false, or 1 or 0, not {shorten_value(value)}")


def _reference_answer(row: Columns, column: str) -> str:
    """An answer to compare with: a string, or a number or truth value as JSON writes it."""
    value = row.get(column)
    if isinstance(value, str):
        return row.text(column)
    if not isinstance(value, bool | int | float):
        raise RowError(f"column {row.name(column)!r} must be a string or a number, not {type(value).__name__}")
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:  # not a number, infinite, or of thousands of digits
        raise RowError(
            f"column {row.name(column)!r} must be a string or a number, not {shorten_value(value)}"
        ) from None
