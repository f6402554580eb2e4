"""Mixtures of experts with random weights: two layers, four experts, two of them for a token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GptOssConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from tests.conftest import ROOT

_SHAPE: dict[str, Any] = {
    "vocab_size": 2304, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 2048, "num_experts_per_tok": 2, "bos_token_id": None,
}  # fmt: skip
_GDN = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "shared_expert_intermediate_size": 64,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_FAMILIES: dict[str, Callable[..., PreTrainedConfig]] = {
    "mixtral": lambda **more: MixtralConfig(**_SHAPE, intermediate_size=128, num_local_experts=4, **more),
    "qwen3_moe": lambda **more: Qwen3MoeConfig(
        **_SHAPE, intermediate_size=128, moe_intermediate_size=64, num_experts=4, **more
    ),
    "gpt_oss": lambda **more: GptOssConfig(
        **_SHAPE, intermediate_size=64, num_local_experts=4, rope_parameters=_ROPE, **more
    ),
    "qwen3_next": lambda **more: Qwen3NextConfig(
        **_SHAPE, **_GDN, intermediate_size=128, moe_intermediate_size=64, num_experts=4, **more
    ),
}
FAMILIES = tuple(_FAMILIES)


def save_mixture(folder: Path, family: str, **config: Any) -> Path:
    """Save a model of the family with the embedded tokenizer. :param config: what its config has otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_FAMILIES[family](**ids, **config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def shape_overrides(folder: Path, family: str) -> list[str]:
    """The command line of ``model=tiny`` with the weights of ``folder`` in place of its own."""
    values = {
        "family": family, "layers": 2, "hidden_size": 64, "intermediate_size": 128 if family == "mixtral" else 64,
        "heads": 4, "kv_heads": 2, "head_dim": 16, "experts": 4, "experts_per_token": 2,
    }  # fmt: skip
    return [f"model.path={folder}", *(f"model.architecture.{key}={value}" for key, value in values.items())]
