"""Sampled answers, each drawn with random numbers of its own: an answer is the same in whatever batch it is written,
and on whichever of several devices.

Shape suffixes: B answers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ftlab.measure.generate import answer_batches


class NoProbabilitiesError(RuntimeError):
    """The model's logits are no numbers."""


def answer_seeds(seed: Sequence[int], answers: int) -> NDArray[np.int64]:
    """What the random numbers of each of some answers follow from, shape (B,)."""
    limits = np.iinfo(np.int64)
    return np.random.default_rng(seed).integers(limits.min, limits.max, answers, np.int64)


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds_B: NDArray[np.int64],
    *,
    advance: Callable[[int], None] = lambda count: None,
    **options: Any,
) -> list[list[int]]:
    """One sampled answer to each prompt.

    :param advance: called with the number of answers done after each batch.
    :param options: as of :func:`sample_batches`, which draws them.
    :raises NoProbabilitiesError: there is nothing to draw from.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for batch, found in sample_batches(model, prompts, seeds_B, **options):
        for i, answer in zip(batch, found):
            answers[i] = answer
        advance(len(batch))
    return answers


def sample_batches(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds_B: NDArray[np.int64],
    *,
    stop: Sequence[int],
    pad: int,
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
    expected: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Sampled answers to prompts as they are written: indices of prompts, and the answer's ids to each, with its end
    token unless it was cut at ``max_new_tokens``.

    Drawn from the whole distribution at ``temperature``, whatever the model's own generation config says, since the
    log-probabilities of a loss are those of the whole distribution. The random state is left as it was.

    :param seeds_B: as :func:`answer_seeds` gives them. :param expected: as of
        :func:`ftlab.measure.generate.answer_batches`. :raises NoProbabilitiesError: there is nothing to draw from.
    """
    draw = _Draw(torch.empty(0, dtype=torch.int64), [], temperature)

    def drawing(batch: list[int], before: list[int]) -> LogitsProcessorList:
        nonlocal draw
        draw = _Draw(torch.from_numpy(seeds_B[batch]).to(model.device), before, temperature)
        return LogitsProcessorList([draw])

    for batch, found in answer_batches(
        model, prompts, stop=stop, pad=pad, max_new_tokens=max_new_tokens, batch_size=batch_size, processors=drawing,
        expected=expected,
    ):  # fmt: skip
        if not draw.are_finite:
            raise NoProbabilitiesError("logits are infinite or no numbers")
        yield batch, found


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. :param temperature: 0: the likeliest. :param top_k: of so many likeliest tokens;
    None: of all. :param top_p: of the likeliest that have this probability together, from 0 to 1.
    :param repetition_penalty: divides the logits of tokens that were there (https://arxiv.org/abs/1909.05858).
    """

    temperature: float
    top_k: int | None
    top_p: float
    repetition_penalty: float

    def processors(self, seeds_B: Tensor, width: int) -> LogitsProcessorList:
        """Transformers' processors that leave the chosen token alone, or, of none that is drawn, the likeliest first.

        :param seeds_B: as :func:`answer_seeds` gives them, on the model's device. :param width: tokens of the prompts.
        """
        found = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            found.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if not self.temperature:
            return found
        found.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k is not None:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        found.append(_Draw(seeds_B, [width] * len(seeds_B), 1.0))
        return found


class _Draw(LogitsProcessor):
    """Leaves of each distribution one token, drawn from it: that of the greatest sum of logit and Gumbel noise
    (https://arxiv.org/abs/1411.0030). Logits differ in the last digit with the batch: that changes one draw in a
    million, however large the vocabulary is. Comparing one random number with sums of probabilities, it would be more.

    :param before: tokens before each of the answers, padding included.
    """

    def __init__(self, seeds_B: Tensor, before: Sequence[int], temperature: float):
        self._seeds_B, self._temperature = seeds_B, temperature
        self._before_B = torch.tensor(before, dtype=torch.int64, device=seeds_B.device)
        self._finite = torch.ones((), dtype=torch.bool, device=seeds_B.device)

    @property
    def are_finite(self) -> bool:
        return bool(self._finite)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """:param scores: logits, (B, V)."""
        self._finite &= scores.amax(-1).isfinite().all()
        at_B, size = input_ids.shape[1] - self._before_B, max(_ELEMENTS // scores.shape[1], 1)
        parts = zip(scores.split(size), self._seeds_B.split(size), at_B.split(size))
        sums = (part / self._temperature + _gumbel(seeds_b, at_b, part) for part, seeds_b, at_b in parts)
        tokens_B = torch.cat([sum_bV.argmax(-1) for sum_bV in sums])
        return torch.full_like(scores, -math.inf).scatter(1, tokens_B[:, None], 0.0)


_ELEMENTS = 1 << 23  # of a tensor of noise: 64 MiB


def _gumbel(seeds_b: Tensor, at_b: Tensor, logits_bV: Tensor) -> Tensor:
    """The noise of some answers' tokens, shape (b, V), that of an answer from its own stream of splitmix64
    (https://doi.org/10.1145/2714064.2660195). :param at_b: how many tokens the answers have."""
    size = logits_bV.shape[1]
    counters_V = torch.arange(1, size + 1, device=logits_bV.device) * _signed(0x9E3779B97F4A7C15)
    starts_b = seeds_b + at_b * size * _signed(0x9E3779B97F4A7C15)
    mixed = starts_b[:, None] + counters_V  # all of which overflow, as they should
    shifted = torch.empty_like(mixed)  # in place: making tensors takes as long as all else
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed.bitwise_xor_(_shift(shifted.copy_(mixed), bits)).mul_(_signed(factor))
    dtype, bits = (torch.float32, 23) if mixed.device.type == "mps" else (torch.float64, 52)  # mps has no fp64
    uniform_bV = _shift(mixed, 64 - bits).to(dtype).add_(0.5).mul_(2.0**-bits)
    return uniform_bV.log_().neg_().log_().neg_()


def _shift(values: Tensor, bits: int) -> Tensor:
    """To the right, without the sign; in place."""
    return values.bitwise_right_shift_(bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The same 64 bits."""
    return number - (1 << 64) if number >> 63 else number
