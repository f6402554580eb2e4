"""One packed forward, many losses.

Shape suffixes: B rows, L tokens of the longest row, D hidden size, N scored positions of the batch, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import create_masks_for_generate

from ftlab.data.packing.collate import BY_SEGMENT
from ftlab.model.attention.interface import goes_by_segment, no_mask
from ftlab.model.attention.layout import SegmentLayout
from ftlab.model.attention.operator import number_of
from ftlab.model.compiled import runs_compiled
from ftlab.model.head import Logits, logits_function
from ftlab.model.modules import bare_model, decoder_of
from ftlab.stages.trainer.batching import LOGIT_ELEMENTS
from ftlab.stages.trainer.target_logprobs import target_logprobs, through_frozen_head, through_trained_head


def packed_logprobs(
    model: Any, unwrapped: Any, batch: dict[str, Any], smoothing: float = 0.0, equal_weights: bool = False
) -> Tensor:
    """log p(target) of every scored position, shape (N,), fp32; the full logits never exist.

    :param model: the model as it is called in training (perhaps wrapped for several devices).
    :param unwrapped: the same model without wrapping.
    :param smoothing, equal_weights: see :func:`chunked_logprobs`.
    """
    hidden_BLD = packed_hidden(model, batch)
    hidden_ND = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[batch["scored"]]
    return chunked_logprobs(hidden_ND, batch["targets"], logits_function(unwrapped), smoothing, equal_weights)


def packed_hidden(model: Any, batch: dict[str, Any]) -> Tensor:
    """The last layer's hidden states of packed rows, shape (B, L, D), samples kept apart as the batch says."""
    isolation = batch.get("isolation", "position_ids")
    if isolation == "one_per_row":
        return _one_per_row(model, batch)
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    if isolation in BY_SEGMENT and goes_by_segment(bare_model(model)):
        mask = no_mask(batch["input_ids"].device)
        layout = segment_layout(batch)
        by = number_of(layout) if runs_compiled(model) else layout
        return last_hidden(model, **inputs, attention_mask=mask, segment_layout=by)
    assert "spans" not in batch or not batch["spans"][:, 3].any(), "by segments alone can a prompt be shared"
    if isolation == "block_mask":
        inputs["attention_mask"] = _block_mask(model, **inputs)
    if "cu_seq_lens" in batch and _takes_variable_lengths(type(bare_model(model)).forward):
        inputs |= dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), batch["cu_seq_lens"])
        inputs |= dict.fromkeys(("max_length_q", "max_length_k"), batch["longest"])
    # Else no mask; and never a cache, which switches the isolation of packed samples off.
    return last_hidden(model, **inputs)


