"""Conversations -> text, with the character spans that the model is trained to write.

The one mechanism is the Hugging Face chat template. ``{% generation %}`` marks say what is the assistant's own, down to
the token that ends its turn; where a template has none, each turn's span is found by rendering the conversation up to
it.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.data.formats import Conversation, Labelled, Message, Pair, Prompt, Record, RowError
from ftlab.data.tokens.literals import special_tokens
from ftlab.data.tokens.shipped_templates import (
    front_matter,
    mend,
    nearest,
    read_template,
    template_names,
    template_problem,
)
from ftlab.data.tokens.time_limit import TooSlow, run_limited
from ftlab.errors import NotReadyError

_one_at_a_time = threading.Lock()  # transformers keeps the marks of a rendering in the compiled template
_AT_ONCE = 32  # conversations: more gain nothing, and one that is refused has these rendered again
_LONGEST = 1 << 28  # characters of one conversation
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_THINKING = "enable_thinking"  # the variable that templates of models with thinking read
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Norway?"},
    {"role": "assistant", "content": "Oslo."},
)

Failure = RowError | NotReadyError


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text.

    :param spans: half-open character ranges of ``text`` that an assistant turn wrote, in order.
    :param turns: for each span, the index in ``conversation.messages`` of the assistant message that it belongs to.
    """

    text: str
    spans: list[tuple[int, int]]
    turns: list[int]


