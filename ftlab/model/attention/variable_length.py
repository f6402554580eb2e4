"""Attention by segments on a GPU: torch's flash kernel for variable lengths, one call for all segments.

Shape suffixes: B rows, L tokens of each, H heads, G heads of keys and values, D size of a head, T = B * L places, K
keys of all segments, prefixes counted with each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from ftlab.model.attention.flash_cpu import by_place
from ftlab.model.attention.layout import KernelArguments, SegmentLayout


def attend_variable_length(
    query_BHLD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    layout: SegmentLayout,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """As :func:`ftlab.model.attention.flash_cpu.attend_on_cpu`, in 16 bits, on CUDA; the kernel says where it cannot.

    Queries of a segment are the last of its keys: the kernel aligns a causal mask to the end of both.
    """
    rows, heads, width, size = query_BHLD.shape
    query_THD, key_TGD, value_TGD = (by_place(state) for state in (query_BHLD, key_BGLD, value_BGLD))
    arguments = layout.arguments(query_BHLD.device)
    key_KGD, value_KGD = (_keys(state, arguments) for state in (key_TGD, value_TGD))
    out_THD: Any = varlen_attn(
        query_THD, key_KGD, value_KGD, *_where(arguments), scale=scale, window_size=_reach(window),
        enable_gqa=heads != key_KGD.shape[1],
    )  # fmt: skip
    attended: Tensor = out_THD.view(rows, width, heads, size)
    return attended


def attend_with_sums(
    query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, layout: SegmentLayout, scale: float | None,
    window: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As :func:`ftlab.model.attention.flash_cpu.attend_segments`; the sums have shape (H, T)."""
    arguments = layout.arguments(query_THD.device)
    key_KGD, value_KGD = (_keys(state, arguments) for state in (key_TGD, value_TGD))
    out_THD, sums_HT, _ = torch.ops.torch_attn._varlen_attn(
        query_THD, key_KGD, value_KGD, *_where(arguments), window is None, scale, [*_reach(window)],
        query_THD.shape[1] != key_TGD.shape[1],
    )  # fmt: skip
    return out_THD, sums_HT


def variable_length_gradients(
    gradient_THD: Tensor, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, out_THD: Tensor, sums_HT: Tensor,
    layout: SegmentLayout, scale: float | None, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As :func:`ftlab.model.attention.flash_cpu.segment_gradients`, with what :func:`attend_with_sums` gave."""
    arguments = layout.arguments(query_THD.device)
    key_KGD, value_KGD = (_keys(state, arguments) for state in (key_TGD, value_TGD))
    random = torch.zeros((2,), dtype=torch.uint64, device=query_THD.device)  # of dropout, which there is none of
    given = (gradient_THD.contiguous(), query_THD, key_KGD, value_KGD, out_THD, sums_HT, *_where(arguments))
    is_causal = window is None
    into_query, *into = torch.ops.torch_attn._varlen_attn_backward(*given, is_causal, random, scale, [*_reach(window)])
    if arguments.key_places is not None:
        into = [
            torch.zeros_like(state).index_add_(0, arguments.key_places, of_keys)
            for state, of_keys in zip((key_TGD, value_TGD), into)
        ]
    return into_query, into[0], into[1]


def _keys(states_TGD: Tensor, arguments: KernelArguments) -> Tensor:
    """Shape (K, G, D)."""
    places = arguments.key_places
    return states_TGD if places is None else states_TGD.index_select(0, places)


def _where(arguments: KernelArguments) -> tuple[Tensor, Tensor, int, int]:
    return arguments.cu_queries, arguments.cu_keys, arguments.longest_query, arguments.longest_key


def _reach(window: int | None) -> tuple[int, int]:
    """Keys to the left and to the right that a query attends to; -1 for all."""
    return -1 if window is None else window - 1, 0
