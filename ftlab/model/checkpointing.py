"""Activation checkpointing as ``train.gradient_checkpointing`` and ``train.activation_offload`` have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from ftlab.model.kept_products import ATTENTION, kept_products
from ftlab.model.load import uses_cpu
from ftlab.schema import Run

_OFFLOAD = "offload"  # the key of transformers for it, beside those of torch's ``checkpoint``


@dataclass(frozen=True)
class KeptOperations:
    """Which operations of a layer are not computed again.

    :param products: of matrices, as (inputs, outputs) of the weight.
    """

    products: frozenset[tuple[int, int]]

    def __call__(self, context: Any, operation: Any, *args: Any, **more: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if self._keeps(operation, args) else CheckpointPolicy.PREFER_RECOMPUTE

    def _keeps(self, operation: Any, args: tuple[Any, ...]) -> bool:
        name = operation.name().partition(".")[0]
        if name in ("aten::mm", "aten::addmm"):
            return tuple(args[-1].shape) in self.products
        if name == "bitsandbytes::gemm_4bit":  # whose weight is packed; its shape is (outputs, inputs)
            return tuple(args[2])[::-1] in self.products
        return name in ATTENTION


def checkpointing_options(run: Run) -> dict[str, Any]:
    """In the words of transformers' ``activation_checkpointing_kwargs``. On a CPU nothing is offloaded: it would be
    copied from the host's memory to the host's memory."""
    found: dict[str, Any] = {"use_reentrant": False}
    if run.train.gradient_checkpointing == "selective":
        found["context_fn"] = partial(create_selective_checkpoint_contexts, KeptOperations(kept_products(run)))
    if run.train.activation_offload and not uses_cpu(run):
        found[_OFFLOAD] = True
    return found


def enable_checkpointing(model: Any, options: Mapping[str, Any]) -> None:
    """Switch it on, as transformers does when training begins."""
    of_torch = {name: value for name, value in options.items() if name != _OFFLOAD}
    model.activation_checkpointing_enable(of_torch, offload=options.get(_OFFLOAD, False))