class Template:
    """A chat template and the special tokens it may name. It can be pickled.

    :param source: the Jinja text.
    :param special_tokens: what the template may name, e.g. ``bos_token``.
    :param where: whose template it is, for what is said of it.
    :param stops: every special token of the tokenizer: one of them ends a turn of a template without marks.
    :param seconds: that a conversation may take; it takes well below a thousandth of the default.
    :raises NotReadyError: it is no template, does not end, or has no marks and what an assistant writes cannot be told
        without.
    """

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        where: str,
        stops: Iterable[str] = (),
        seconds: float = 20.0,
    ):
        self._seconds = seconds
        self.source = source
        self._special_tokens = special_tokens
        self._where = where
        self._marked = _MARK.search(source) is not None
        about = front_matter(source)
        own = about.tokens if about is not None else ()
        known = {token for token in (*stops, *own, *special_tokens.values()) if isinstance(token, str) and token}
        # The longest first, so that a token which another one begins with does not hide it.
        self._stop = re.compile("|".join(re.escape(token) for token in sorted(known, key=len, reverse=True)) or "(?!)")
        self._stops = tuple(token for token in known if token == token.rstrip())
        self._end = self._end_behind_marks() if self._marked else ""
        if not self._marked:
            self._probe()

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, name: str | None = None) -> Template:
        """The shipped template of that name, or the tokenizer's own where none is named.

        :raises NotReadyError: there is no such template, the tokenizer has none or lacks what it needs, or it has no
            marks and is ambiguous without.
        """
        where = tokenizer.name_or_path
        if name is not None:
            source = read_template(name)
            about = front_matter(source)
            if about is not None and about.stop == "eos_token" and tokenizer.eos_token is None:
                raise NotReadyError(
                    f"The template {name} ends turns with eos_token, and the tokenizer of {where} has none."
                )
        elif isinstance(tokenizer.chat_template, str):
            source = tokenizer.chat_template
            if problem := template_problem(source, where):
                raise NotReadyError(f"{problem}.")
        else:
            raise NotReadyError(
                f"The tokenizer of {where} has no chat template. Name a shipped one: model.template=NAME, with NAME of "
                f"{', '.join(template_names())}. Or put one in its chat_template.jinja."
            )
        return cls(source, dict(tokenizer.special_tokens_map), where, special_tokens(tokenizer))

    def render(self, conversation: Conversation) -> Rendered:
        """The text, and what of it each assistant turn wrote.

        :raises RowError: the template refuses the conversation, there is no assistant turn, or the template does not
            say what each of them wrote.
        """
        (found,) = self.render_all([conversation])
        if isinstance(found, Exception):
            raise found
        return found

    def render_all(self, conversations: Sequence[Conversation]) -> list[Rendered | Failure]:
        """The same of many, several at a time, which takes less: each one's result, or why there is none."""
        if not self._marked:
            return [_result(self._render_prefixes, conversation) for conversation in conversations]
        found = self._render_all(conversations, return_assistant_tokens_mask=True)
        return [
            of if isinstance(of, Exception) else _result(self._with_spans, conversation, *of)
            for conversation, of in zip(conversations, found)
        ]

    def _with_spans(self, conversation: Conversation, text: str, marked: Sequence[Sequence[int]]) -> Rendered:
        turns = _answers(conversation)
        spans = [(int(start), self._marked_end(text, int(start), int(end))) for start, end in marked]
        if len(spans) != len(turns):
            raise RowError(
                f"the chat template marks {len(spans)} stretches as the assistant's, and the conversation has "
                f"{len(turns)} assistant turns"
            )
        return Rendered(text, spans, turns)

    def _marked_end(self, text: str, start: int, end: int) -> int:
        """Where a marked turn is over: behind the token that ends it, whether the marks end before, at or after it."""
        bare = text[start:end].rstrip()
        if bare.endswith(self._stops):
            return start + len(bare)
        last = max((found.end() for found in self._stop.finditer(text, start, end)), default=None)
        if last is not None and not text[last:end].strip():
            return last
        return end + len(self._end) if text.startswith(self._end, end) else end

    def _end_behind_marks(self) -> str:
        """The token that the template writes right behind its marks where an answer is the last turn, or nothing."""
        try:
            text, marked = self._render(Conversation(list(_PROBE[:2])), return_assistant_tokens_mask=True)
        except RowError:
            return ""
        after = text[int(marked[-1][1]) :] if marked else ""
        found = self._stop.match(after, len(after) - len(after.lstrip()))
        return after[: found.end()] if found else ""

    @property
    def has_thinking_switch(self) -> bool:
        """Whether it writes prompts otherwise for an answer that begins with thinking."""
        return _THINKING in self.source

    def prompt(self, messages: Sequence[Message], tools: list[Any] | None = None, thinks: bool | None = None) -> str:
        """The text that asks for the next assistant turn.

        :param thinks: what a template with a thinking switch is told; None: nothing, as in training.
        :raises RowError: the template refuses the messages.
        """
        return self._text(
            messages, tools, add_generation_prompt=True, **({} if thinks is None else {_THINKING: thinks})
        )

    def prompts(self, conversations: Sequence[Conversation]) -> list[str | Failure]:
        """The same of many, several at a time: each one's text, or why there is none."""
        found = self._render_all(conversations, add_generation_prompt=True)
        return [of if isinstance(of, Exception) else of[0] for of in found]

    def text(self, messages: Sequence[Message], tools: list[Any] | None = None, asks: bool = False) -> str:
        """The text of messages. :param asks: whether it ends with what asks for the next assistant turn.

        :raises RowError: the template refuses them.
        """
        return self._text(messages, tools, add_generation_prompt=True) if asks else self._text(messages, tools)

    def _text(self, messages: Sequence[Message], tools: list[Any] | None, **options: Any) -> str:
        return self._render(Conversation(list(messages), tools), **options)[0]

    def _render(self, conversation: Conversation, **options: Any) -> tuple[str, Sequence[Sequence[int]]]:
        (found,) = self._render_all([conversation], **options)
        if isinstance(found, Exception):
            raise found
        return found

    def _render_all(
        self, conversations: Sequence[Conversation], **options: Any
    ) -> list[tuple[str, Sequence[Sequence[int]]] | Failure]:
        """Text and marks of each conversation, or why it has none."""
        found: list[tuple[str, Sequence[Sequence[int]]] | Failure] = []
        start = 0
        while start < len(conversations):
            several = list(itertools.takewhile(lambda of: of.tools is None, conversations[start : start + _AT_ONCE]))
            several = several or [conversations[start]]
            start += len(several)
            try:
                found += self._run(several, options)
            except (RowError, NotReadyError) as error:
                if len(several) == 1:
                    found.append(error)
                    continue
                for conversation in several:  # it is one of them
                    found += self._render_all([conversation], **options)
        return found

    def _run(
        self, conversations: Sequence[Conversation], options: dict[str, Any]
    ) -> list[tuple[str, Sequence[Sequence[int]]]]:
        """:param conversations: without tools, or a single one."""
        from jinja2.exceptions import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            with _one_at_a_time:
                texts, marked = run_limited(
                    self._seconds,
                    render_jinja_template,
                    conversations=[conversation.messages for conversation in conversations],
                    tools=conversations[0].tools,
                    chat_template=self.source,
                    **{**self._special_tokens, **options},
                )
        except TemplateSyntaxError as error:
            raise NotReadyError(
                f"The chat template of {self._where} cannot be read: line {error.lineno}: {error.message}. "
                f"{mend(self.source, self._where)}."
            ) from None
        except TooSlow:
            raise self._endless(f"needs more than {self._seconds:g} s") from None
        except (TemplateError, TypeError, ValueError) as error:
            raise RowError(f"the chat template refuses it: {error}") from None
        except Exception as error:  # anything at all: it is somebody else's program
            raise RowError(f"the chat template fails on it: {type(error).__name__}: {error}".rstrip(": ")) from None
        if any(len(text) > _LONGEST for text in texts):
            raise self._endless(f"makes more than {_LONGEST:,} characters")
        return list(zip(texts, marked or [()] * len(texts)))

    def _endless(self, problem: str) -> NotReadyError:
        what = f"The chat template of {self._where} {problem} of a conversation"
        return NotReadyError(f"{what}. {mend(self.source, self._where)}.")

    def _render_prefixes(self, conversation: Conversation) -> Rendered:
        """A turn is what the text up to it has beyond the prompt that asks for it, to the token that ends it."""
        messages, tools, turns = conversation.messages, conversation.tools, _answers(conversation)
        text = self._text(messages, tools)
        spans = []
        for turn in turns:
            prompt = self.prompt(messages[:turn], tools)
            until = self._text(messages[: turn + 1], tools)
            end = self._turn_end(until, len(prompt), messages[turn])
            if not until.startswith(prompt) or not text.startswith(until[:end]):
                raise RowError(
                    f"the chat template has no {{% generation %}} marks and writes message {turn + 1} otherwise when "
                    f"it is the last than when others follow or it is asked for. {self._advice()}"
                )
            spans.append((len(prompt), end))
        return Rendered(text, spans, turns)

    def _turn_end(self, text: str, start: int, message: Message) -> int:
        """Where the turn that begins at ``start`` and that ``text`` ends with is over.

        What follows the token that ends a turn (a line break, often) is the template's, not the assistant's. Without
        such a token, white space at the end is the template's where the message itself has none there.
        """
        end = max((found.end() for found in self._stop.finditer(text, start)), default=None)
        if end is not None:
            return end
        content = message.get("content")
        bare = text.rstrip()
        if isinstance(content, str) and content and content == content.rstrip() and bare.endswith(content):
            return len(bare)
        return len(text)

    def _probe(self) -> None:
        """Two short turns, so that an ambiguous template is refused before any data is read."""
        try:
            self._text(_PROBE, None)
        except RowError:
            return  # it takes no such conversation; what it does take is checked row by row
        try:
            self._render_prefixes(Conversation(list(_PROBE)))
        except RowError:
            raise NotReadyError(
                f"The chat template of {self._where} has no {{% generation %}} marks, and it writes an answer "
                "otherwise when it is the last than when others follow or it is asked for, so nothing says which "
                f"tokens are the assistant's. {self._advice()}"
            ) from None

    def _advice(self) -> str:
        return (
            f"Name a shipped template (model.template={nearest(self.source, self._where)} is the nearest), or put "
            "{% generation %} and {% endgeneration %} around the assistant's content and the token that ends its turn, "
            "in chat_template.jinja of the model's folder."
        )


