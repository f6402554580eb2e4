"""method=freeze: which of the model's own parameters train, by name."""

from __future__ import annotations

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from ftlab.errors import ConfigError
from ftlab.model.adapter import apply_method
from ftlab.model.load import load_model
from ftlab.model.modules import decoder_layers
from tests.model.test_adapter import changed_by_steps
from tests.runs import make_run

MLP = {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}


def trained(*overrides: str) -> set[str]:
    run = make_run("method=freeze", "model=tiny", *overrides)
    return {name for name, p in apply_method(load_model(run), run).named_parameters() if p.requires_grad}


def of_layers(layers: set[int], parts: set[str]) -> set[str]:
    return {f"model.layers.{layer}.{part}" for layer in layers for part in parts}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method.trainable_layers=2", "method.trainable_modules=[mlp]"], of_layers({2, 3}, MLP)),
        (["method.trainable_layers=-1", "method.trainable_modules=[mlp]"], of_layers({0}, MLP)),
        (["method.trainable_layers=1", "method.trainable_modules=[q_proj,mlp.up_proj]"],
         of_layers({3}, {"self_attn.q_proj.weight", "mlp.up_proj.weight"})),
        (["method.trainable_layers=null", "method.trainable_modules=[v_proj]"],
         of_layers({0, 1, 2, 3}, {"self_attn.v_proj.weight"})),
        (["method.trainable_layers=0", "method.trainable_modules=[model.norm,layers.1.mlp]"],
         {"model.norm.weight"} | of_layers({1}, MLP)),
        (["method.trainable_layers=null", "method.train_embeddings=true"],
         {"model.embed_tokens.weight", "lm_head.weight"}),
        (["method.trainable_layers=0", "method.train_norms=true"],
         {"model.norm.weight"}
         | of_layers({0, 1, 2, 3}, {"input_layernorm.weight", "post_attention_layernorm.weight"})),
    ],
)  # fmt: skip
def test_exactly_what_is_named_trains(overrides, expected):
    assert trained(*overrides) == expected


def test_switches_come_on_top_of_the_layers_and_steps_change_what_they_say():
    changed, rest = changed_by_steps(
        "method=freeze", "model=tiny", "method.trainable_layers=1", "method.trainable_modules=[down_proj]",
        "method.train_embeddings=true", "method.train_norms=true",
    )  # fmt: skip
    assert {"model.layers.3.mlp.down_proj.weight", "model.embed_tokens.weight", "lm_head.weight"} <= changed
    assert all("down_proj" in n or "norm" in n or n in ("model.embed_tokens.weight", "lm_head.weight") for n in changed)
    assert not any("norm" in name for name in rest)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method.trainable_layers=2", "method.trainable_modules=[mpl]"],
         "method.trainable_modules=mpl: the chosen layers have no such module. They are called: down_proj, gate_proj, "
         "input_layernorm, k_proj, mlp, o_proj, post_attention_layernorm, q_proj, self_attn, up_proj, v_proj. Did you "
         "mean mlp?"),
        (["method.trainable_layers=2", "method.trainable_modules=[embed_tokens]"],
         "method.trainable_modules=embed_tokens: the chosen layers have no such module."),
        (["method.trainable_layers=0", "method.trainable_modules=[lm_haed]"], "Did you mean lm_head?"),
        (["method.trainable_layers=0", "method.trainable_modules=[mlp,roj]"],
         "method.trainable_modules=roj: the model has no such module."),
    ],
)  # fmt: skip
def test_a_module_that_is_not_there_is_refused_with_those_that_are(overrides, said):
    with pytest.raises(ConfigError) as caught:
        trained(*overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("method=full method.train_norms=true",
         "method.train_norms=True: only method=freeze has it, and this is method=full"),
        ("method.trainable_modules=[mlp]",
         "method.trainable_modules=('mlp',): only method=freeze has it, and this is method=lora"),
        ("method=freeze method.trainable_modules=[]",
         "method.trainable_modules=[]: Tuple should have at least 1 item after validation, not 0"),
    ],
)  # fmt: skip
def test_what_contradicts_is_refused_before_a_model_is_loaded(line, said, mistakes):
    assert mistakes(line) == [said]


@pytest.mark.parametrize(
    "line", ["method.train_norms=true", "method.train_embeddings=true", "method.trainable_modules=[mlp]"]
)
def test_no_layers_are_enough_where_something_else_is_named(line, mistakes):
    assert mistakes(f"method=freeze method.trainable_layers=null {line}") == []


def test_layers_are_found_whatever_a_family_calls_them():
    config = FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=2)
    with torch.device("meta"):
        model = FalconForCausalLM(config)
    assert decoder_layers(model) is model.transformer.h
