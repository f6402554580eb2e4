"""Families that llama.cpp computes as transformers does, and what of a config its files need.

Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What a family would compute otherwise there
(a rope scaling, a scale of attention, layers in another pattern) is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftlab.errors import NotReadyError


@dataclass(frozen=True)
class Family:
    """:param architecture: its name in llama.cpp. :param permutes: whether rows of queries and keys are in the order of
    interleaved rotation there. :param adds_one: whether a norm multiplies by one more than its weight says.
    :param has_head: whether a head of its own has a place. :param ropes: of ``rope_type``, those that it has."""

    architecture: str
    permutes: bool = False
    adds_one: bool = False
    has_head: bool = True
    ropes: tuple[str, ...] = ("default", "linear", "yarn")


FAMILIES = {
    "llama": Family("llama", permutes=True, ropes=("default", "linear", "yarn", "llama3")),
    "mistral": Family("llama", permutes=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", adds_one=True, has_head=False, ropes=("default", "linear")),
    "gemma2": Family("gemma2", adds_one=True, has_head=False, ropes=("default", "linear")),
    "gemma3_text": Family("gemma3", adds_one=True, ropes=("default", "linear")),
    "phi3": Family("phi3", ropes=("default", "longrope")),
}
# gemma's largest scale attention by the width of a head's share of the model, and not by that of the head.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}
_PATTERNS = {"gemma2": 2, "gemma3_text": 6}  # every so many layers one attends to everything


def family_of(model_type: str) -> Family:
    """:param model_type: as config.json has it. :raises NotReadyError: there is none here."""
    if model_type not in FAMILIES:
        raise NotReadyError(
            f"model_type={model_type} cannot be packed as GGUF, which is for {', '.join(FAMILIES)}; use format=hf."
        )
    return FAMILIES[model_type]


def check_config(config: Any) -> None:
    """:param config: transformers', of a text model. :raises NotReadyError: llama.cpp would compute something else."""
    family, kind = family_of(config.model_type), config.model_type
    rope = _rope(config)
    if rope["rope_type"] not in family.ropes:
        raise NotReadyError(
            f"The rope scaling {rope['rope_type']} of {kind} cannot be packed as GGUF; use format=hf. "
            f"It has: {', '.join(family.ropes)}."
        )
    if getattr(config, "use_sliding_window", False):
        raise NotReadyError(f"use_sliding_window=true of {kind} is not computed by llama.cpp; use format=hf.")
    if kind == "llama" and getattr(config, "attention_bias", False) and config.mlp_bias:
        raise NotReadyError("The biases of this llama model have no place in GGUF; use format=hf.")
    if (scale := getattr(config, "query_pre_attn_scalar", None)) is not None:
        large = config.num_hidden_layers == _LAYERS_OF_27B[kind]
        wanted = config.hidden_size / config.num_attention_heads if large else config.head_dim
        if scale != wanted:
            raise NotReadyError(f"query_pre_attn_scalar={scale} of {kind} is {wanted} in llama.cpp; use format=hf.")
    if kind in _PATTERNS:
        every = _PATTERNS[kind]
        wanted_types = [
            "sliding_attention" if (place + 1) % every else "full_attention"
            for place in range(config.num_hidden_layers)
        ]
        if list(config.layer_types) != wanted_types:
            raise NotReadyError(f"layer_types of this {kind} model are others in llama.cpp; use format=hf.")


def _rope(config: Any) -> dict[str, Any]:
    found = config.rope_parameters
    return dict(found.get("full_attention", found))


def head_dim(config: Any) -> int:
    found = getattr(config, "head_dim", None)
    return int(found) if found else int(config.hidden_size // config.num_attention_heads)


def write_parameters(writer: Any, config: Any) -> None:
    """The model's sizes and constants. :param writer: of gguf."""
    width, rope = head_dim(config), _rope(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    _write_scaling(writer, config, rope)
    _EXTRA.get(config.model_type, lambda writer, config: None)(writer, config)


def _write_scaling(writer: Any, config: Any, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
    elif kind == "longrope":
        original = int(rope.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        scale = config.max_position_embeddings / original
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(rope.get("attention_factor") or factor))


def _gemma2(writer: Any, config: Any) -> None:
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def _gemma3(writer: Any, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base_swa(float(config.rope_parameters["sliding_attention"]["rope_theta"]))


def _phi3(writer: Any, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window or 0)


_EXTRA: dict[str, Callable[[Any, Any], None]] = {"gemma2": _gemma2, "gemma3_text": _gemma3, "phi3": _phi3}


def rope_tensors(config: Any) -> dict[str, list[float]]:
    """Factors of the frequencies, by the names of their tensors in GGUF; empty where there are none."""
    rope, width = _rope(config), head_dim(config)
    if rope["rope_type"] == "longrope":
        return {
            "rope_factors_long.weight": list(map(float, rope["long_factor"])),
            "rope_factors_short.weight": list(map(float, rope["short_factor"])),
        }
    if rope["rope_type"] != "llama3":
        return {}
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original, found = float(rope["original_max_position_embeddings"]), []
    for place in range(0, width, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (place / width)
        if wavelength < original / high:
            found.append(1.0)
        elif wavelength > original / low:
            found.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": found}
