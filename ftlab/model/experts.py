"""Mixtures of experts: where their weights are, and what of them trains beside the rest.

transformers fuses the experts of a layer into one parameter of three dimensions, which is no linear layer: adapters on
"all linear" layers and bitsandbytes pass it over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ftlab.model.module_names import matches_name
from ftlab.model.modules import is_linear
from ftlab.model.unadapted import unadapted_layers
from ftlab.schema import Run

NEED_LAYERS = ("dora", "pissa")  # variants of LoRA that adapt linear layers alone


def expert_parameters(model: Any) -> dict[str, nn.Parameter]:
    """The fused weights of experts, each shape (experts, in, out) or (experts, out, in), by their paths in the model as
    it is without adapters."""
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if "expert" not in f"{path.rpartition('.')[2]} {type(module).__name__}".lower():
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3:
                found[_base_path(f"{path}.{name}")] = parameter
    return found


def adapter_rank(model: Any, rank: int) -> int:
    """The rank of one expert's adapter: that of a dense layer's, divided by the experts that a token passes, so that as
    much is adapted for a token as in a dense model (https://thinkingmachines.ai/blog/lora/, "Methods")."""
    return max(rank // experts_per_token(model), 1)


def experts_per_token(model: Any) -> int:
    config = model.config.get_text_config()
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
    return next((int(count) for name in names if (count := getattr(config, name, None))), 1)


def wants_adapters(run: Run) -> bool:
    """Whether experts get adapters that ``lora.target_modules`` does not name: ``lora.experts``, whose ``auto`` is yes
    for all-linear, and no where weights are quantized or the variant needs a linear layer."""
    lora = run.lora
    if lora.experts == "auto":
        is_plain = lora.variant not in NEED_LAYERS and run.quant.name == "none"
        return lora.target_modules == "all-linear" and is_plain
    return bool(lora.experts)


def describe_experts(model: Any, run: Run, total: int) -> list[str]:
    """What a user should know of how a mixture trains under adapters; nothing of other models.

    :param model: with adapters. :param total: its parameters, as if it were not quantized.
    """
    experts = expert_parameters(model)
    if not experts or run.method.name != "lora":
        return []
    elements = sum(p.numel() for p in experts.values())
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    adapters = sum(n for name, n in trained.items() if ".lora_" in name and "expert" in name and "shared" not in name)
    lines = []
    if adapters:
        lines.append(
            f"experts: their adapters are {adapters / sum(trained.values()):.0%} of what trains, and have no dropout"
            + (f" (lora.dropout={run.lora.dropout} is that of all others)" if run.lora.dropout else "")
        )
    else:
        why = "" if run.lora.experts == "auto" and wants_adapters(run) else f" under lora.experts={_spell(run)}"
        lines.append(
            f"experts: {elements:,} parameters, {elements / total:.0%} of the model, get no adapter{why}; "
            "lora.experts=true gives them one"
        )
    if run.lora.target_modules == "all-linear" and (others := _passed_over(model)):
        cause = f"lora.variant={run.lora.variant}" if run.lora.variant in NEED_LAYERS else f"quant={run.quant.name}"
        lines.append(f"no adapter on {', '.join(others)}: PEFT takes their names for experts', which {cause} rules out")
    if run.quant.name != "none":
        parameter = next(iter(experts.values()))
        size, quantized = elements * parameter.element_size() / 1e9, {"int8": 1.0}.get(run.quant.name, 0.55)
        lines.append(
            f"experts: quant={run.quant.name} leaves them in {str(parameter.dtype).removeprefix('torch.')}, because "
            f"bitsandbytes quantizes linear layers alone: {size:,.2g} GB instead of {elements * quantized / 1e9:,.2g}"
        )
    return lines


@contextmanager
def untouched_experts(model: Any) -> Iterator[None]:
    """Experts keep their precision meanwhile. PEFT casts whatever is not quantized to fp32, and of a mixture that is
    nearly everything, twice as large."""
    kept: list[tuple[nn.Parameter, Tensor]] = [(p, p.data) for p in expert_parameters(model).values()]
    for parameter, data in kept:
        parameter.data = torch.empty(0, device=data.device)
    yield
    for parameter, data in kept:
        parameter.data = data


def _passed_over(model: Any) -> list[str]:
    """The linear layers that an adapter on all of them passed over, experts and heads aside."""
    never = unadapted_layers(model)
    return sorted(
        {
            re.sub(r"^.*\.\d+\.", "", path)
            for path, module in model.named_modules()
            if is_linear(module)
            and re.search(r"\.\d+\.", path)
            and not re.search(r"lora_|base_layer|experts\.", path)
            and not any(matches_name(path, name) for name in never)
        }
    )


def _spell(run: Run) -> str:
    if run.lora.experts != "auto":
        return str(run.lora.experts).lower()
    cause = f"quant={run.quant.name}" if run.quant.name != "none" else f"lora.target_modules={_given(run)}"
    return f"auto and {cause if run.lora.variant not in NEED_LAYERS else f'lora.variant={run.lora.variant}'}"


def _given(run: Run) -> str:
    targets = run.lora.target_modules
    return targets if isinstance(targets, str) else f"[{','.join(targets)}]"


def _base_path(path: str) -> str:
    """Without what PEFT puts between a model and its modules."""
    return ".".join(part for part in path.removeprefix("base_model.model.").split(".") if part != "base_layer")
