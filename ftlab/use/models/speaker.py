"""A model that answers: what a run has trained, or what it began with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftlab.base.numbers import readable
from ftlab.data.formats import Message, Prompt, RowError
from ftlab.data.tokens.literals import begin_token
from ftlab.errors import FtlabError, NotReadyError, OutOfMemoryError
from ftlab.policy.from_run import Policy, TrainedPolicy
from ftlab.policy.prompts import PromptWriter
from ftlab.policy.tokens import Tokens
from ftlab.schema import Settings
from ftlab.use.models.settings import sampling_of

BASE = "base"  # the name of what the runs began with
_WHY = {
    "max_new_tokens": "cut at max_new_tokens",
    "context": "cut: the context is full",
    "stopped": "stopped",
}


class PromptError(FtlabError, ValueError):
    """A conversation that a model cannot be asked."""


class StopAnswer(Exception):
    """Whoever reads an answer has enough of it."""


@dataclass
class Answer:
    """What a model has written, and how fast.

    :param text: without special tokens. :param tokens: its end token aside. :param prompt_tokens: before it.
    :param cut: why it is not whole: ``max_new_tokens``, ``context`` or ``stopped``; None where it ended by itself.
    :param seconds: that it took. :param to_first: of them, those before its first token; None where there was none.
    """

    text: str
    tokens: int
    prompt_tokens: int
    cut: str | None
    seconds: float
    to_first: float | None

    @property
    def tokens_per_second(self) -> float | None:
        """Of those after the first; None where there are none."""
        if self.to_first is None or self.tokens + (self.cut is None) < 2:
            return None
        return (self.tokens + (self.cut is None) - 1) / max(self.seconds - self.to_first, 1e-9)

    @property
    def told(self) -> str:
        """Tokens, speed, and why it is not whole, in a line."""
        parts = [f"{self.tokens:,} token{'s' * (self.tokens != 1)}"]
        if self.to_first is not None:
            parts.append(f"first after {readable(self.to_first)} s")
        if (rate := self.tokens_per_second) is not None:
            parts.append(f"{readable(rate)} tokens/s")
        return ", ".join([*parts, *([_WHY[self.cut]] if self.cut else [])])


@dataclass
class Speaker:
    """:param name: by which it is called. :param run: the run directory as the user named it.
    :param policy: its weights and config. :param is_base: whether it is what the run began with.
    """

    name: str
    run: str
    policy: Policy
    tokens: Tokens
    model: TrainedPolicy
    is_base: bool
    _writer: PromptWriter | None = field(init=False)

    def __post_init__(self) -> None:
        has_template = self.tokens.template is not None
        self._writer = PromptWriter(self.tokens, self.policy.config.data) if has_template else None

    @property
    def context(self) -> int:
        """Tokens that the model has positions for."""
        return self.policy.config.model.architecture.max_positions

    @property
    def continues_text(self) -> bool:
        """Whether it has no template, after ``stage=pt``: it goes on with what stands there."""
        return self._writer is None

    @property
    def has_thinking_switch(self) -> bool:
        return self.tokens.template is not None and self.tokens.template.has_thinking_switch

    def prompt(self, messages: Sequence[Message], tools: list[Any] | None, thinks: bool | None = None) -> list[int]:
        """The tokens before the answer, as in training.

        :raises PromptError: the template refuses the messages, or the context has no room for an answer to them.
        """
        if self._writer is None:
            text = "".join(message["content"] for message in messages)
            begin = begin_token(self.tokens.tokenizer)
            ids = [*([begin] if begin is not None else []), *self.tokens.tokenizer(text, add_special_tokens=False)[
                "input_ids"]]  # fmt: skip
        else:
            try:
                (ids,) = self._writer.ids([self._writer.text(Prompt(list(messages), None, {}, tools), thinks)])
            except RowError as error:
                raise PromptError(f"{self.name}: {error}.") from None
        self.check_room(ids)
        return ids

    def check_room(self, prompt: Sequence[int]) -> None:
        """:raises PromptError: the context has no room for an answer."""
        if len(prompt) >= self.context:
            raise PromptError(
                f"{self.name}: the conversation has {len(prompt):,} tokens, and the model's context {self.context:,}, "
                "with no room for an answer. Ask something shorter."
            )

    def answer(
        self, prompt: Sequence[int], settings: Settings, seed: Sequence[int], written: Callable[[str], None]
    ) -> Answer:
        """Write an answer. Ctrl-C stops it, as does :class:`StopAnswer`; what is written by then is the answer.

        :param prompt: tokens. :param seed: what the random numbers of a drawn answer follow from.
        :param written: gets the text as it comes.
        :raises OutOfMemoryError: memory ran out. :raises NotReadyError: the weights give no numbers.
        """
        from ftlab.measure.sample import NoProbabilitiesError
        from ftlab.measure.stream import Detokenizer, stream
        from ftlab.stages.trainer.out_of_memory import is_out_of_memory

        room = self.context - len(prompt)
        limit = min(settings.max_new_tokens, room)
        ids: list[int] = []
        texts = Detokenizer(self.tokens.tokenizer)
        began, first = time.monotonic(), None

        def take(token: int) -> None:
            nonlocal first
            first = time.monotonic() - began if first is None else first
            ids.append(token)
            if text := texts.add(token):
                written(text)

        is_stopped = False
        try:
            with self.model.autocast():
                stream(
                    self.model.model, prompt, take, sampling=sampling_of(settings), seed=seed, stop=self.tokens.stop,
                    pad=self.tokens.tokenizer.pad_token_id, max_new_tokens=limit,
                )  # fmt: skip
            if text := texts.end():
                written(text)
        except (KeyboardInterrupt, StopAnswer):
            is_stopped = True
        except NoProbabilitiesError:
            raise NotReadyError(f"{self.name}: its weights give no numbers any more: its training diverged.") from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(f"{self.name}: out of memory. A shorter conversation takes less.") from None
        seconds = time.monotonic() - began
        ended = bool(ids) and ids[-1] in self.tokens.stop
        cut = "stopped" if is_stopped else "max_new_tokens" if limit == settings.max_new_tokens else "context"
        whole = self.tokens.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(whole, len(ids) - ended, len(prompt), None if ended else cut, seconds, first)
