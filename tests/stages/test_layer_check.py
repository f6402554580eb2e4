"""Layers that another package computes, beside the model's own: what is found out, and what changes nothing."""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ftlab.data.packing.store import PackedRow, Sample
from ftlab.model.modules import norms
from ftlab.stages.trainer.layer_check import Computed, compute
from tests.families import family_model


class Altered(torch.autograd.Function):
    """Numbers times one factor forward, and their gradients times another backward."""

    @staticmethod
    def forward(context: Any, given: Tensor, forward: float, backward: float) -> Tensor:
        context.backward_factor = backward
        return given * forward

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient * context.backward_factor, None, None


def computed(model: Any, is_whole: bool) -> Computed:
    draw = np.random.default_rng(0)
    samples = [Sample(draw.integers(3, 128, length).astype(np.int32), np.ones(length, bool)) for length in (20, 11)]
    return compute(model, PackedRow(tuple(samples)), 0, "position_ids", torch.device("cpu"), is_whole)


def alter(module: nn.Module, forward: float, backward: float) -> None:
    own = type(module).forward
    module.forward = MethodType(lambda self, *args: Altered.apply(own(self, *args), forward, backward), module)


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "first layer"])
def test_the_same_layers_differ_in_nothing_and_keep_no_gradients(is_whole):
    model = family_model("qwen3", 128).train()
    before, again = computed(model, is_whole), computed(model, is_whole)
    assert before.difference(again) is None
    assert ("hidden states" in before.outputs) == is_whole
    assert sum(name.startswith("gradients of norm") for name in before.outputs) == 4  # those of queries and keys too
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "first layer"])
@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ((1.01, 1.01), "outputs by"),
        ((1.0, 2.0), "gradients of the first layer's input by"),
        ((float("nan"), 1.0), "nan"),
    ],
)
def test_what_differs_is_named(factors, told, is_whole):
    model = family_model("llama", 128)
    before = computed(model, is_whole)
    alter(model.model.layers[0].mlp, *factors)
    found = before.difference(computed(model, is_whole))
    assert found is not None
    if not is_whole or factors[0] == 1:
        assert told in found


def test_gradients_of_a_norm_alone_are_found_out():
    model = family_model("llama", 128)
    before = computed(model, True)
    norm = norms(model.model.layers[0])[0]
    own = type(norm).forward

    def forward(self: Any, given: Tensor) -> Tensor:
        weight, self.weight = self.weight, nn.Parameter(self.weight.detach())
        try:
            plain = own(self, given)
        finally:
            self.weight = weight
        return plain + (2 * weight - 2 * weight.detach())  # the gradient of the weight alone is another

    norm.forward = MethodType(forward, norm)
    found = before.difference(computed(model, True))
    assert found is not None and found.startswith("gradients of norm 1 by")
