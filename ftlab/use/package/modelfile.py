"""The Modelfile of Ollama: the file of GGUF, the chat template in Ollama's language, and the stop words.

Ollama has Go templates instead of Jinja. What a chat template writes around each kind of turn is found by rendering
conversations of marked contents; the template that is made of it is rendered here as Ollama would, and has to give the
same texts (https://docs.ollama.com/modelfile).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ftlab.data.formats import Message, RowError
from ftlab.data.tokens.templates import Template
from ftlab.policy.tokens import Tokens

# No template writes these.
_S, _U, _A, _NEXT = (f"\u2402{word}\u2403" for word in ("SYSTEM", "USER", "ASSISTANT", "NEXT"))
_WITHOUT = (
    "# The chat template cannot be written as one of Ollama, which takes that of the GGUF file where it knows it.\n"
)

Turns = Sequence[tuple[str, str | None]]  # questions with their answers; the last may have none


@dataclass(frozen=True)
class ChatShape:
    """What a template writes around contents.

    :param opening: before the first question where there is no system message.
    :param opening_with_system: the same, before and after a system message; None where the template takes none.
    :param answered: between a question and its answer. :param following: between an answer and the next question.
    :param asking: behind the question that is to be answered.
    """

    opening: str
    opening_with_system: tuple[str, str] | None
    answered: str
    following: str
    asking: str

    def render(self, system: str | None, turns: Turns) -> str:
        """The text of some turns, the last of which is to be answered."""
        if system is None or self.opening_with_system is None:
            text = self.opening
        else:
            text = f"{self.opening_with_system[0]}{system}{self.opening_with_system[1]}"
        for question, answer in turns:
            text += question if answer is None else f"{question}{self.answered}{answer}{self.following}"
        return text + self.asking


def chat_shape(template: Template, bos: str | None) -> ChatShape | None:
    """What a template writes, without the token that begins a text, which servers write themselves; None where turns
    are written in no such way."""
    try:
        opening, asking = _text(template, bos, None, [(_U, None)]).split(_U)
        first, last = _text(template, bos, None, [(_U, _A), (_NEXT, None)]).split(_NEXT)
        question, following = first.split(_A)
    except (RowError, ValueError):
        return None
    if last != asking or not question.startswith(f"{opening}{_U}"):
        return None
    shape = ChatShape(opening, None, question.removeprefix(f"{opening}{_U}"), following, asking)
    with_system = replace(shape, opening_with_system=_opening_with_system(template, bos))
    return with_system if _is_right(with_system, template, bos) else None


def _opening_with_system(template: Template, bos: str | None) -> tuple[str, str] | None:
    try:
        before, behind = _text(template, bos, _S, [(_U, None)]).split(_S)
    except (RowError, ValueError):
        return None
    return before, behind.split(_U)[0]


def _is_right(shape: ChatShape, template: Template, bos: str | None) -> bool:
    """Whether conversations become the texts that the template makes of them."""
    conversations: list[tuple[str | None, Turns]] = [
        (None, [("a", None)]),
        (None, [("a", "b"), ("c", "d"), ("e", None)]),
    ]
    if shape.opening_with_system is not None:
        conversations += [("s", [("a", None)]), ("s t", [("a", "b"), ("c", None)])]
    try:
        return all(shape.render(*one) == _text(template, bos, *one) for one in conversations)
    except RowError:
        return False


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
    answer = f"{_literal(shape.answered)}{{{{ .Content }}}}{_literal(shape.following)}"
    turns = f'{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}'
    return f"{opening}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{_literal(shape.asking)}"


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
