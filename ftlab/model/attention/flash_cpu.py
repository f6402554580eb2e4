"""Attention by segments on a CPU: torch's own flash kernel, which ``scaled_dot_product_attention`` takes there too.

One function for autograd over all segments, instead of one for each: nothing is copied or kept of a segment that the
whole does not hold, and time and memory grow with the tokens, however many segments there are.

A segment with a prefix is computed in two parts, each of which knows the logarithm of its sum of exponentials; they are
put together as blocks are within the kernel (Dao et al. 2022, https://arxiv.org/abs/2205.14135, section 3.1), and the
kernel's backward is given the sums of the whole (Liu et al. 2023, https://arxiv.org/abs/2310.01889).

Shape suffixes: B rows, L tokens of each, H heads, G heads of keys and values, D size of a head, T = B * L places; 1 and
n queries or k keys of one part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ftlab.model.attention.layout import Segment, SegmentLayout

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_WINDOW_BLOCK = 256  # queries at once where a window is narrower than the segment


class Part(NamedTuple):
    """Queries, and ranges of keys that they attend to, one after the other.

    :param queries: their places. :param keys: of each range its places. :param is_causal: the n-th query attends to the
        first n keys. :param mask: 0 where they attend, -inf elsewhere, shape (n, k); None for everywhere.
    """

    queries: slice
    keys: tuple[slice, ...]
    is_causal: bool = False
    mask: Tensor | None = None


def attend_on_cpu(
    query_BHLD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    layout: SegmentLayout,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """Attention of every segment, shape (B, L, H, D), padding 0. Heads may share keys and values (H a multiple of G).

    :param scale: of the products, 1 / sqrt(D) for None. :param window: keys that a query attends to at most, itself
        among them.
    """
    attended: Tensor = _Segments.apply(query_BHLD, key_BGLD, value_BGLD, layout, scale, window)
    return attended


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_BHLD: Tensor,
        key_BGLD: Tensor,
        value_BGLD: Tensor,
        layout: SegmentLayout,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        query_THD, key_TGD, value_TGD = (by_place(state) for state in (query_BHLD, key_BGLD, value_BGLD))
        out_THD, sums_TH = attend_segments(query_THD, key_TGD, value_TGD, layout, scale, window)
        ctx.save_for_backward(query_THD, key_TGD, value_TGD, out_THD, sums_TH)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        rows, heads, width, size = query_BHLD.shape
        return out_THD.view(rows, width, heads, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BLHD: Tensor) -> tuple[Tensor | None, ...]:
        rows, width = gradient_BLHD.shape[:2]
        gradient_THD = gradient_BLHD.flatten(0, 1)
        query_THD, key_TGD, value_TGD, out_THD, sums_TH = ctx.saved_tensors
        found = segment_gradients(
            gradient_THD, query_THD, key_TGD, value_TGD, out_THD, sums_TH, ctx.layout, ctx.scale, ctx.window
        )
        into = (state.unflatten(0, (rows, width)).transpose(1, 2) for state in found)
        return *into, None, None, None


def attend_segments(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    layout: SegmentLayout,
    scale: float | None,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """What each place attends to, shape (T, H, D), padding 0, and the logarithm of its sum of exponentials, shape
    (T, H); no gradients are kept. :param scale, window: as of :func:`attend_on_cpu`.
    """
    make = query_THD.new_empty if layout.is_whole else query_THD.new_zeros
    out_THD = make(query_THD.shape)
    sums_TH = torch.zeros(query_THD.shape[:2], dtype=sums_dtype(query_THD))
    for parts in _parts(layout, window, query_THD.dtype):
        own = parts[0].queries
        found = [
            _flash(
                _heads_first(query_THD[own]),
                _heads_first(_keys(key_TGD, part)),
                _heads_first(_keys(value_TGD, part)),
                0.0,
                part.is_causal,
                attn_mask=part.mask,
                scale=scale,
            )
            for part in parts
        ]
        out_1HnD, sums_1Hn = found[0] if len(found) == 1 else _together(found)
        out_THD[own] = out_1HnD[0].transpose(0, 1)
        sums_TH[own] = sums_1Hn[0].transpose(0, 1)
    return out_THD, sums_TH


def segment_gradients(
    gradient_THD: Tensor,
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    out_THD: Tensor,
    sums_TH: Tensor,
    layout: SegmentLayout,
    scale: float | None,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of queries, keys and values, each in its shape. :param gradient_THD: of what :func:`attend_segments` gave."""
    into_query, into_key, into_value = (torch.zeros_like(state) for state in (query_THD, key_TGD, value_TGD))
    for part in (part for parts in _parts(layout, window, query_THD.dtype) for part in parts):
        own = part.queries
        query_1HnD, key_1GkD, value_1GkD = _flash_backward(
            _heads_first(gradient_THD[own]),
            _heads_first(query_THD[own]),
            _heads_first(_keys(key_TGD, part)),
            _heads_first(_keys(value_TGD, part)),
            _heads_first(out_THD[own]),
            sums_TH[own].transpose(0, 1)[None],
            0.0,
            part.is_causal,
            attn_mask=part.mask,
            scale=scale,
        )
        into_query[own] += query_1HnD[0].transpose(0, 1)
        begin = 0
        for keys in part.keys:
            end = begin + keys.stop - keys.start
            into_key[keys] += key_1GkD[0, :, begin:end].transpose(0, 1)
            into_value[keys] += value_1GkD[0, :, begin:end].transpose(0, 1)
            begin = end
    return into_query, into_key, into_value