def _answers(conversation: Conversation) -> list[int]:
    """The places of its assistant turns. :raises RowError: there is none."""
    turns = [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    if not turns:
        raise RowError("has no assistant turn to learn from")
    return turns


def _result(function: Callable[..., Rendered], *args: Any) -> Rendered | Failure:
    try:
        return function(*args)
    except (RowError, NotReadyError) as error:
        return error


Asked = tuple[list[Message], list[Any] | None, bool]  # messages, tools, and whether an answer is asked for


def conversations(record: Record) -> Iterator[tuple[str, Asked]]:
    """What a record is trained as: its conversations with their names, if there are two of them."""
    if isinstance(record, Conversation):
        yield "", (record.messages, record.tools, False)
    elif isinstance(record, Prompt):
        yield "", (record.messages, record.tools, True)
    elif isinstance(record, Labelled):
        yield "", ([*record.prompt, *record.answer], record.tools, False)
    elif isinstance(record, Pair):
        yield "chosen", ([*record.prompt, *record.chosen], record.tools, False)
        yield "rejected", ([*record.prompt, *record.rejected], record.tools, False)


def prompt_and_answer(record: Conversation | Pair | Labelled | Prompt) -> tuple[list[Message], str]:
    """Return the prompt and the wanted answer: the last turn, the chosen one, or none (an empty string)."""
    if isinstance(record, Prompt):
        return record.messages, record.answer or ""
    if isinstance(record, Conversation):
        return record.messages[:-1], record.messages[-1]["content"]
    answer = record.chosen if isinstance(record, Pair) else record.answer
    return [*record.prompt, *answer[:-1]], answer[-1]["content"]
