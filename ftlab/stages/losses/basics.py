"""Cross-entropy, and what several losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(values: Tensor) -> Tensor:
    """Convert to fp32, unless the values are more precise already."""
    return values if values.dtype == torch.float64 else values.float()


def cross_entropy(logprobs_N: Tensor, tokens: int | Tensor) -> Tensor:
    """Mean negative log-likelihood in nats per token, a scalar.

    :param logprobs_N: log p(target) of each scored token of a micro-batch.
    :param tokens: scored tokens of the whole global batch, so that the sum over its micro-batches is its mean however
        it is split.
    """
    return -logprobs_N.sum() / tokens


def sums_by_segment(values_N: Tensor, segments_N: Tensor, count: int) -> Tensor:
    """Sum of each segment's values, shape (S,); 0 for one that has none.

    Summed without atomics, whose order varies from run to run: on a GPU ``index_add`` would not repeat to the last bit.

    :param segments_N: which of the ``count`` segments each value belongs to, in any order.
    """
    order_N = segments_N.argsort(stable=True)
    lengths_S = lengths_of_segments(segments_N, count)
    values_N = upcast(values_N)[order_N]
    return torch.segment_reduce(values_N, "sum", lengths=lengths_S, unsafe=True)  # the check would wait for the device


def means_by_segment(values_N: Tensor, segments_N: Tensor, count: int) -> Tensor:
    """Mean of each segment's values, shape (S,); 0 for one that has none."""
    lengths_S = lengths_of_segments(segments_N, count)
    return sums_by_segment(values_N, segments_N, count) / lengths_S.clamp(min=1)


def lengths_of_segments(segments_N: Tensor, count: int) -> Tensor:
    """How many values each segment has, int64, shape (S,)."""
    lengths_S = torch.zeros(count, dtype=torch.int64, device=segments_N.device)
    return lengths_S.index_add(0, segments_N, torch.ones_like(segments_N, dtype=torch.int64))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean where the mask is set, a scalar; 0 where it is set nowhere. What lies outside may be anything, NaN too."""
    mask = mask.bool()
    return upcast(values).masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values shifted and scaled to mean 0 and (population) variance 1 where the mask is set; 0 elsewhere.

    Equal values become 0. As PPO's first use on language models did it: ``whiten`` in
    https://github.com/openai/lm-human-preferences.
    """
    mask = mask.bool()
    centred = upcast(values) - masked_mean(values, mask)
    centred = centred - masked_mean(centred, mask)  # again, for the rounding of large means
    scale = (masked_mean(centred.square(), mask) + 1e-8).rsqrt()
    return (centred * scale).masked_fill(~mask, 0.0)


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy in nats of each next-token distribution, shape (N,). Logits of -inf (forbidden tokens) count for 0."""
    logprobs_NV = upcast(logits_NV).log_softmax(-1)
    weighed_NV = logprobs_NV.exp() * logprobs_NV.masked_fill(logprobs_NV.isneginf(), 0.0)
    return -weighed_NV.sum(-1)
