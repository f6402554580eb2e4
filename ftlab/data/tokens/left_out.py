"""What a chat template leaves out of a conversation: earlier reasoning, a system message, tools, names.

A part whose words stand in the text is there, and most rows need no more than to be looked through for them. Words that
do not stand there may have been written otherwise (as JSON, in capitals), and words that do may stand there by chance;
then numbers are put among the words of every part, the conversation is rendered once more, and the numbers that do not
come out belong to what is left out. What the template does with conversations of known words is tried beforehand: a
part that is not there, of a kind that it never writes, needs no rendering.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

from ftlab.data.formats import Message, Record, RowError
from ftlab.data.tokens.templates import Template, conversations

EARLIER, REASONING, TOOLS = "reasoning of earlier turns", "reasoning", "tools"
_CONTENT = {"system": "the system message", "user": "a user's message", "assistant": "an assistant's message",
            "tool": "a tool's message"}  # fmt: skip
_OTHER = "Name a template that writes it (model.template=NAME), or mend chat_template.jinja of the model's folder."
# What can be left out, with what to do about it.
KINDS: dict[str, str] = {
    EARLIER: "Those answers are learned without it. Cut each conversation behind each of its answers, so that every "
    "answer is once the last, or train on the last alone (data.train_on=last).",
    REASONING: "Name a template that writes it (model.template=qwen3 or deepseek_r1), or put it into the content "
    "between <think> and </think>.",
    _CONTENT["system"]: "Name a template that writes it (model.template=NAME), or begin the first question with it.",
    _CONTENT["user"]: _OTHER,
    _CONTENT["assistant"]: _OTHER,
    _CONTENT["tool"]: _OTHER,
    "tool calls": "Name a template that writes them, such as model.template=qwen or llama3_1.",
    TOOLS: "Name a template that writes them, such as model.template=qwen or llama3_1.",
    "names": "If the model is to know who speaks, write it into the content.",
}
_BITS = {kind: 1 << place for place, kind in enumerate(KINDS)}
_BEGINNING = 32
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")  # transformers takes the first that a message has

Way = tuple[str, str, bool]  # kind, how the row has it, whether before the last question
Rewrite = Callable[[str, Way, int | None], str]  # words, their way, and the place of their message


@dataclass(frozen=True, slots=True)
class Loss:
    """:param message: the place of the message that has it, from 0; None of tools."""

    kind: str
    message: int | None


class LeftOut:
    """What one template leaves out. A function of the template and the row alone, whatever was looked at before."""

    def __init__(self, template: Template):
        self._template = template

    def bits(self, record: Record, texts: Sequence[str]) -> int:
        """What is left out of a record, for :func:`kinds_of`.

        :param texts: the text of each of its conversations, as the template renders it.
        """
        found = 0
        for (_, (messages, tools, asks)), text in zip(conversations(record), texts):
            if tools is not None or self._unwritten_content or not _is_plain_and_whole(messages, text):
                for loss in self._losses(messages, tools, asks, text):
                    found |= _BITS[loss.kind]
        return found

    def losses(self, record: Record) -> list[list[Loss]]:
        """What is left out of each of a record's conversations.

        :raises RowError: the template refuses it.
        """
        return [
            self._losses(messages, tools, asks, self._template.text(messages, tools, asks))
            for _, (messages, tools, asks) in conversations(record)
        ]

    def _losses(self, messages: list[Message], tools: list[Any] | None, asks: bool, text: str) -> list[Loss]:
        words, ways, places = _words_of(messages, tools)
        missing = [not _is_written(one, text) for one in words]
        unwritten = list(map(self._unwritten.__contains__, ways))
        if missing != unwritten:
            try:
                missing = self._try_out(messages, tools, asks)
            except RowError:  # it judges what the words are; only what is certain is counted
                missing = [gone and known for gone, known in zip(missing, unwritten)]
        lost = [Loss(way[0], place) for way, place, gone in zip(ways, places, missing) if gone]
        return list(dict.fromkeys(lost))

    def _try_out(self, messages: list[Message], tools: list[Any] | None, asks: bool) -> list[bool]:
        """Of all words of a conversation, whether they do not reach the text.

        :raises RowError: the template refuses the conversation with numbers among its words.
        """
        marks: list[str] = []

        def mark(words: str, way: Way, place: int | None) -> str:
            marks.append(f"73109{len(marks):05d}84691")
            return _put_in(words, marks[-1])

        text = self._template.text(*_visit(messages, tools, mark), asks)
        return [number not in text for number in marks]

    @functools.cached_property
    def _unwritten(self) -> frozenset[Way]:
        """Kinds of words that the template writes in none of the conversations that it is tried with."""
        seen: dict[Way, bool] = {}
        for messages, tools in _TRIALS:
            try:
                missing = self._try_out(messages, tools, False)
            except RowError:
                continue
            for way, gone in zip(_words_of(messages, tools)[1], missing):
                seen[way] = seen.get(way, True) and gone
        return frozenset(way for way, gone in seen.items() if gone)

    @functools.cached_property
    def _unwritten_content(self) -> bool:
        return any(kind in _CONTENT.values() for kind, _, _ in self._unwritten)


def kinds_of(bits: int) -> list[str]:
    """The kinds that :meth:`LeftOut.bits` tells. Where no reasoning is written, that of earlier turns goes unsaid."""
    if bits & _BITS[REASONING]:
        bits &= ~_BITS[EARLIER]
    return [kind for kind, bit in _BITS.items() if bits & bit]


def _is_plain_and_whole(messages: Sequence[Message], text: str) -> bool:
    """Whether messages have content alone, and a text holds all of it in its order: nothing is left out then."""
    place = 0
    for message in messages:
        if len(message) != 2:
            return False
        content = message["content"].strip()
        place = _find(content, text, place)
        if place < 0:
            return False
        place += len(content)
    return True


def _find(words: str, text: str, start: int) -> int:
    """The place of words in a text, or -1. To look for their beginning is several times sooner where they are many."""
    place = text.find(words[:_BEGINNING], start)
    return place if place < 0 or text.startswith(words, place) else text.find(words, place)


def _is_written(words: str, text: str) -> bool:
    """Whether words stand in a text, as they are or as JSON."""
    if _find(words, text, 0) >= 0:
        return True
    begin = words[:_BEGINNING]
    is_begun = begin in text
    for escape in (encode_basestring, encode_basestring_ascii):
        escaped = escape(begin)[1:-1]
        is_there = is_begun if escaped == begin else escaped in text
        if is_there and escape(words)[1:-1] in text:
            return True
    return False


def _put_in(words: str, number: str) -> str:
    """Words with a number about their middle, between two of them if it can: a template may look at both ends."""
    middle = len(words) // 2
    space = words.find(" ", middle)
    space = words.rfind(" ", 0, middle) if space < 0 else space
    return f"{words[:space]} {number}{words[space:]}" if space > 0 else f"{words[:middle]}{number}{words[middle:]}"


def _words_of(messages: Sequence[Message], tools: list[Any] | None) -> tuple[list[str], list[Way], list[int | None]]:
    """All words that belong into the text, with their ways and the places of their messages."""
    words: list[str] = []
    ways: list[Way] = []
    places: list[int | None] = []

    def collect(text: str, way: Way, place: int | None) -> str:
        words.append(text)
        ways.append(way)
        places.append(place)
        return text

    _visit(messages, tools, collect)
    return words, ways, places


def _visit(
    messages: Sequence[Message], tools: list[Any] | None, rewrite: Rewrite
) -> tuple[list[Message], list[Any] | None]:
    """A conversation with all words that belong into its text rewritten, one after the other."""
    last_question = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    visited = [_visit_message(message, i, i < last_question, rewrite) for i, message in enumerate(messages)]
    return visited, tools and [_visit_function(tool, ("name", "description"), (TOOLS, "", False), None, rewrite)
                               for tool in tools]  # fmt: skip


def _visit_message(message: Message, place: int, is_earlier: bool, rewrite: Rewrite) -> Message:
    new, role, content = dict(message), message["role"], message["content"]
    kind, reasoning = _CONTENT[role], EARLIER if is_earlier else REASONING
    if role == "assistant" and "</think>" in content:
        thought, end, answer = content.partition("</think>")
        before, begin, thought = thought.rpartition("<think>")
        thought = _rewrite(thought, (reasoning, "content", is_earlier), place, rewrite)
        new["content"] = f"{before}{begin}{thought}{end}{_rewrite(answer, (kind, '', is_earlier), place, rewrite)}"
        content = ""
    if content:
        new["content"] = _rewrite(content, (kind, "", is_earlier), place, rewrite)
    if len(message) == 2:
        return new
    key = next((key for key in _REASONING_KEYS if message.get(key) is not None), None)
    if key is not None:
        new[key] = _rewrite(message[key], (reasoning, "key", is_earlier), place, rewrite)
    if calls := message.get("tool_calls"):
        way = ("tool calls", "", is_earlier)
        new["tool_calls"] = [_visit_function(call, ("name", "arguments"), way, place, rewrite) for call in calls]
    if role != "tool" and "name" in message:  # a tool's is that of its call
        new["name"] = _rewrite(message["name"], ("names", "", is_earlier), place, rewrite)
    return new


def _visit_function(holder: Any, keys: Sequence[str], way: Way, place: int | None, rewrite: Rewrite) -> Any:
    """A tool, or a call of one, with the words under some keys of its function rewritten."""
    function = holder.get("function", holder) if isinstance(holder, dict) else None
    if not isinstance(function, dict):
        return holder
    new = {key: _rewrite(of, way, place, rewrite) if key in keys else of for key, of in function.items()}
    return new if function is holder else {**holder, "function": new}


def _rewrite(value: Any, way: Way, place: int | None, rewrite: Rewrite) -> Any:
    """A value with the words in it rewritten; space around them is the template's to keep or not."""
    if isinstance(value, str):
        words = value.strip()
        if not words:
            return value
        start = value.index(words[0])
        return f"{value[:start]}{rewrite(words, way, place)}{value[start + len(words) :]}"
    if isinstance(value, dict):
        return {key: _rewrite(inner, way, place, rewrite) for key, inner in value.items()}
    return [_rewrite(inner, way, place, rewrite) for inner in value] if isinstance(value, list) else value


