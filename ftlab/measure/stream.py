"""One answer, token by token as it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from ftlab.measure.generate import greedy_config
from ftlab.measure.sample import NoProbabilitiesError, Sampling, answer_seeds
from ftlab.model.generation import only_what_is_asked


@torch.no_grad()
def stream(
    model: Any,
    prompt: Sequence[int],
    written: Callable[[int], None],
    *,
    sampling: Sampling,
    seed: Sequence[int],
    stop: Sequence[int],
    pad: int,
    max_new_tokens: int,
) -> None:
    """Write the answer to a prompt; greedy ones are those that :func:`ftlab.measure.generate.generate_ids` finds, and
    drawn ones those of :func:`ftlab.measure.sample.sample` with the same seed.

    :param prompt: token ids. :param written: gets each id of the answer, its end token too. What it raises ends it.
    :param seed: what the random numbers of a drawn answer follow from. :param stop: ids that end the answer.
    :raises NoProbabilitiesError: the logits are no numbers.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    seeds_B = torch.from_numpy(answer_seeds(seed, 1)).to(model.device)
    processors = LogitsProcessorList([_Finite(), *sampling.processors(seeds_B, len(prompt))])
    with only_what_is_asked(model):
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), streamer=_Streamer(written),
            generation_config=greedy_config(stop, pad, max_new_tokens), logits_processor=processors,
        )  # fmt: skip


class _Finite(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """:param scores: logits, (1, V). :raises NoProbabilitiesError: no token can be chosen by them."""
        if not bool(scores.amax(-1).isfinite().all()):
            raise NoProbabilitiesError("logits are infinite or no numbers")
        return scores


class _Streamer(BaseStreamer):
    def __init__(self, written: Callable[[int], None]):
        self._written = written
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """:param value: the prompt at first, shape (1, T); then one token after the other, shape (1,)."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for token in value.tolist():
            self._written(token)

    def end(self) -> None:
        pass


class Detokenizer:
    """The text of tokens that come one by one. What a character or a word is made of may be several tokens: text comes
    when it is certain, and what all of them give is the text that they have together."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._told = 0  # where the tokens begin that are read again, and those that were not told

    def add(self, token: int) -> str:
        """What is certain with one more token."""
        self._ids.append(token)
        new = self._new()
        if not new or new.endswith("\ufffd"):  # half a character, which the next token completes
            return ""
        self._context, self._told = self._told, len(self._ids)
        return new

    def end(self) -> str:
        """What is left at the end."""
        return self._new()

    def _new(self) -> str:
        before, now = self._text(self._ids[self._context : self._told]), self._text(self._ids[self._context :])
        return now[len(before) :]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text
