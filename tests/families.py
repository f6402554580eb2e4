"""A random-weight model of every family that ships or that people ask for, a few thousand parameters each."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_BASE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "max_position_embeddings": 512,
}  # fmt: skip
_HEADS = {"head_dim": 16, "num_key_value_heads": 2, "intermediate_size": 64}
_GROUPED = {"num_key_value_heads": 1, "intermediate_size": 64}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}

# model_type -> what its config has besides _BASE. The names with a colon are variants of one model_type.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "llama4_text": {**_HEADS, "intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1},
    "mistral": {**_HEADS, "sliding_window": 16},
    "mixtral": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _GROUPED,
    "qwen2:sliding": {**_GROUPED, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": _HEADS,
    "qwen3_moe": {**_HEADS, **_EXPERTS},
    "gemma": _HEADS,
    "gemma2": {**_HEADS, "sliding_window": 8},
    "gemma3_text": {**_HEADS, "sliding_window": 8},
    "phi": {"intermediate_size": 64},
    "phi3": _GROUPED,
    "smollm3": {**_GROUPED, "no_rope_layers": [1, 0]},
    "olmo3": {**_GROUPED, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
    "ministral3": {
        **_HEADS,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16,
        },
    },
    "granite": _GROUPED,
    "glm4": _HEADS,
    "glm4_moe": {
        **_HEADS, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    },
    "gemma4_text": {
        **_HEADS, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 16,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 4096, "num_kv_shared_layers": 0,
    },
    "cohere": _GROUPED,
    "starcoder2": {**_GROUPED, "sliding_window": 8},
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 64},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 1},
    "falcon:alibi": {"alibi": True, "new_decoder_architecture": False, "multi_query": True},
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "gpt_oss": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "qwen3_5_text": {**_HEADS, **_LINEAR},
    "qwen3_next": {**_HEADS, **_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "lfm2": {**_GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "bamba": {**_GROUPED, **_MAMBA, "attn_layer_indices": [1]},
    "jamba": {
        **_GROUPED, "attn_layer_offset": 1, "attn_layer_period": 2, "num_experts": 2, "num_experts_per_tok": 1,
        "use_mamba_kernels": False, "mamba_dt_rank": 4, "mamba_d_state": 8,
    },
    "granitemoehybrid": {
        **_GROUPED, **_MAMBA, "layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "shared_intermediate_size": 32,
    },
    "granitemoehybrid:attention": {
        **_GROUPED, **_MAMBA, "layer_types": ["attention", "attention"], "num_local_experts": 0,
        "shared_intermediate_size": 64,
    },
    "recurrent_gemma": {**_GROUPED, "lru_width": 32, "num_hidden_layers": 3, "attention_window_size": 8},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
}  # fmt: skip


def family_config(family: str, vocab_size: int, **more: Any) -> Any:
    return AutoConfig.for_model(family.split(":")[0], **{**_BASE, "vocab_size": vocab_size, **FAMILIES[family], **more})


def family_model(family: str, vocab_size: int, **more: Any) -> Any:
    """In fp32, weights drawn from a seed and large enough for every layer to matter. Nothing is zero, as new biases and
    the padding's embedding are, which would hide who reads the padding."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(family_config(family, vocab_size, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
            if not parameter.any():
                parameter.normal_(std=0.1)
        padding = model.get_input_embeddings().weight[model.config.pad_token_id]
        if not padding.any():
            padding.normal_(std=0.08)
    return model
