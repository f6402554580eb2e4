"""A conversation with one or several models, and the files that it is saved to and read from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlab.data.formats import CONVERTERS, Columns, Message, RowError
from ftlab.data.formats.records import is_blank
from ftlab.data.sources.rows import load_json
from ftlab.errors import DataError
from ftlab.rundir.files import write_atomic

_ROW = 'a row {"messages": [{"role": "user", "content": "..."}, ...]}'


@dataclass
class Turn:
    """:param asked: what comes before an answer: a user's message, or what tools have said.
    :param answers: by the name of who wrote it; of a conversation that was read from a file by no name, ``""``.
    :param cut: names whose answer is not whole.
    """

    asked: list[Message]
    answers: dict[str, Message] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)

    def answer_for(self, name: str) -> Message | None:
        """What a model has answered; where it was not asked, what the first of the others has."""
        return self.answers.get(name) or next(iter(self.answers.values()), None)


@dataclass
class Conversation:
    """:param tools: that the models may call, as a file has them. :param saved: the rows that it has in files."""

    system: str | None
    turns: list[Turn] = field(default_factory=list)
    tools: list[Any] | None = None
    saved: dict[Path, list[str]] = field(default_factory=dict)

    def messages(self, name: str, is_asking: bool = True) -> list[Message]:
        """The conversation as one model knows it. :param is_asking: with a last turn that nobody has answered yet."""
        found: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns:
            answer = turn.answer_for(name)
            if answer is not None or is_asking:
                found += [*turn.asked, *([] if answer is None else [answer])]
        return found

    def asking(self, name: str) -> list[Message]:
        """The same up to the last question, whatever was answered."""
        *before, last = self.turns
        return [*Conversation(self.system, before).messages(name), *last.asked]

    @property
    def is_answered(self) -> bool:
        return bool(self.turns) and bool(self.turns[-1].answers)


def read_conversation(path: Path, place: int | None) -> tuple[Conversation, int, str | None]:
    """A conversation of a file: messages or ShareGPT, in JSON, JSON Lines, CSV, Parquet ... as ``data.path`` takes it.

    :param place: which, from 1; None: the last.
    :return: the conversation, how many there are, and what of it is not kept.
    :raises DataError: there is no such file, it has no conversation, or that one is none.
    """
    from ftlab.data.sources.files import Files

    if not path.is_file():
        raise DataError(f"{path} {'is no file' if path.exists() else 'does not exist'}.")
    count, chosen, number = 0, None, 0
    for block in Files((path,)).blocks():
        for row in block.rows():
            count += 1
            if place is None or count == place:
                chosen, number = row, row.number
    if chosen is None:
        raise DataError(f"{path} has no conversation {place}: it has {count}.")
    where = f"{path}:{number}"
    if chosen.problem is not None:
        raise DataError(f"{where}: {chosen.problem}. A conversation is {_ROW}.")
    try:
        messages, tools, marks = _read(chosen.value)
    except RowError as error:
        raise DataError(f"{where}: {error}. A conversation is {_ROW}.") from None
    remark = "which of its answers are trained on is not kept" if marks else None
    return _conversation(messages, tools), count, remark


def _read(row: Any) -> tuple[list[Message], list[Any] | None, bool]:
    style = "sharegpt" if isinstance(row, dict) and "conversations" in row else "messages"
    columns = Columns(row, {})
    try:
        found: Any = CONVERTERS[style](columns)
    except RowError as error:
        try:
            asked: Any = CONVERTERS["prompts"](columns)  # it may end with a question
        except RowError:
            raise error from None
        return asked.messages, asked.tools, False
    return found.messages, found.tools, found.trains is not None


def _conversation(messages: list[Message], tools: list[Any] | None) -> Conversation:
    has_system = messages[0]["role"] == "system"
    conversation = Conversation(messages[0]["content"] if has_system else None, tools=tools)
    for message in messages[has_system:]:
        if message["role"] == "assistant":
            conversation.turns[-1].answers[""] = message
        elif conversation.turns and not conversation.is_answered:
            conversation.turns[-1].asked.append(message)
        else:
            conversation.turns.append(Turn([message]))
    return conversation


def save_conversation(conversation: Conversation, path: Path, names: Sequence[str]) -> int:
    """Add what each of some models knows of a conversation to a file, a row each. Rows that it has there already, from
    when it was shorter, get the new ones in their place.

    :return: how many conversations the file has now.
    :raises DataError: there is nothing to save, a row that no training takes, or the file is another kind of file.
    """
    rows = [_row(conversation, name) for name in names]
    lines = list(dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in rows))
    earlier = conversation.saved.get(path, ())
    there = [line for line in _lines(path) if line not in earlier]
    try:
        write_atomic(path, "".join(f"{line}\n" for line in [*there, *lines]))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from None
    conversation.saved[path] = lines
    return len(there) + len(lines)


def _lines(path: Path) -> Iterator[str]:
    """The rows of a file. :raises DataError: one of them is no conversation."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DataError(f"{path} cannot be added to: {reason}.") from None
    for number, line in enumerate(text.split("\n"), 1):
        if is_blank(line):
            continue
        try:
            CONVERTERS["messages"](Columns(load_json(line), {}))
        except ValueError as error:  # what is no JSON, and what is no conversation
            reason = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{path}:{number}: {reason}. It is no file of conversations; name another one.") from None
        yield line


def _row(conversation: Conversation, name: str) -> dict[str, Any]:
    messages = conversation.messages(name, is_asking=False)
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise DataError("There is no answer to save yet.")
    if any(is_blank(answer["content"] or "") and not answer.get("tool_calls") for answer in answers):
        raise DataError("An answer is empty, and no training takes such a row: /retry or /undo it.")
    tools = {} if conversation.tools is None else {"tools": conversation.tools}
    return {"messages": messages, **tools}
