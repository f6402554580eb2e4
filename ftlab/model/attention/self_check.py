"""Whether attention by segments is right for a model: its layers by what their config and they themselves say, the
kernel of the device by computing with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftlab.errors import first_line
from ftlab.model.attention.interface import DROPOUTS, kernel_of
from ftlab.model.attention.layout import SegmentLayout
from ftlab.model.attention.operator import attend_by_number, number_of

_KINDS = {"attention", "full_attention", "sliding_attention"}  # of layers; others are no attention, or of another form
# Of each segment: start, length, where its prefix starts and how long that is.
_SPANS = ((0, 40, 0, 0), (40, 23, 0, 17), (63, 65, 0, 0))
# The largest difference to attention written out by hand, as a share of the largest number: rounding and no more.
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def unsuited_layers(model: Any, longest: int) -> str | None:
    """What of a model's layers attention by segments does not compute, if anything.

    :param longest: the most tokens that a sample can have.
    """
    config = model.config.get_text_config()
    if not model._can_set_attn_implementation():
        return "its layers have attention of their own"
    for key in DROPOUTS:
        if getattr(config, key, None):
            return f"its config.json has {key}"
    kinds = {*(getattr(config, "layer_types", None) or ())} - _KINDS
    if kinds == {"chunked_attention"} and longest <= config.attention_chunk_size:
        return None
    return f"it has layers of {sorted(kinds)[0]}" if kinds else None


def unsuited_windows(model: Any, windows: Sequence[int | None], longest: int) -> str | None:
    """Whether layers whose window is shorter than a sample do not all say so to their attention.

    :param windows: what they said, layer by layer.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is None or longest <= window:
        return None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    expected = [window if kind == "sliding_attention" else None for kind in kinds]
    return None if [*windows] == expected else "its layers do not tell their attention which of them have a window"


def kernel_error(model: Any, name: str, device: torch.device, is_compiled: bool = False) -> str | None:
    """What is wrong with the kernel of a device at the shapes and in the arithmetic of a model, forward or backward,
    if anything: it may be missing, refuse them, or compute something else.

    :param name: of the attention implementation. Autocast counts where it is on for the model.
    :param is_compiled: whether it is called as compiled layers do.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return "it has no heads of attention"
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    is_on = torch.is_autocast_enabled(model.device.type)
    dtype = torch.get_autocast_dtype(model.device.type) if is_on else model.dtype
    layout = SegmentLayout(np.array(_SPANS), sum(span[1] for span in _SPANS))
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, layout.places, count, size) for count in (heads, groups, groups, heads)]
    numbers = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    states, gradient = [state.transpose(1, 2).requires_grad_() for state in numbers[:3]], numbers[3]
    try:
        with torch.enable_grad(), torch.autocast(model.device.type, enabled=False):
            attend: Any = attend_by_number if is_compiled else kernel_of(name, device)
            found = attend(*states, number_of(layout) if is_compiled else layout, None, None)
            ours = [found, *torch.autograd.grad(found, states, gradient)]
            query, key, value = (state.cpu().double() for state in states)
            wanted = _by_hand(query, key, value, layout)
            theirs = [wanted, *torch.autograd.grad(wanted, states, gradient.cpu().double())]
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"no kernel for it on {device.type}: {first_line(error)}"
    pairs = [(one.cpu().double(), other.cpu().double()) for one, other in zip(ours, theirs)]
    share = max(((one - other).abs().max() / other.abs().max()).item() for one, other in pairs)
    return None if share <= _ROUNDING[dtype] else f"the kernel of {device.type} is off by {share:.2g}"


def _by_hand(query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, layout: SegmentLayout) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v, shape (1, T, H, D)."""
    times = query_1HTD.shape[1] // key_1GTD.shape[1]
    key_1HTD, value_1HTD = (state.repeat_interleave(times, 1) for state in (key_1GTD, value_1GTD))
    scores_1HTT = query_1HTD @ key_1HTD.mT * query_1HTD.shape[-1] ** -0.5
    weights_1HTT = scores_1HTT.masked_fill(~layout.mask(), float("-inf")).softmax(-1)
    return (weights_1HTT @ value_1HTD).transpose(1, 2)
