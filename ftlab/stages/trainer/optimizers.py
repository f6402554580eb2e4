"""What optimizers need beside torch, and LoRA+'s two learning rates. Imports no torch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from ftlab.schema import Run

# How a name of train.optimizer begins -> the module that it needs, and what to install for that.
_NEEDS = {
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "galore": ("galore_torch", "galore-torch"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
}
_HAVE_B = ("lora_B", "lora_embedding_B")
# Bytes of optimizer states for each parameter: 4 for each running mean in fp32; in 8 bits one, and a constant of four
# bytes for each block (https://arxiv.org/abs/2110.02861). Factored ones (adafactor) keep rows and columns.
_STATE, _BLOCK_8BIT = 4, 256
_STATES = {
    "sgd": 0, "adagrad": 1, "rmsprop": 1, "rmsprop_bnb": 1, "lion": 1, "adamw": 2, "ademamix": 3,
    "adafactor": 0, "galore_adafactor": 0, "galore_adamw": 0.5, "apollo_adamw": 0.1, "grokadamw": 3, "stable_adamw": 2,
}  # fmt: skip


def missing_package(run: Run) -> str | None:
    """Return why the optimizer cannot run here, or None."""
    for name, (module, package) in _NEEDS.items():
        if run.train.optimizer.startswith(name) and find_spec(module) is None:
            return f"train.optimizer={run.train.optimizer} needs {package}: pip install {package}"
    return None


def projected_modules(optimizer: str) -> str | None:
    """What transformers has to be told to put through an optimizer's projections; None for one that has none."""
    return "all-linear" if optimizer.startswith(("galore", "apollo")) else None


def bytes_of_states(optimizer: str, elements: float) -> float:
    """Of all states of ``elements`` parameters."""
    name = optimizer.removeprefix("paged_")
    bits = 8 if name.endswith("8bit") else 4 if name.endswith("4bit") else 32
    name = re.sub(r"(_torch|_bnb)?(_fused|_4bit|_8bit|_32bit)?$", "", name)
    each = _STATE if bits == 32 else bits / 8 + 4 / _BLOCK_8BIT
    return _STATES[name] * each * elements


def set_loraplus_rates(optimizer: Any, model: Any, ratio: float) -> None:
    """LoRA+ (https://arxiv.org/abs/2402.12354): matrices B learn ``ratio`` times as fast as everything else.

    Every group becomes two, that of A first, so that the learning rate of the first group is the one in the config.

    :param optimizer: of any class, that has made no step. :param model: the one whose parameters it has.
    """
    b = {id(p) for name, p in model.named_parameters() if any(part in name.split(".") for part in _HAVE_B)}
    groups = []
    for group in optimizer.param_groups:
        slow = [p for p in group["params"] if id(p) not in b]
        fast = [p for p in group["params"] if id(p) in b]
        groups += [{**group, "params": slow}] * bool(slow)
        groups += [{**group, "params": fast, "lr": group["lr"] * ratio}] * bool(fast)
    optimizer.param_groups[:] = groups
