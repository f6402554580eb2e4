"""Liger's layers beside transformers' own: the same losses and gradients, in one model and in no other.

Its kernels run on a CPU, interpreted by Triton: make test-liger.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ftlab.errors import NotReadyError
from ftlab.model.base_key import base_key
from ftlab.model.checkpointing import checkpointing_options, enable_checkpointing
from ftlab.model.kernels.liger import has_liger_layers, put_liger_layers
from ftlab.model.load import load_model
from ftlab.model.shared_base import SharedBases
from ftlab.pretrained.liger import LIGER_FAMILIES
from tests.families import FAMILIES, family_model
from tests.interpreted import INTERPRETED, whole_interpreter

pytestmark = INTERPRETED
VARIANTS = [name for name in FAMILIES if name.partition(":")[0] in LIGER_FAMILIES]


@pytest.fixture(scope="module", autouse=True)
def _interpreted() -> Iterator[None]:
    with whole_interpreter():
        yield


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    ids = torch.randint(3, 128, (2, 24), generator=torch.Generator().manual_seed(0))
    places = torch.cat([torch.arange(14), torch.arange(10)]).expand(2, -1)  # packed: two samples to a row
    logits = model(input_ids=ids, position_ids=places, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), dict(zip(trained, torch.autograd.grad(loss, [*trained.values()])))


def model_of(family: str, method: str) -> Any:
    model = family_model(family, 128)
    if method == "lora":
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, config)
    return model.train()


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", VARIANTS)
def test_losses_and_gradients_are_the_models_own(family, method, make_run):
    model = model_of(family, method)
    loss, gradients = loss_and_gradients(model)
    layers = put_liger_layers(model, make_run())
    assert "RMSNorm" in layers.names
    found, found_gradients = loss_and_gradients(model)
    assert found == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
    layers.remove()
    again, again_gradients = loss_and_gradients(model)
    assert again == loss and all(torch.equal(again_gradients[name], gradients[name]) for name in gradients)


def test_every_family_that_is_named_is_tested():
    assert {name.partition(":")[0] for name in VARIANTS} == {*LIGER_FAMILIES}


def test_other_models_of_the_process_keep_their_layers(make_run):
    first, other = model_of("llama", "full"), model_of("llama", "full")
    source = sys.modules[type(first).__module__]
    before = dict(vars(source))
    put_liger_layers(first, make_run())
    later = model_of("llama", "full")
    assert vars(source) == before
    assert has_liger_layers(first)
    assert not has_liger_layers(other) and not has_liger_layers(later)


def test_runs_on_one_base_have_each_its_own_layers(make_run):
    run = make_run("method=lora", "hardware=cpu", "hardware.precision=fp32")
    bases = SharedBases()
    bases.shared = frozenset({base_key(run)})
    first, second = bases.load(run), bases.load(run)
    put_liger_layers(first, run)
    assert has_liger_layers(first)
    assert not has_liger_layers(second) and not has_liger_layers(bases.load(run))


def test_a_copy_computes_with_its_own_weights(make_run):
    """As a critic's or a reference's."""
    model = model_of("qwen3", "full")
    put_liger_layers(model, make_run())
    twin = copy.deepcopy(model)
    before, _ = loss_and_gradients(twin)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert has_liger_layers(twin) and loss_and_gradients(twin)[0] == before


def test_rotations_stay_where_products_are_kept(make_run):
    """The forward that computes a layer again finds queries and keys as they were before they were rotated."""
    run = make_run("train.gradient_checkpointing=selective", "method=full", "hardware.precision=fp32")
    model = load_model(run).train()
    _, gradients = loss_and_gradients(model)
    layers = put_liger_layers(model, run)
    enable_checkpointing(model, checkpointing_options(run))
    _, found = loss_and_gradients(model)
    assert layers.names == ("RMSNorm", "SwiGLU")
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_code_of_the_models_own_is_left_alone(make_run):
    model = model_of("llama", "full")
    kind = type("OwnForCausalLM", (type(model),), {"__module__": "transformers_modules.own"})
    model.__class__ = kind
    with pytest.raises(NotReadyError, match="the model's own"):
        put_liger_layers(model, make_run())
