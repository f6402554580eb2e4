"""``lora.target_modules``: which layers get adapters."""

from __future__ import annotations

from typing import Any

from torch import nn

from ftlab.errors import ConfigError, Mistake
from ftlab.model.modules import is_linear, is_packed, last_names, linear_names, unknown_module_mistakes
from ftlab.model.unadapted import unadapted_mistakes
from ftlab.schema import Lora

# model_type -> the layers that a family's adapters are classically put on: the attention's queries and values, or the
# one layer that computes them. These are what PEFT's own table lacks; the names are those of the models' own code, and
# the choice for Baichuan, InternLM2 and Qwen v1 is that of LLaMA-Factory's DEFAULT_MODULE
# (https://github.com/hiyouga/LLaMA-Factory/blob/v0.5.0/src/llmtuner/extras/constants.py).
_DEFAULTS = {
    "baichuan": ["W_pack"],
    "cohere": ["q_proj", "v_proj"],
    "cohere2": ["q_proj", "v_proj"],
    "deepseek": ["q_proj", "v_proj"],
    "glm": ["q_proj", "v_proj"],
    "glm4": ["q_proj", "v_proj"],
    "granite": ["q_proj", "v_proj"],
    "internlm": ["q_proj", "v_proj"],
    "internlm2": ["wqkv"],
    "olmo": ["q_proj", "v_proj"],
    "olmo2": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj"],
    "qwen": ["c_attn"],
    "qwen2_moe": ["q_proj", "v_proj"],
    "qwen3_moe": ["q_proj", "v_proj"],
    "smollm3": ["q_proj", "v_proj"],
    "starcoder2": ["q_proj", "v_proj"],
}


def target_modules(model: Any, lora: Lora) -> str | list[str]:
    """Return the module names that PEFT takes for ``lora.target_modules``.

    :raises ConfigError: the model has no such layers, or its family no default.
    """
    if lora.target_modules == "all-linear":
        packed = [path for path, module in model.named_modules() if is_packed(module)]
        return last_names(packed) or "all-linear"  # PEFT does not see those of gptqmodel
    names = _default(model) if lora.target_modules == "default" else list(lora.target_modules)
    if isinstance(names, str):  # a pattern of PEFT's, for models of several parts
        return names
    paths = [path for path, module in model.named_modules() if is_linear(module) or isinstance(module, nn.Embedding)]
    reason = "the model has no such linear layer or embedding. Its linear layers"
    mistakes = unknown_module_mistakes("lora.target_modules", names, paths, reason, linear_names(model))
    mistakes += unadapted_mistakes(model, names)
    if mistakes:
        raise ConfigError(mistakes)
    return names


def _default(model: Any) -> str | list[str]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_PEFT

    family = model.config.model_type
    names: Any = _DEFAULTS.get(family) or OF_PEFT.get(family)
    if names is None:
        reason = (
            f"there is no default for models of the family {family}. Use all-linear, or name some of its linear "
            f"layers: {', '.join(linear_names(model))}."
        )
        raise ConfigError([Mistake("lora.target_modules", reason, "default")])
    found: str | list[str] = names
    return found
