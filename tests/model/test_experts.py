"""Adapters on mixtures of experts: what gets one, what of it has dropout, and that it is saved and merged as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from safetensors.torch import load_file

from ftlab.errors import ConfigError
from ftlab.model.adapter import apply_method, count_parameters
from ftlab.model.experts import describe_experts, expert_parameters
from ftlab.model.load import load_model
from tests.mixtures import FAMILIES, save_mixture, shape_overrides
from tests.runs import BARE, final_hash, interrupted_run, logged, make_run, metrics, resume_run, train_run

SHORT = (*BARE, "train.logging_steps=1", "train.learning_rate=1e-2", "data.packing=false", "data.max_samples=16")
# Two kinds of experts train in every run of the tests.
FEW = [pytest.param(one, marks=() if one in ("mixtral", "gpt_oss") else pytest.mark.matrix) for one in FAMILIES]
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mixtures")
    return {family: save_mixture(folder / family, family) for family in FAMILIES}


def build(folders: dict[str, Path], family: str, *overrides: str) -> tuple[Any, Any]:
    run = make_run(*shape_overrides(folders[family], family), "lora.dropout=0.1", *overrides)
    torch.manual_seed(0)
    return apply_method(load_model(run), run), run


def adapted(model: Any) -> set[str]:
    """What has an adapter, without numbers of layers."""
    found = set()
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            name = path.split(".layers.")[1].partition(".")[2].replace(".base_layer", "")
            found.add(f"{name}.{module.parameter_name}" if isinstance(module, ParamWrapper) else name)
    return found


ATTENTION = {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
EXPERTS = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
LINEAR_ATTENTION = {"linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba", "linear_attn.out_proj"}
SHARED = {f"mlp.shared_expert.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
REST = dict.fromkeys(FAMILIES, ATTENTION) | {
    "qwen3_next": ATTENTION | LINEAR_ATTENTION | SHARED | {"mlp.shared_expert_gate"}
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("given", "has_experts"),
    [
        ((), True),
        (("lora.experts=false",), False),
        (("lora=dora",), False),
        (("lora=rslora",), True),
        (("lora.target_modules=default",), False),
        (("lora.target_modules=default", "lora.experts=true"), True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_of_a_mixture_gets_an_adapter(folders, family, given, has_experts):
    if family in ("gpt_oss", "qwen3_next") and "lora.target_modules=default" in given:
        pytest.skip("no default for the family")
    model, run = build(folders, family, *given)
    found = adapted(model)
    assert (found >= EXPERTS) == has_experts
    rest = {"self_attn.q_proj", "self_attn.v_proj"} if "lora.target_modules=default" in given else REST[family]
    said = "\n".join(describe_experts(model, run, 10**6))
    if "lora=dora" in given:
        assert ("shared_expert.up_proj" in said) == (rest > SHARED)
        rest = rest - SHARED
    assert found - EXPERTS == rest
    assert ("their adapters are" in said) == has_experts
    assert ("get no adapter" in said) != has_experts


def test_experts_have_no_dropout_and_all_else_has(folders):
    model, _ = build(folders, "mixtral")
    for module in model.train().modules():
        if isinstance(module, LoraLayer):
            dropout = module.lora_dropout["default"]
            assert getattr(dropout, "p", 0.0) == (0.0 if isinstance(module, ParamWrapper) else 0.1)


def test_an_experts_adapter_has_the_rank_divided_by_the_experts_of_a_token(folders):
    model, _ = build(folders, "mixtral", "lora.r=8", "lora.alpha=16")
    parameters = dict(model.named_parameters())
    (of_experts, *_), (of_attention, *_) = (
        [p for name, p in parameters.items() if part in name and "lora_A" in name] for part in ("experts", "q_proj")
    )
    assert len(of_attention) == 8 and len(of_experts) == 4 * 4  # four experts
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    assert {layer.scaling["default"] for layer in layers} == {2.0}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[q_proj,gate_up_proj,down_proj]", {"self_attn.q_proj", *EXPERTS}),
        ("[mlp.experts.down_proj]", {"mlp.experts.down_proj"}),
        ("[q_proj,gate.weight]", {"self_attn.q_proj", "mlp.gate.weight"}),
    ],
)
def test_target_modules_can_name_weights(folders, names, expected):
    assert adapted(build(folders, "qwen3_moe", f"lora.target_modules={names}")[0]) == expected


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("lora.target_modules=[q_proj,gate_proj]",), "lora.target_modules=gate_proj: the model has no such linear "
         "layer, embedding or weight of experts. It has: k_proj, lm_head, o_proj, q_proj, v_proj, "
         "mlp.experts.down_proj, mlp.experts.gate_up_proj"),
        (("lora.target_modules=[down_proj]", "lora.experts=false"), "lora.experts=false: lora.target_modules names "
         "experts: down_proj"),
        (("lora.target_modules=[down_proj]", "lora=dora"), "lora.variant=dora: needs linear layers, and "
         "mlp.experts.down_proj is none"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_are_refused(folders, overrides, said):
    with pytest.raises(ConfigError) as caught:
        build(folders, "qwen3_moe", *overrides)
    assert said in str(caught.value)


def test_a_dense_model_has_no_experts_to_adapt():
    run = make_run("model=tiny", "lora.experts=true")
    with pytest.raises(ConfigError, match=r"lora\.experts=true: tiny has no experts"):
        apply_method(load_model(run), run)


def test_variants_that_need_linear_layers_are_refused_before(mistakes):
    (said,) = mistakes("lora=dora lora.experts=true")
    assert said.startswith("lora.experts=true: lora.variant=dora needs linear layers")


def test_quantization_leaves_experts_as_they_are_and_says_what_they_take(folders):
    model, run = build(folders, "mixtral", "method=qlora", "hardware.precision=bf16")
    assert {p.dtype for p in expert_parameters(model).values()} == {torch.bfloat16}
    assert adapted(model) == ATTENTION
    left_out, memory = describe_experts(model, run, count_parameters(model).total)
    assert "196,608 parameters, 37% of the model, get no adapter under lora.experts=auto and quant=nf4" in left_out
    assert "quant=nf4 leaves them in bfloat16" in memory
    wanted, _ = build(folders, "mixtral", "method=qlora", "lora.experts=true")
    assert adapted(wanted) == ATTENTION | EXPERTS


@pytest.mark.parametrize("family", FEW)
def test_an_adapter_on_experts_is_reloaded_and_merged_as_it_is(tmp_path, folders, family):
    model, run = build(folders, family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
        logits = model.eval()(IDS).logits
        plain = load_model(run)(IDS).logits
    assert (logits - plain).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")
    again, _ = build(folders, family, f"model.adapter={tmp_path / 'adapter'}")
    merged, _ = build(folders, family, f"model.adapter={tmp_path / 'adapter'}", "method=full")
    with torch.no_grad():
        assert torch.equal(again.eval()(IDS).logits, logits)
        assert (merged.eval()(IDS).logits - logits).abs().max() < 1e-5
    assert adapted(again) == adapted(model)


@pytest.mark.parametrize("family", FEW)
def test_a_mixture_with_adapters_trains_stops_and_goes_on(tmp_path, folders, family):
    given = (*shape_overrides(folders[family], family), *SHORT, "train.max_steps=4", "train.save_steps=2")
    whole = train_run(tmp_path / "whole", *given, "lora.dropout=0.1")
    interrupted_run(tmp_path / "stopped", 2, *given, "lora.dropout=0.1")
    stopped = resume_run(tmp_path / "stopped")
    assert logged(stopped) == logged(whole)
    assert final_hash(stopped) == final_hash(whole)
    losses = metrics(whole, "loss")
    assert losses[-1] < losses[0]
    trained = load_file(whole.final / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in trained.items() if "lora_B" in name and "experts" in name)


@pytest.mark.parametrize("model", ["mixtral_8x7b", "qwen3_30b_a3b"])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_mixtures_that_ship_train_on_their_defaults(tmp_path, folders, model, method):
    """With the weights of a small one of their family: three steps."""
    family = {"mixtral_8x7b": "mixtral", "qwen3_30b_a3b": "qwen3_moe"}[model]
    shape = shape_overrides(folders[family], family)
    run = train_run(
        tmp_path / "run", f"model={model}", f"method={method}", *shape, "model.template=chatml", *SHORT[:-3],
        "train.max_steps=3", "train.gradient_accumulation_steps=1", "train.logging_steps=1",
    )  # fmt: skip
    losses = metrics(run, "loss")
    assert len(losses) == 3 and all(0 < loss < 20 for loss in losses)
    config = (run.final / "adapter_config.json").read_text()
    assert ("experts" in config) == (method == "lora")
