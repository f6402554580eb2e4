"""Conversations -> text, with the character spans that the model is trained to write.

The one mechanism is the Hugging Face chat template with ``{% generation %}`` marks: what stands inside a mark is the
assistant's own, down to the token that ends its turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.data.formats import Conversation, Message, RowError
from ftlab.errors import NotReadyError

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """:param spans: half-open character ranges of ``text`` that an assistant turn wrote, in order."""

    text: str
    spans: list[tuple[int, int]]


class Template:
    """A chat template and the special tokens it may name."""

    def __init__(self, source: str, special_tokens: dict[str, str], where: str):
        if not _MARK.search(source):
            raise NotReadyError(
                f"The chat template of {where} has no {{% generation %}} marks, so nothing says which tokens are the "
                "assistant's. Put {% generation %} and {% endgeneration %} around the assistant's content and the "
                "token that ends its turn, in chat_template.jinja of the model's folder."
            )
        self.source = source
        self._special_tokens = special_tokens

    @classmethod
    def of(cls, tokenizer: Any) -> Template:
        """The tokenizer's own template.

        :raises NotReadyError: it has none, or one without marks.
        """
        where = tokenizer.name_or_path
        if not isinstance(tokenizer.chat_template, str):
            raise NotReadyError(f"The tokenizer of {where} has no chat template. Put one in its chat_template.jinja.")
        return cls(tokenizer.chat_template, dict(tokenizer.special_tokens_map), where)

    def render(self, conversation: Conversation) -> Rendered:
        """:raises RowError: the template refuses the conversation, or writes no assistant turn."""
        texts, spans = self._render(conversation, return_assistant_tokens_mask=True)
        if not spans[0]:
            raise RowError("has no assistant turn to learn from")
        return Rendered(texts[0], [(int(start), int(end)) for start, end in spans[0]])

    def prompt(self, messages: Sequence[Message], tools: list[Any] | None = None) -> str:
        """The text that asks for the next assistant turn."""
        return self._render(Conversation(list(messages), tools), add_generation_prompt=True)[0][0]

    def _render(self, conversation: Conversation, **options: Any) -> Any:
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            return render_jinja_template(
                conversations=[conversation.messages],
                tools=conversation.tools,
                chat_template=self.source,
                **{**self._special_tokens, **options},
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RowError(f"the chat template refuses it: {error}") from None


def prompt_and_answer(conversation: Conversation) -> tuple[list[Message], str]:
    """Everything before the last assistant turn, and that turn's content."""
    return conversation.messages[:-1], conversation.messages[-1]["content"]
