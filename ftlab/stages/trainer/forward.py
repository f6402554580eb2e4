"""One packed forward, many losses.

Shape suffixes: B rows, L tokens of the longest row, D hidden size, N scored positions of the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ftlab.data.packing.collate import PackedCollator
from ftlab.data.packing.store import PackedRow
from ftlab.errors import NotReadyError
from ftlab.model.head import logits_function

LOGIT_ELEMENTS = 1 << 25  # of one chunk of logits: 128 MiB in fp32


def packed_logprobs(model: Any, unwrapped: Any, batch: dict[str, Tensor], smoothing: float = 0.0) -> Tensor:
    """log p(target) of every scored position, shape (N,), fp32; the full logits never exist.

    :param model: the model as it is called in training (perhaps wrapped for several devices).
    :param unwrapped: the same model without wrapping. :param smoothing: see :func:`chunked_logprobs`.
    """
    hidden_BLD = packed_hidden(model, batch)
    hidden_ND = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[batch["scored"]]
    head = unwrapped.get_output_embeddings()
    return chunked_logprobs(hidden_ND, batch["targets"], logits_function(unwrapped), head, smoothing)


def packed_hidden(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The last layer's hidden states of packed rows, shape (B, L, D)."""
    # No mask, and no cache, which switches the isolation of packed samples off.
    return last_hidden(model, input_ids=batch["input_ids"], position_ids=batch["position_ids"])


def last_hidden(model: Any, **inputs: Tensor) -> Tensor:
    """The last layer's hidden states, after its final norm, shape (B, L, D); those of the other layers are not kept.

    The whole model is called, not its decoder, because wrappers for several devices do their work in that call.

    :param model: a causal language model as it is called in training: bare, with adapters, or wrapped.
    :param inputs: what its forward takes.
    """
    decoder: Any = extract_model_from_parallel(model).get_decoder()
    states: list[Tensor] = []
    handle = decoder.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state))
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    (hidden_BLD,) = states
    return hidden_BLD


def chunked_logprobs(
    hidden_ND: Tensor, targets_N: Tensor, logits: Callable[[Tensor], Tensor], head: Any, smoothing: float = 0.0
) -> Tensor:
    """log softmax of the logits at the targets, shape (N,), in chunks that are computed again in the backward.

    :param smoothing: of the labels: this share of each target is spread over the whole vocabulary, so that what comes
        is (1 - s) log p(target) + s mean_v log p(v) (https://arxiv.org/abs/1512.00567, section 7).
    """
    size = max(LOGIT_ELEMENTS // head.weight.shape[0], 1)

    def part(hidden_nD: Tensor, targets_n: Tensor) -> Tensor:
        logits_nV = logits(hidden_nD)
        found_n = logits_nV.gather(-1, targets_n[:, None])[:, 0]
        if smoothing:
            found_n = (1 - smoothing) * found_n + smoothing * logits_nV.mean(-1)
        return found_n - logits_nV.logsumexp(-1)

    chunks = list(zip(hidden_ND.split(size), targets_N.split(size)))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([part(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


@torch.no_grad()
def probe_isolation(model: Any, row: PackedRow, collator: PackedCollator) -> float:
    """Whether packed samples see each other: the largest change in any later sample's hidden states when the first
    sample's tokens are replaced. Isolated samples change by nothing at all, in every precision.

    :raises NotReadyError: they do see each other.
    """
    if len(row.samples) < 2:
        return 0.0
    was_training = model.training
    model.eval()
    batch = collator([row])
    first = len(row.samples[0].input_ids)
    ids = batch["input_ids"].to(model.device)
    other = ids.clone()
    other[:, :first] = other[:, :first].flip(1).roll(1, 1) // 2
    positions = batch["position_ids"].to(model.device)
    before, after = (last_hidden(model, input_ids=i, position_ids=positions)[:, first:] for i in (ids, other))
    model.train(was_training)
    change = (before - after).abs().max().item()
    if change > 1e-6:
        raise NotReadyError(
            f"Packed samples see each other under model.attention={model.config._attn_implementation}: hidden states "
            f"change by {change:.2g}. Use model.attention=sdpa, or data.packing=false."
        )
    return change
