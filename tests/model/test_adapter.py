"""What each method trains, for real, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from ftlab.data.packing.collate import PackedCollator
from ftlab.errors import ConfigError
from ftlab.model.adapter import apply_method, count_parameters
from ftlab.model.load import load_model
from ftlab.stages.losses import cross_entropy
from ftlab.stages.trainer.forward import packed_logprobs
from tests.runs import make_run
from tests.stages.test_packed_forward import rows_of


def changed_by_steps(*overrides: str, steps: int = 2) -> tuple[set[str], set[str]]:
    """Names of the parameters that optimizer steps changed, and of all others."""
    run = make_run("lora.dropout=0.0", *overrides)
    torch.manual_seed(0)
    model = apply_method(load_model(run), run)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    batch = PackedCollator(pad_id=0)(rows_of((17, 40, 9), (5, 61)))
    with torch.no_grad():
        packed_logprobs(model.eval(), model, batch)  # an evaluation before training must not cost the gradients
    for _ in range(steps):
        cross_entropy(packed_logprobs(model.train(), model, batch), len(batch["targets"])).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    return changed, before.keys() - changed


@pytest.mark.parametrize(
    ("quant", "variant"),
    [("none", "lora"), ("nf4", "lora"), ("fp4", "lora"), ("int8", "lora"), ("none", "rslora"), ("none", "dora"),
     ("nf4", "dora")],
)  # fmt: skip
def test_lora_changes_every_adapter_and_nothing_else(quant, variant):
    changed, rest = changed_by_steps(f"quant={quant}", f"lora={'default' if variant == 'lora' else variant}")
    assert all("lora_" in name for name in changed)
    assert not any("lora_" in name for name in rest)
    assert len([name for name in changed if "lora_A" in name]) == 7 * len({n.split(".layers.")[1][0] for n in changed})


def test_pissa_starts_from_the_models_own_function():
    run = make_run("lora=pissa", "lora.dropout=0.0")
    batch = PackedCollator(pad_id=0)(rows_of((17, 40)))
    base = load_model(run).eval()
    with torch.no_grad():
        before = packed_logprobs(base, base, batch)
        model = apply_method(base, run).eval()
        after = packed_logprobs(model, model, batch)
    assert torch.allclose(before, after, atol=1e-4)


def test_full_changes_every_parameter():
    changed, rest = changed_by_steps("method=full")
    assert rest == set()
    assert "lm_head.weight" in changed


@pytest.mark.parametrize(("layers", "expected"), [(1, {"3"}), (2, {"2", "3"}), (-1, {"0"})])
def test_freeze_changes_the_chosen_layers_whole(layers, expected):
    changed, rest = changed_by_steps("method=freeze", f"method.trainable_layers={layers}")
    assert {name.split(".layers.")[1].split(".")[0] for name in changed} == expected
    assert not any(f".layers.{layer}." in name for name in rest for layer in expected)


def test_trained_parameters_are_fp32_and_a_four_bit_weight_counts_its_elements():
    plain, quantized = (
        count_parameters(apply_method(load_model(run), run)) for run in (make_run(), make_run("method=qlora"))
    )
    assert plain == quantized
    run = make_run("method=qlora")
    assert {p.dtype for p in apply_method(load_model(run), run).parameters() if p.requires_grad} == {torch.float32}


def test_unknown_target_modules_are_refused_with_the_models_own_names():
    run = make_run("lora.target_modules=[q_prj,v_proj]")
    with pytest.raises(ConfigError) as caught:
        apply_method(load_model(run), run)
    said = str(caught.value)
    assert "lora.target_modules=q_prj: the model has no such linear layer or embedding." in said
    assert "Its linear layers: down_proj, gate_proj, k_proj" in said
    assert "Did you mean q_proj" in said
