"""Attention by segments on any device and in any dtype: ``scaled_dot_product_attention`` for each of them.

Shape suffixes: B rows, L tokens of each, H heads, G heads of keys and values, D size of a head, T = B * L places, K
keys of all segments, prefixes counted with each; n queries and k keys of one segment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ftlab.model.attention.layout import SegmentLayout


def attend_by_segment(
    query_BHLD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    layout: SegmentLayout,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """As :func:`ftlab.model.attention.flash_cpu.attend_on_cpu`; padding attends to itself.

    With a prefix its queries are computed once more and thrown away, so that the kernel's own causal mask is right.

    :raises ValueError: a segment is longer than the window.
    """
    if window is not None:
        raise ValueError(f"its window of {window} tokens is shorter than a segment, for which there is no kernel here")
    rows, heads, width, size = query_BHLD.shape
    states = [state.transpose(1, 2).reshape(rows * width, -1, size) for state in (query_BHLD, key_BGLD, value_BGLD)]
    places = layout.arguments(query_BHLD.device).key_places
    if places is not None:
        states = [state.index_select(0, places) for state in states]
    counts = [segment.keys for segment in layout.covering]
    # Split and joined once for all: a slice for each would have a gradient as large as the whole for each.
    split = zip(*(state.split(counts) for state in states))
    outs = []
    for segment, segment_states in zip(layout.covering, split):
        query_1HkD, key_1GkD, value_1GkD = (state_kHD.transpose(0, 1)[None] for state_kHD in segment_states)
        out_1HkD = scaled_dot_product_attention(
            query_1HkD, key_1GkD, value_1GkD, is_causal=True, scale=scale, enable_gqa=heads != key_BGLD.shape[1]
        )
        outs.append(out_1HkD[0].transpose(0, 1)[-segment.length :])
    return torch.cat(outs).view(rows, width, heads, size)
