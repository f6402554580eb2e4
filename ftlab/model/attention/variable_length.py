"""Attention by segments on a GPU: torch's flash kernel for variable lengths, one call for all segments.

Shape suffixes: B rows, L tokens of each, H heads, G heads of keys and values, D size of a head, T = B * L places, K
keys of all segments, prefixes counted with each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from ftlab.model.attention.layout import SegmentLayout


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
    states_T = [state.transpose(1, 2).reshape(rows * width, -1, size) for state in (query_BHLD, key_BGLD, value_BGLD)]
    query_THD, key_KGD, value_KGD = states_T
    arguments = layout.arguments(query_BHLD.device)
    if arguments.key_places is not None:
        key_KGD, value_KGD = (state.index_select(0, arguments.key_places) for state in (key_KGD, value_KGD))
    out_THD: Any = varlen_attn(
        query_THD,
        key_KGD,
        value_KGD,
        arguments.cu_queries,
        arguments.cu_keys,
        arguments.longest_query,
        arguments.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=heads != key_KGD.shape[1],
    )
    attended: Tensor = out_THD.view(rows, width, heads, size)
    return attended