@functools.cache
def _takes_variable_lengths(forward: Callable[..., Any]) -> bool:
    """Whether the model hands them on to its attention, which otherwise reads them from the position ids: in each
    layer, and waits for the device to have computed them."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature(forward).parameters.values())


def segment_layout(batch: dict[str, Any]) -> SegmentLayout:
    """The layout of a batch whose attention goes by segments; made once for all passes over it."""
    if "layout" not in batch:
        batch["layout"] = SegmentLayout(batch["spans"], batch["input_ids"].numel())
    layout: SegmentLayout = batch["layout"]
    return layout


def _block_mask(model: Any, input_ids: Tensor, position_ids: Tensor) -> Any:
    """What transformers makes of the position ids where a family hands them on: one mask, or one for each kind of
    layer, in the form that the attention in use takes."""
    bare = bare_model(model)
    # Of the embeddings it reads the shape, the type and the device.
    embedded_BL1 = torch.empty((*input_ids.shape, 1), dtype=bare.dtype, device=input_ids.device)
    return create_masks_for_generate(
        bare.config, embedded_BL1, attention_mask=None, past_key_values=None, position_ids=position_ids
    )


def _one_per_row(model: Any, batch: dict[str, Any]) -> Tensor:
    """Each sample alone, put back where it stands in its packed row. Padding on the right needs no mask: the models are
    causal, and nothing reads what comes out there."""
    ids_T = batch["input_ids"].reshape(-1)
    places, hidden = [], []
    for places_sl in batch["calls"]:
        is_token_sl = places_sl >= 0
        hidden_slD = last_hidden(model, input_ids=ids_T[places_sl.clamp(min=0)].where(is_token_sl, batch["pad_id"]))
        places.append(places_sl[is_token_sl])
        hidden.append(hidden_slD[is_token_sl])
    hidden_ND = torch.cat(hidden)
    hidden_TD = hidden_ND.new_zeros(len(ids_T), hidden_ND.shape[-1]).index_copy(0, torch.cat(places), hidden_ND)
    return hidden_TD.view(*batch["input_ids"].shape, -1)


def last_hidden(model: Any, **inputs: Any) -> Tensor:
    """The last layer's hidden states, after its final norm, shape (B, L, D); those of the other layers are not kept.

    The whole model is called, not its decoder, because wrappers for several devices do their work in that call.

    :param model: a causal language model as it is called in training: bare, with adapters, or wrapped.
    :param inputs: what its forward takes.
    """
    bare = bare_model(model)
    decoder = decoder_of(bare)
    states: list[Tensor] = []
    handle = decoder.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state))
    # A model that is asked to would make a loss of its own of its routers' logits, padding included, for nobody.
    config = bare.config.get_text_config()
    switches = {"output_router_logits": False} if getattr(config, "output_router_logits", False) else {}
    try:
        model(**inputs, **switches, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    (hidden_BLD,) = states
    return hidden_BLD


def chunked_logprobs(
    hidden_ND: Tensor, targets_N: Tensor, logits: Logits, smoothing: float = 0.0, equal_weights: bool = False
) -> Tensor:
    """log softmax of the logits at the targets, shape (N,), in chunks. Where the head is frozen, as under LoRA, or the
    loss weighs all alike, no logits are needed in the backward; else more than one chunk is computed again there.

    :param smoothing: of the labels: this share of each target is spread over the whole vocabulary, so that what comes
        is (1 - s) log p(target) + s mean_v log p(v) (https://arxiv.org/abs/1512.00567, section 7).
    :param equal_weights: whether the loss gives each position the same weight.
    """
    head, weight = logits.head, logits.head.weight
    is_shared_out = hasattr(weight, "ds_shape")  # by ZeRO-3, which leaves an empty weight, and its shape beside
    size = max(LOGIT_ELEMENTS // (weight.ds_shape if is_shared_out else weight.shape)[0], 1)

    def part(hidden_nD: Tensor, targets_n: Tensor) -> Tensor:
        return target_logprobs(logits(hidden_nD), targets_n, smoothing)

    def part_of_outputs(outputs_nV: Tensor, targets_n: Tensor) -> Tensor:
        return target_logprobs(logits.of_outputs(outputs_nV), targets_n, smoothing)

    chunks = list(zip(hidden_ND.split(size), targets_N.split(size)))
    if not torch.is_grad_enabled():
        return torch.cat([part(*chunk) for chunk in chunks])
    is_frozen = not any(parameter.requires_grad for parameter in head.parameters())
    if is_frozen and hidden_ND.requires_grad and not is_shared_out:
        return through_frozen_head(hidden_ND, chunks, part)
    if len(chunks) == 1:
        return part(*chunks[0])
    is_plain = type(head) is torch.nn.Linear and head.bias is None and not is_shared_out
    if equal_weights and is_plain and not is_frozen and not _computes_in_fp16(hidden_ND):
        return through_trained_head(hidden_ND, chunks, head, part_of_outputs)
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


def _computes_in_fp16(hidden_ND: Tensor) -> bool:
    """In which a sum over positions, whose share in the loss comes later, may be too large for a number."""
    device = hidden_ND.device.type
    by_autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return by_autocast or hidden_ND.dtype == torch.float16