def sums_dtype(states: Tensor) -> torch.dtype:
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def by_place(states_BHLD: Tensor) -> Tensor:
    """Shape (T, H, D), a view where the places lie one after the other, as linear layers leave them."""
    return states_BHLD.transpose(1, 2).flatten(0, 1)


def _heads_first(states_nHD: Tensor) -> Tensor:
    """Shape (1, H, n, D), a view."""
    return states_nHD.transpose(0, 1)[None]


def _keys(states_TGD: Tensor, part: Part) -> Tensor:
    """The keys or values of a part, shape (k, G, D); a view where they lie in one range."""
    ranges = [states_TGD[keys] for keys in part.keys]
    return ranges[0] if len(ranges) == 1 else torch.cat(ranges)


def _together(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One attention of several over different keys: weighed by their sums of exponentials."""
    outs, sums = zip(*found)
    total_1Hn = torch.stack(sums).logsumexp(0)
    out_1HnD = sum(out * (each - total_1Hn).exp()[..., None] for out, each in zip(outs, sums))
    return out_1HnD.to(outs[0].dtype), total_1Hn


def _parts(layout: SegmentLayout, window: int | None, dtype: torch.dtype) -> Iterator[list[Part]]:
    """The parts of all segments, those of the same queries together."""
    band = None if window is None else _band(window, dtype)
    for segment in layout.segments:
        own = slice(segment.start, segment.start + segment.length)
        prefix = slice(segment.prefix_start, segment.prefix_start + segment.prefix_length)
        if window is not None and segment.keys > window:
            assert band is not None
            yield from _blocks(segment, window, band)
        elif segment.prefix_length:
            yield [Part(own, (prefix,)), Part(own, (own,), is_causal=True)]
        else:
            yield [Part(own, (own,), is_causal=True)]


def _blocks(segment: Segment, window: int, band: Tensor) -> Iterator[list[Part]]:
    """Queries of a segment that is longer than the window, block by block, each with the keys that its window reaches.

    Positions count from the first token of the prefix.
    """
    begin = segment.prefix_length
    while begin < segment.keys:
        end = min(begin + _WINDOW_BLOCK, segment.keys)
        first = max(begin - window + 1, 0)
        ranges = []
        if first < segment.prefix_length:
            ranges.append(slice(segment.prefix_start + first, segment.prefix_start + segment.prefix_length))
        inside = segment.start - segment.prefix_length  # from positions to places
        ranges.append(slice(inside + max(first, segment.prefix_length), inside + end))
        cut = first - (begin - window + 1)  # keys that would lie before the first
        mask = band[: end - begin, cut : cut + end - first]
        yield [Part(slice(inside + begin, inside + end), tuple(ranges), mask=mask)]
        begin = end


def _band(window: int, dtype: torch.dtype) -> Tensor:
    """The mask of a block of queries and of all keys that their windows reach, shape (block, window + block - 1)."""
    queries, keys = torch.arange(_WINDOW_BLOCK)[:, None], torch.arange(window + _WINDOW_BLOCK - 1)
    is_seen = (keys >= queries) & (keys < queries + window)
    return torch.zeros(is_seen.shape, dtype=dtype).masked_fill(~is_seen, float("-inf"))
