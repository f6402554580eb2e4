"""What optimizers need beside torch, and LoRA+'s two learning rates. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
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
_LITTLE_STATE = ("sgd", "galore", "apollo", "paged")  # none, of low rank, or in main memory
_STATES = {"ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1}  # numbers for each of a parameter's; Adam's are two
_SIZES = {"8bit": 1, "4bit": 0.5}  # bytes of each, where it has not the parameter's own type
_HAVE_B = ("lora_B", "lora_embedding_B")


def missing_package(run: Run) -> str | None:
    """Return why the optimizer cannot run here, or None."""
    for name, (module, package) in _NEEDS.items():
        if run.train.optimizer.startswith(name) and find_spec(module) is None:
            return f"train.optimizer={run.train.optimizer} needs {package}: pip install {package}"
    return None


def projected_modules(optimizer: str) -> str | None:
    """What transformers has to be told to put through an optimizer's projections; None for one that has none."""
    return "all-linear" if optimizer.startswith(("galore", "apollo")) else None


def state_bytes(optimizer: str, parameters: Iterable[Any]) -> int:
    """Return about how many bytes an optimizer keeps on the device for some parameters, from its first step on."""
    if optimizer.startswith(_LITTLE_STATE) or optimizer == "adafactor":
        return 0
    values = next((count for name, count in _STATES.items() if name in optimizer), 2)
    size = next((size for name, size in _SIZES.items() if name in optimizer), None)
    return int(sum(p.numel() * values * (p.element_size() if size is None else size) for p in parameters))


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
