"""What transformers calls: attention functions of its own ``AttentionInterface``, for models that hand on what their
forward is given.

With a layout (the keyword ``segment_layout`` of the model's forward) each segment is computed by itself and there is no
mask. Without one (generation, answers with a cache, padded rows) they are transformers' own ``sdpa``, to the bit.

Shape suffixes: B rows, L tokens of each, H heads, G heads of keys and values, D size of a head, T = B * L places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ftlab.model.attention.by_segment import attend_by_segment
from ftlab.model.attention.flash_cpu import attend_on_cpu
from ftlab.model.attention.layout import SegmentLayout
from ftlab.model.attention.operator import attend_by_number
from ftlab.model.attention.variable_length import attend_variable_length

# Names of attention implementations. SEGMENTS takes the kernel of the device; SEGMENTS_SDPA calls
# scaled_dot_product_attention for each segment, on any device and in any dtype.
SEGMENTS, SEGMENTS_SDPA = "segments", "segments_sdpa"

# Those of transformers that take rows without padding, and the samples' lengths.
VARIABLE_LENGTH = ("flash_attention_2", "flash_attention_3")

# Keys of config.json under which models ask for dropout within their attention, which the kernels do not have.
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
_UNSUPPORTED = {"softcap": "a soft cap", "s_aux": "sinks", "position_bias": "a bias of positions"}
_OTHER_TOKENS = "it asks for the attention of other tokens than those of the layout"


def goes_by_segment(model: Any) -> bool:
    """Whether the model's attention is one of ours."""
    return model.config._attn_implementation in (SEGMENTS, SEGMENTS_SDPA)


def kernel_of(name: str, device: torch.device) -> Any:
    """What computes the attention of one of our implementations: see :func:`..flash_cpu.attend_on_cpu`."""
    if name == SEGMENTS_SDPA:
        return attend_by_segment
    return attend_on_cpu if device.type == "cpu" else attend_variable_length


def no_mask(device: torch.device) -> Tensor:
    """What the model is given for a mask, shape (1, 1, 1, 0), where a layout comes along: transformers takes four
    dimensions for a mask that is ready and makes none, and layers that would use it fail."""
    return torch.empty((1, 1, 1, 0), dtype=torch.bool, device=device)


def _by_device(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **how: Any) -> tuple[Tensor, None]:
    return _attention(kernel_of(SEGMENTS, query.device), module, query, key, value, mask, **how)


def _by_sdpa(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **how: Any) -> tuple[Tensor, None]:
    return _attention(attend_by_segment, module, query, key, value, mask, **how)


def _attention(
    kernel: Any,
    module: Any,
    query_BHLD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    mask: Any,
    segment_layout: SegmentLayout | Tensor | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """As every function of the interface; what comes out has shape (B, L, H, D), padding 0.

    :param segment_layout: or, in a compiled layer, the number that stands for it.
    """
    if segment_layout is None:
        if mask is not None and mask.numel() == 0:
            raise ValueError("its layers do not hand the layout of the segments on to their attention")
        return sdpa_attention_forward(module, query_BHLD, key_BGLD, value_BGLD, mask, **how)
    window = how.get("sliding_window")
    _refuse(module, query_BHLD, key_BGLD, value_BGLD, how)
    states = [query_BHLD, key_BGLD, value_BGLD]
    device = query_BHLD.device.type
    if torch.is_autocast_enabled(device):  # as autocast does around scaled_dot_product_attention
        states = [state.to(torch.get_autocast_dtype(device)) for state in states]
    if isinstance(segment_layout, Tensor):
        query_BHLD, key_BGLD, value_BGLD = states
        out_BLHD = attend_by_number(query_BHLD, key_BGLD, value_BGLD, segment_layout, how.get("scaling"), window)
        return out_BLHD, None
    if query_BHLD.shape[0] * query_BHLD.shape[2] != segment_layout.places:
        raise ValueError(_OTHER_TOKENS)
    if segment_layout.windows is not None:
        segment_layout.windows.append(window)
    if window is not None and window >= segment_layout.longest:
        window = None
    return kernel(*states, segment_layout, how.get("scaling"), window), None


def _refuse(module: Any, query: Tensor, key: Tensor, value: Tensor, how: dict[str, Any]) -> None:
    """:raises ValueError: what the layer asks for is nothing that the kernels compute."""
    for name, what in _UNSUPPORTED.items():
        if how.get(name) is not None:
            raise ValueError(f"its attention has {what}")
    if how.get("dropout"):
        raise ValueError("its attention has dropout")
    is_causal = how.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ValueError("its attention is not causal")
    if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
        raise ValueError("its values have another size than its keys")
    if key.shape[2] != query.shape[2]:
        raise ValueError(_OTHER_TOKENS)


for _name, _function in ((SEGMENTS, _by_device), (SEGMENTS_SDPA, _by_sdpa)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
