"""Attention by segments as one operator of torch, which a compiled layer calls and does not look into.

To a compiler where the segments lie would be a constant, and each batch another program. Here it is a number in a
tensor, which stands for a layout that the process keeps: all batches of a size are then the same program.

Shape suffixes: B rows, L tokens of each, H heads, G heads of keys and values, D size of a head, T = B * L places, K
keys of all segments, prefixes counted with each.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from ftlab.model.attention.flash_cpu import attend_segments, by_place, segment_gradients, sums_dtype
from ftlab.model.attention.layout import SegmentLayout
from ftlab.model.attention.variable_length import attend_with_sums, variable_length_gradients

# Layouts that are kept: a micro-batch needs its own until its backward is over, and one is at work at a time.
_KEPT = 64

_layouts: dict[int, SegmentLayout] = {}
_numbers = itertools.count()


def number_of(layout: SegmentLayout) -> Tensor:
    """What stands for the layout of a batch, int64, shape (), on the host."""
    number = next(_numbers)
    _layouts[number] = layout
    _layouts.pop(number - _KEPT, None)
    return torch.tensor(number)


def _layout_of(number: Tensor) -> SegmentLayout:
    layout = _layouts.get(int(number))
    if layout is None:
        raise RuntimeError(
            f"Micro-batch {int(number)} came to its attention after {_KEPT} later ones: only the layouts of the last "
            f"{_KEPT} are kept"
        )
    return layout


def attend_by_number(
    query_BHLD: Tensor, key_BGLD: Tensor, value_BGLD: Tensor, number: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """As :func:`ftlab.model.attention.flash_cpu.attend_on_cpu`, by the kernel of the device.

    :param number: of the layout, by :func:`number_of`.
    """
    rows, heads, width, size = query_BHLD.shape
    states_THD = [by_place(state) for state in (query_BHLD, key_BGLD, value_BGLD)]
    out_THD: Tensor = _attend(*states_THD, number, scale, window)[0]
    return out_THD.view(rows, width, heads, size)


@torch.library.custom_op("ftlab::attend_segments", mutates_args=())
def _attend(
    query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, number: Tensor, scale: float | None, window: int | None
) -> tuple[Tensor, Tensor]:
    layout = _layout_of(number)
    attend = attend_segments if query_THD.device.type == "cpu" else attend_with_sums
    return attend(query_THD, key_TGD, value_TGD, layout, scale, _narrower(window, layout))


@_attend.register_fake
def _(query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, number: Tensor, scale: Any, window: Any) -> Any:
    heads_last = query_THD.shape[:2] if query_THD.device.type == "cpu" else query_THD.shape[:2][::-1]
    return query_THD.new_empty(query_THD.shape), query_THD.new_empty(heads_last, dtype=sums_dtype(query_THD))


@torch.library.custom_op("ftlab::segment_gradients", mutates_args=())
def _gradients(
    gradient_THD: Tensor, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, out_THD: Tensor, sums: Tensor,
    number: Tensor, scale: float | None, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    layout = _layout_of(number)
    gradients = segment_gradients if query_THD.device.type == "cpu" else variable_length_gradients
    return gradients(
        gradient_THD, query_THD, key_TGD, value_TGD, out_THD, sums, layout, scale, _narrower(window, layout)
    )


@_gradients.register_fake
def _(gradient_THD: Any, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, *others: Any) -> Any:
    return tuple(torch.empty_like(state) for state in (query_THD, key_TGD, value_TGD))


def _narrower(window: int | None, layout: SegmentLayout) -> int | None:
    """The window, where it hides a key from any query."""
    return None if window is None or window >= layout.longest else window


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, gradient_THD: Tensor, of_sums: Any) -> tuple[Tensor | None, ...]:
    query_THD, key_TGD, value_TGD, number, out_THD, sums = ctx.saved_tensors
    found = _gradients(gradient_THD, query_THD, key_TGD, value_TGD, out_THD, sums, number, ctx.scale, ctx.window)
    return *found, None, None, None


_attend.register_autograd(_backward, setup_context=_save)
