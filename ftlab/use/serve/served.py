"""A model as transformers' server takes it: prompts are written as in training, and nothing else generates."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchEncoding, GenerationConfig

from ftlab.model.generation import only_what_is_asked
from ftlab.schema import Settings
from ftlab.use.models.speaker import PromptError, Speaker


class ServedModel:
    """The model of a speaker. What is not here is the model's own.

    :param settings: of requests that say nothing. :ivar lock: held while it writes: one answer at a time.
    """

    def __init__(self, speaker: Speaker, settings: Settings):
        self.speaker, self.lock = speaker, threading.Lock()
        drawn: dict[str, Any] = {
            "temperature": settings.temperature,
            "top_k": settings.top_k or 0,  # of all; nothing would be transformers' own 50
            "top_p": settings.top_p,
        }
        self.generation_config = GenerationConfig(
            do_sample=bool(settings.temperature), **(drawn if settings.temperature else {}),
            repetition_penalty=settings.repetition_penalty, max_new_tokens=settings.max_new_tokens,
            eos_token_id=list(speaker.tokens.stop), pad_token_id=speaker.tokens.tokenizer.pad_token_id,
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self.speaker.model.model, name)

    def generate(self, input_ids: Any, generation_config: GenerationConfig, **options: Any) -> Any:
        """:param generation_config: of one request; its limit is what the context has room for at most."""
        room = self.speaker.context - input_ids.shape[1]
        generation_config.max_new_tokens = min(generation_config.max_new_tokens, room)
        model = self.speaker.model
        with self.lock, model.autocast(), only_what_is_asked(model.model):
            return model.model.generate(input_ids=input_ids, generation_config=generation_config, **options)


class ServedTokenizer:
    """The tokenizer of a speaker. What is not here is the tokenizer's own."""

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._speaker.tokens.tokenizer, name)

    def __len__(self) -> int:
        return len(self._speaker.tokens.tokenizer)

    def __call__(self, text: str, return_tensors: str | None = None) -> BatchEncoding:
        """The tokens of a text that is gone on with.

        :raises PromptError: there are none, or the context has no room for an answer.
        """
        ids: list[int] = self._speaker.tokens.tokenizer(text)["input_ids"]
        if not ids:
            raise PromptError("the prompt is empty.")
        self._speaker.check_room(ids)
        return _encoding(ids)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None = None, **options: Any
    ) -> BatchEncoding:
        """The tokens before an answer. :raises PromptError: the template refuses them, or there is no room."""
        if self._speaker.continues_text:
            raise PromptError(f"{self._speaker.name} has no chat template (stage=pt): ask /v1/completions.")
        thinks = options.get("enable_thinking")
        return _encoding(self._speaker.prompt([dict(message) for message in messages], tools, thinks))


def _encoding(ids: Sequence[int]) -> BatchEncoding:
    input_ids = torch.tensor([list(ids)])
    return BatchEncoding({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)})
