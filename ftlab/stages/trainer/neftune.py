"""NEFTune: noise on the input embeddings while training (https://arxiv.org/abs/2310.05914).

Shape suffixes: B rows, L tokens of the longest row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def lengths_of_samples(position_ids_BL: Tensor) -> Tensor:
    """How long the sample is that each token belongs to, int64, shape (B, L). Positions start again at 0 with every
    sample; padding, whose position is 0 throughout, has samples of length 1."""
    samples = (position_ids_BL.reshape(-1) == 0).cumsum(0) - 1
    counts = torch.zeros_like(samples).index_add(0, samples, torch.ones_like(samples))
    return counts[samples].view_as(position_ids_BL)


def noise_scales(position_ids_BL: Tensor, alpha: float, size: int) -> Tensor:
    """alpha / sqrt(L * D) with each sample's own L, whatever it is packed with, fp32, shape (B, L); 0 for padding.

    transformers' own NEFTune would take the length of the packed row for L.
    """
    lengths_BL = lengths_of_samples(position_ids_BL)
    return (alpha / (lengths_BL * size).sqrt()).masked_fill(lengths_BL == 1, 0.0)


@contextmanager
def noisy_embeddings(embeddings: Any, batch: dict[str, Any], alpha: float) -> Iterator[None]:
    """What the embedding layer gives within is noisy, uniformly between minus and plus :func:`noise_scales`; drawn from
    torch's generator, whose state is in every checkpoint. For one forward of the batch."""
    calls = iter(_positions_of_calls(batch))

    def add(module: Any, inputs: Any, embedded_BLD: Tensor) -> Tensor:
        scales_BL = noise_scales(next(calls), alpha, embedded_BLD.shape[-1])
        noise_BLD = torch.empty_like(embedded_BLD, dtype=torch.float32).uniform_(-1, 1) * scales_BL[..., None]
        return embedded_BLD + noise_BLD.to(embedded_BLD.dtype)

    handle = embeddings.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _positions_of_calls(batch: dict[str, Any]) -> list[Tensor]:
    """The position ids of what each call of the model is given, padding at 0."""
    if "calls" not in batch:
        return [batch["position_ids"]]
    at_T = batch["position_ids"].reshape(-1)
    return [at_T[places_sl.clamp(min=0)].where(places_sl >= 0, 0) for places_sl in batch["calls"]]
