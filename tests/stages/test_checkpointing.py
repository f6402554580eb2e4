"""train.gradient_checkpointing computes again what it did not keep, and changes no loss and no weight by that."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from ftlab.model.checkpointing import checkpointing_options, enable_checkpointing
from ftlab.preflight.remarks import remarks
from tests.conftest import ROOT
from tests.runs import BARE, FAST, metrics, train_run


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "freeze"])
def test_losses_and_gradients_are_the_same(method, tmp_path):
    given = ("model=tiny", f"method={method}", *FAST, *BARE, "train.max_steps=3", "data.max_samples=32")
    given += ("lora.dropout=0.1",)
    ways = ("false", "true", "selective")
    runs = [train_run(tmp_path / way, *given, f"train.gradient_checkpointing={way}") for way in ways]
    for key in ("loss", "grad_norm"):
        plain, recomputed, selective = (metrics(run, key) for run in runs)
        assert len(plain) == 3 and plain == pytest.approx(recomputed, abs=1e-6)
        assert recomputed == selective


@pytest.fixture(scope="module")
def base_model() -> Any:
    return AutoModelForCausalLM.from_pretrained(ROOT / "models" / "tiny")


class Counting(TorchDispatchMode):
    """Counts the operations that are carried out within it, by name."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.done[function.name()] += 1
        return function(*args, **(kwargs or {}))


def backward(model: Any, options: dict[str, Any] | None) -> tuple[list[torch.Tensor], Counter[str]]:
    """Every gradient, and what was carried out for them in the backward pass."""
    model.activation_checkpointing_disable()
    if options is not None:
        enable_checkpointing(model, options)
    model.zero_grad(set_to_none=True)
    ids = torch.arange(48).remainder(30)[None]
    loss = model.train()(input_ids=ids, use_cache=False).logits.float().square().mean()
    with Counting() as counting:
        loss.backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], counting.done


def test_selective_does_not_compute_attention_and_its_products_again(make_run, base_model):
    """A layer has seven products. Without adapters the last one of a layer is never computed again."""
    kept, once, selective = (
        backward(base_model, None if way == "false" else checkpointing_options(make_run(
            "model=tiny", "method=full", "hardware=cpu", f"train.gradient_checkpointing={way}"
        ))) for way in ("false", "true", "selective")
    )  # fmt: skip
    layers, attention = base_model.config.num_hidden_layers, "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert (kept[1][attention], once[1][attention], selective[1][attention]) == (0, layers, 0)
    products = [found["aten::mm"] - kept[1]["aten::mm"] for _, found in (once, selective)]
    assert products == [6 * layers, 2 * layers], "all but the last; gate and up"
    for way in (once, selective):
        assert len(way[0]) == len(kept[0]) and all(map(torch.equal, kept[0], way[0]))


def test_offload_moves_the_input_of_each_layer_and_nothing_else(make_run, base_model, monkeypatch):
    """There is no other memory here: what stands in for the host's is a copy."""
    run = make_run("model=tiny", "method=full", "train.gradient_checkpointing=selective",
                   "train.activation_offload=true", "hardware=cpu")  # fmt: skip
    assert "offload" not in checkpointing_options(run), "a CPU has no other memory"
    monkeypatch.setattr("ftlab.model.checkpointing.uses_cpu", lambda run: False)
    options = checkpointing_options(run)
    moved = []

    class Copies(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool, device_type: str) -> None:
            super().__init__(lambda tensor: moved.append(tuple(tensor.shape)) or tensor.clone(), lambda copy: copy)

    monkeypatch.setattr("transformers.modeling_utils.save_on_cpu", Copies)
    kept, there = backward(base_model, None)[0], backward(base_model, options)[0]
    assert len(kept) == len(there) and all(map(torch.equal, kept, there))
    config = base_model.config
    assert moved == [(1, 48, config.hidden_size)] * config.num_hidden_layers


def test_offload_that_cannot_be_is_refused_in_words(mistakes):
    line = "train.activation_offload=true train.gradient_checkpointing="
    assert "give train.gradient_checkpointing=true or selective" in " ".join(mistakes(f"{line}false"))
    assert "needs train.engine=ftlab" in " ".join(mistakes(f"{line}true train.engine=trl"))
    assert "between generations" in " ".join(mistakes(f"{line}selective stage=grpo"))
    assert mistakes(f"{line}true stage=ppo") == []
    assert "use true, or deepspeed=z2" in " ".join(mistakes(f"{line}selective deepspeed=z3"))
    assert mistakes(f"{line}selective deepspeed=z2") == []


def test_a_cpu_says_that_it_has_nothing_to_offload(make_run):
    given = ("train.gradient_checkpointing=true", "hardware=cpu")
    assert not any("offload" in line for line in remarks(make_run(*given)))
    assert any("does nothing on a CPU" in line for line in remarks(make_run(*given, "train.activation_offload=true")))
