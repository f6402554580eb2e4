"""Every stage's loss as a pure function of per-token log-probabilities."""

from __future__ import annotations

from torch import Tensor


def cross_entropy(logprobs_N: Tensor, tokens: int | Tensor) -> Tensor:
    """Mean negative log-likelihood in nats per token, a scalar.

    :param logprobs_N: log p(target) of each scored token of a micro-batch.
    :param tokens: scored tokens of the whole global batch, so that the sum over its micro-batches is its mean however
        it is split.
    """
    return -logprobs_N.sum() / tokens