def _trials() -> list[tuple[list[Message], list[Any] | None]]:
    system = {"role": "system", "content": "You answer in few words."}
    asked = [{"role": "user", "content": f"What is the capital of {where}?"} for where in ("France", "Norway")]
    answers = [{"role": "assistant", "content": f"It is {what}, of course."} for what in ("Paris", "Oslo")]
    thoughts = [f"They ask for a city: {what}, I think." for what in ("Paris", "Oslo")]
    named = [{**message, "name": "someone here"} for message in asked]
    keyed = [{**message, "reasoning_content": of} for message, of in zip(answers, thoughts)]
    inline = [{**m, "content": f"<think>\n{of}\n</think>\n\n{m['content']}"} for m, of in zip(answers, thoughts)]

    def turns(questions: Sequence[Message], replies: Sequence[Message]) -> list[Message]:
        return [message for turn in zip(questions, replies) for message in turn]

    function = {"name": "find_capital", "arguments": {"country": "the one of France"}}
    calls = [{"type": "function", "id": "call00001", "function": function}]
    call = {"role": "assistant", "content": "", "tool_calls": calls}
    result = {"role": "tool", "tool_call_id": "call00001", "content": "Paris is the one"}
    called = [message for question, reply in zip(asked, answers) for message in (question, call, result, reply)]
    parameters = {"type": "object", "properties": {"country": {"type": "string"}}}
    about = {"name": "find_capital", "description": "Finds the capital of a country.", "parameters": parameters}
    tool = {"type": "function", "function": about}
    return [
        ([system, *turns(asked, answers)], None), (turns(named, answers), None), (turns(asked, keyed), None),
        (turns(asked, inline), None), (called, [tool]),
    ]  # fmt: skip


_TRIALS = _trials()
