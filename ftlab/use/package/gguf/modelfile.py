"""The Modelfile of Ollama: the file of GGUF, the chat template in Ollama's language, and the stop words.

Ollama has Go templates instead of Jinja. What a chat template writes around each kind of turn is found by rendering
conversations of marked contents; the template that is made of it is rendered here as Ollama would, and has to give the
same texts (https://docs.ollama.com/modelfile).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ftlab.data.formats import Message, RowError
from ftlab.data.tokens.templates import Template
from ftlab.policy.tokens import Tokens

_S, _U, _A = "\u2402SYSTEM\u2403", "\u2402USER\u2403", "\u2402ASSISTANT\u2403"  # no template writes these
_WITHOUT = (
    "# The chat template cannot be written as one of Ollama, which takes that of the GGUF file where it knows it.\n"
)

Turns = Sequence[tuple[str, str | None]]  # questions with their answers; the last may have none


@dataclass(frozen=True)
class ChatShape:
    """What a template writes around contents.

    :param opening: before the first user's content where there is no system message.
    :param opening_with_system: the same before and after a system message; None where the template takes none.
    :param user: before a later user's content. :param assistant: before an answer, behind a user's.
    :param closing: behind an answer that another turn follows.
    """

    opening: str
    opening_with_system: tuple[str, str] | None
    user: str
    assistant: str
    closing: str

    def render(self, system: str | None, turns: Turns) -> str:
        """The text of some turns, the last of which is to be answered. :param turns: question and answer."""
        if system is None or self.opening_with_system is None:
            text = self.opening
        else:
            text = f"{self.opening_with_system[0]}{system}{self.opening_with_system[1]}"
        for place, (question, answer) in enumerate(turns):
            text += (self.user if place else "") + question + self.assistant
            text += f"{answer}{self.closing}" if answer is not None else ""
        return text


def chat_shape(template: Template, bos: str | None) -> ChatShape | None:
    """What a template writes, without the token that begins a text, which servers write themselves; None where turns
    are written in no such way."""
    try:
        one = _text(template, bos, None, [(_U, None)])
        two = _text(template, bos, None, [(_U, _A), (f"{_U}2", None)])
        opening, assistant = one.split(_U)
        first, last = two.split(f"{_U}2")
        after = first.split(_A)
        closing = after[1].split("\u2402")[0] if len(after) == 2 else None
    except (RowError, ValueError):
        return None
    if closing is None or last != assistant or after[0] != f"{opening}{_U}{assistant}":
        return None
    return _split_closing(template, bos, opening, assistant, closing)


def _split_closing(template: Template, bos: str | None, opening: str, assistant: str, between: str) -> ChatShape | None:
    """What is between an answer and the next question ends the one and begins the other; where does not matter."""
    with_system: tuple[str, str] | None
    try:
        before, behind = _text(template, bos, _S, [(_U, None)]).split(_S)
        with_system = (before, behind.split(_U)[0])
    except (RowError, ValueError):
        with_system = None
    shape = ChatShape(opening, with_system, "", assistant, between)
    conversations: list[tuple[str | None, Turns]] = [
        (None, [("a", None)]),
        (None, [("a", "b"), ("c", "d"), ("e", None)]),
    ]
    if with_system is not None:
        conversations += [("s", [("a", None)]), ("s t", [("a", "b"), ("c", None)])]
    try:
        right = all(shape.render(*one) == _text(template, bos, *one) for one in conversations)
    except RowError:
        return None
    return shape if right else None


def _text(template: Template, bos: str | None, system: str | None, turns: Turns) -> str:
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    text = template.prompt(messages)
    return text.removeprefix(bos) if bos else text


def go_template(shape: ChatShape) -> str:
    """The shape as a Go template over Ollama's messages."""
    if shape.opening_with_system is None:
        opening = _literal(shape.opening)
    else:
        before, behind = map(_literal, shape.opening_with_system)
        opening = (
            f"{{{{ if .System }}}}{before}{{{{ .System }}}}{behind}{{{{ else }}}}{_literal(shape.opening)}{{{{ end }}}}"
        )
    user = f"{{{{ .Content }}}}{_literal(shape.assistant)}"
    answer = f"{{{{ .Content }}}}{_literal(shape.closing)}"
    return (
        f'{opening}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
        f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}{{{{ end }}}}'
    )


def _literal(text: str) -> str:
    """Text that a Go template writes as it is."""
    return text.replace("{{", '{{ "{{" }}')


def modelfile(file: str, tokens: Tokens) -> str:
    """:param file: the name of the GGUF file beside it."""
    lines = [f"FROM ./{file}\n"]
    if tokens.template is not None:
        shape = chat_shape(tokens.template, tokens.tokenizer.bos_token)
        text = None if shape is None else go_template(shape)
        lines.append(_WITHOUT if text is None or '"""' in text else f'TEMPLATE """{text}"""\n')
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""\n')
    lines += [f"PARAMETER stop {_quoted(word)}\n" for word in stop_words(tokens)]
    lines.append("PARAMETER temperature 0\n")
    return "".join(lines)


def stop_words(tokens: Tokens) -> list[str]:
    """The texts of the tokens that end an answer."""
    words: list[str] = tokens.tokenizer.convert_ids_to_tokens(tokens.stop)
    return words


def _quoted(word: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'
