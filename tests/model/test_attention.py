"""Attention by segments, beside attention written out by hand with a mask of every place: what comes out, and every
gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ftlab.model.attention.by_segment import attend_by_segment
from ftlab.model.attention.flash_cpu import attend_on_cpu
from ftlab.model.attention.layout import SegmentLayout

# Of each segment: start, length, where its prefix starts and how long that is.
LAYOUTS = {
    "one segment": ((1, 300), [(0, 300, 0, 0)]),
    "several, of one token too": ((1, 70), [(0, 40, 0, 0), (40, 1, 0, 0), (41, 29, 0, 0)]),
    "rows with padding between": ((2, 60), [(0, 25, 0, 0), (25, 30, 0, 0), (60, 17, 0, 0)]),
    # A prompt of 30 with a first answer, and a second answer; then another such pair, the prompt alone for itself.
    "a prefix for two": ((1, 140), [(0, 50, 0, 0), (50, 20, 0, 30), (70, 20, 0, 0), (90, 9, 70, 20), (99, 41, 70, 20)]),
    "a prefix in rows with padding": ((2, 50), [(0, 20, 0, 0), (20, 25, 0, 12), (50, 30, 0, 0), (80, 11, 50, 5)]),
}  # fmt: skip


def layout_of(name: str) -> tuple[int, int, SegmentLayout]:
    (rows, width), spans = LAYOUTS[name]
    return rows, width, SegmentLayout(np.array(spans), rows * width)


def states_of(rows: int, width: int, kv_heads: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries of four heads, keys and values, and a gradient of what comes out."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(rows, width, 4, 16), *[(rows, width, kv_heads, 16)] * 2]
    states = [torch.randn(shape, generator=draw, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes]
    return [*states, torch.randn(shapes[0], generator=draw, dtype=dtype)]


def by_hand(query: Tensor, key: Tensor, value: Tensor, layout: SegmentLayout, scale: float, window: int | None):
    """softmax(q k^T * scale + mask) v over all places of the batch at once, shape (B, L, H, D)."""
    rows, heads, width, _ = query.shape
    query_HTD, key_HTD, value_HTD = (
        state.repeat_interleave(heads // state.shape[1], 1).transpose(0, 1).flatten(1, 2)
        for state in (query, key, value)
    )
    mask = layout.mask()
    if window is not None:
        at = torch.arange(layout.places)
        for start, length, prefix_start, prefix_length in layout.segments:
            at[start : start + length] = torch.arange(prefix_length, prefix_length + length)
            at[prefix_start : prefix_start + prefix_length] = torch.arange(prefix_length)
        mask &= (at[:, None] - at[None, :]) < window
    scores = (query_HTD @ key_HTD.mT * scale).masked_fill(~mask, float("-inf"))
    out_HTD = scores.softmax(-1) @ value_HTD
    return out_HTD.unflatten(1, (rows, width)).permute(1, 2, 0, 3)


def is_token(layout: SegmentLayout) -> Tensor:
    found = torch.zeros(layout.places, dtype=torch.bool)
    for segment in layout.segments:
        found[segment.start : segment.start + segment.length] = True
    return found


def compare(attend, name: str, kv_heads: int, window: int | None) -> None:
    rows, width, layout = layout_of(name)
    *states, gradient = states_of(rows, width, kv_heads)
    counts = is_token(layout).view(rows, width, 1, 1)
    found = attend(*states, layout, 0.3, window)
    wanted = by_hand(*states, layout, 0.3, window)
    assert found.shape == wanted.shape
    assert ((found - wanted) * counts).abs().max().item() < 1e-12
    pairs = [torch.autograd.grad((out * counts * gradient).sum(), states) for out in (found, wanted)]
    for ours, theirs in zip(*pairs):
        assert theirs.abs().max().item() > 0.1
        assert (ours - theirs).abs().max().item() < 1e-12


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("attend", [attend_on_cpu, attend_by_segment], ids=["cpu", "each"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_segment_attends_to_itself_and_its_prefix(name, attend, kv_heads):
    compare(attend, name, kv_heads, None)


@pytest.mark.parametrize("window", [2, 7, 25, 299])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_window_reaches_back_into_the_prefix(name, window):
    compare(attend_on_cpu, name, 2, window)
