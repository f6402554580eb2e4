"""``lora.target_modules`` and ``lora.experts``: which layers and weights get adapters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ftlab.errors import ConfigError, Mistake
from ftlab.model import score
from ftlab.model.experts import NEED_LAYERS, expert_parameters, wants_adapters
from ftlab.model.module_names import NO_SUCH_LAYER, last_names, matches_name, unknown_module_mistakes
from ftlab.model.modules import is_linear, is_packed, linear_names
from ftlab.model.unadapted import unadapted_mistakes
from ftlab.schema import Lora, Run

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
    "gpt_oss": ["q_proj", "v_proj"],
    "granite": ["q_proj", "v_proj"],
    "granitemoehybrid": ["q_proj", "v_proj"],
    "internlm": ["q_proj", "v_proj"],
    "internlm2": ["wqkv"],
    "olmo": ["q_proj", "v_proj"],
    "olmo2": ["q_proj", "v_proj"],
    "olmo3": ["q_proj", "v_proj"],
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
    listed, reason = linear_names(model), NO_SUCH_LAYER
    if fused := _without_numbers(expert_parameters(model)):
        listed = [*listed, *fused]
        reason = "the model has no such linear layer, embedding or weight of experts. It has"
    mistakes = unknown_module_mistakes("lora.target_modules", names, paths, reason, listed)
    mistakes += unadapted_mistakes(model, names)
    if mistakes:
        raise ConfigError(mistakes)
    return names


@dataclass(frozen=True)
class Targets:
    """What gets adapters.

    :param modules: names of layers, or PEFT's word for all of them. :param parameters: names of weights that are not
        those of a linear layer, as PEFT's ``target_parameters`` has them; their adapters have no dropout.
    :param expert_names: those of ``parameters`` that are experts, whose adapters have a rank of their own.
    """

    modules: str | list[str]
    parameters: list[str] = field(default_factory=list)
    expert_names: list[str] = field(default_factory=list)


def adapter_targets(model: Any, run: Run) -> Targets:
    """What ``lora.target_modules`` and ``lora.experts`` give adapters to.

    :raises ConfigError: the model has no such layers or weights, or its family no default.
    """
    lora = run.lora
    fused = _without_numbers(expert_parameters(model))
    if lora.experts is True and not fused and not _expert_layers(model):
        raise ConfigError([Mistake("lora.experts", f"{run.model.name} has no experts; leave it at auto", "true")])
    if not fused and not (lora.experts is False and _expert_layers(model)):
        return Targets(target_modules(model, lora))
    named = [name for name in _listed(lora) if any(matches_name(path, name) for path in _other_weights(model))]
    modules = _module_names(model, lora, named)
    experts = fused if wants_adapters(run) else [path for path in fused if any(matches_name(path, n) for n in named)]
    if lora.experts is False and (
        chosen := [name for name in named if any(matches_name(path, name) for path in fused)]
    ):
        reason = f"lora.target_modules names experts: {', '.join(chosen)}; leave lora.experts at auto, or them out"
        raise ConfigError([Mistake("lora.experts", reason, "false")])
    others = [name for name in named if not any(matches_name(path, name) for path in fused)]
    kept, as_weights = _renamed_by_peft(model, modules)
    if lora.variant in NEED_LAYERS:
        as_weights = []
        if wrong := [*experts, *others]:
            raise ConfigError([Mistake("lora.variant", f"needs linear layers, and {wrong[0]} is none", lora.variant)])
    return Targets(kept, sorted({*experts, *others, *as_weights}), experts)


def _module_names(model: Any, lora: Lora, weights: list[str]) -> str | list[str]:
    """Of the layers in a mixture. :param weights: names in ``lora.target_modules`` that are weights of no layer."""
    if lora.target_modules == "all-linear":
        without = {id(model.get_output_embeddings()), id(getattr(model, score.NAME, None))}
        leave_out = set(_expert_layers(model)) if lora.experts is False else set[str]()
        paths = [path for path, module in model.named_modules() if is_linear(module) and id(module) not in without]
        return [path for path in paths if path not in leave_out] if leave_out else last_names(paths)
    if lora.target_modules == "default":
        return target_modules(model, lora)
    paths = [path for path, module in model.named_modules() if is_linear(module) or isinstance(module, nn.Embedding)]
    layers = [n for n in lora.target_modules if n not in weights or any(matches_name(path, n) for path in paths)]
    if not layers:
        return []
    return target_modules(model, lora.model_copy(update={"target_modules": tuple(layers)}))


def _renamed_by_peft(model: Any, modules: str | list[str]) -> tuple[str | list[str], list[str]]:
    """Names that PEFT takes for linear layers, and weights for those that it would take for experts: what experts were
    called before transformers fused them (``gate_proj``), a family's dense layers and shared experts still are."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    if isinstance(modules, str):
        return modules, []
    config = LoraConfig(target_modules=list(modules), task_type="CAUSAL_LM")
    taken = []
    for name in modules:
        config.target_modules, config.target_parameters = {name}, None
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # half of what is fused
            taken.append(name)
        else:
            taken += [] if name in config.target_modules else [name]
    paths = [
        path
        for path, module in model.named_modules()
        # The weight of a quantized layer is packed, and no matrix that an adapter could be added to.
        if isinstance(module, nn.Linear)
        and module.weight.is_floating_point()
        and any(matches_name(path, n) for n in taken)
    ]
    return [name for name in modules if name not in taken], _without_numbers(f"{path}.weight" for path in paths)


def _listed(lora: Lora) -> tuple[str, ...]:
    return lora.target_modules if isinstance(lora.target_modules, tuple) else ()


def _other_weights(model: Any) -> list[str]:
    """Paths of the matrices that belong to no linear layer and no embedding: fused experts, routers."""
    found = list(expert_parameters(model))
    for path, module in model.named_modules():
        if not is_linear(module) and not isinstance(module, nn.Embedding):
            found += [f"{path}.{name}" for name, p in module.named_parameters(recurse=False) if p.ndim == 2]
    return found


def _expert_layers(model: Any) -> list[str]:
    """Paths of the linear layers of experts that are modules of their own."""
    return [path for path, module in model.named_modules() if is_linear(module) and "experts" in path.split(".")]


def _without_numbers(paths: Iterable[str]) -> list[str]:
    """The part behind the last number, which names the same weight in every layer."""
    return sorted({re.sub(r"^(.*\.)?\d+\.", "", path) for path in paths})


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
