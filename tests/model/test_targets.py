"""lora.target_modules: all linear layers, a family's own, or a list."""

from __future__ import annotations

import functools
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    LlamaConfig,
    Phi3Config,
    Qwen3MoeConfig,
    Starcoder2Config,
)

from ftlab.errors import ConfigError
from ftlab.model.adapter import apply_method
from ftlab.model.load import load_model
from ftlab.model.targets import target_modules
from tests.compatibility import save_family
from tests.conftest import ROOT
from tests.families import family_model
from tests.runs import make_run

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0}


@functools.cache
def default_lora():
    return make_run().lora


def lora(targets):
    return default_lora().model_copy(update={"target_modules": targets})


def adapted(*overrides: str) -> set[str]:
    run = make_run("model=tiny", *overrides)
    names = [name for name, _ in apply_method(load_model(run), run).named_modules() if name.endswith(".lora_A")]
    return {name.split(".")[-2] for name in names}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("default", {"q_proj", "v_proj"}),
        ("[o_proj,mlp.up_proj]", {"o_proj", "up_proj"}),
        ("[lm_head]", {"lm_head"}),
    ],
)
@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_adapters_are_where_they_were_asked_for(given, expected, quant):
    assert adapted(f"lora.target_modules={given}", f"quant={quant}") == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BloomConfig(**SMALL), ["query_key_value"]),
        (FalconConfig(**SMALL), ["query_key_value"]),
        (LlamaConfig(**SMALL), ["q_proj", "v_proj"]),
        (Phi3Config(**SMALL), ["qkv_proj"]),
        (Qwen3MoeConfig(**SMALL), ["q_proj", "v_proj"]),
        (Starcoder2Config(**SMALL), ["q_proj", "v_proj"]),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_familys_default_names_layers_that_it_has(config, expected):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert target_modules(model, lora("default")) == expected


class Remote(nn.Module):
    """A model whose code comes with its checkpoint: a layer of the published name, and one more."""

    def __init__(self, family: str, layer: str):
        super().__init__()
        self.config = SimpleNamespace(model_type=family)
        self.add_module(layer, nn.Linear(4, 4))
        self.dense = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("family", "layer"),
    [("chatglm", "query_key_value"), ("baichuan", "W_pack"), ("qwen", "c_attn"), ("internlm2", "wqkv")],
)
def test_the_classic_names_of_families_with_code_of_their_own(family, layer):
    assert target_modules(Remote(family, layer), lora("default")) == [layer]


def test_every_model_of_ours_has_a_default(subtests):
    files = (ROOT / "conf" / "model").glob("*.yaml")
    families = {found[1] for path in files if (found := re.search(r"^\s*family: (\w+)", path.read_text(), re.M))}
    assert len(families) > 10
    for family in families:
        # A name, and none of this model's.
        with subtests.test(family), pytest.raises(ConfigError, match="the model has no such linear layer"):
            target_modules(Remote(family, "x"), lora("default"))


def test_a_family_without_a_default_is_told_its_layers():
    with pytest.raises(ConfigError) as caught:
        target_modules(Remote("newcomer", "wq"), lora("default"))
    assert (
        "lora.target_modules=default: there is no default for models of the family newcomer. Use all-linear, or name "
        "some of its linear layers: dense, wq." in str(caught.value)
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[q_prj,v_proj]", "lora.target_modules=q_prj: the model has no such linear layer or embedding. Its linear "
         "layers: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj. Did you mean q_proj"),
        ("[query_key_value]", "lora.target_modules=query_key_value: the model has no such linear layer or embedding."),
        ("[input_layernorm]", "lora.target_modules=input_layernorm: the model has no such linear layer or embedding."),
        ("[proj]", "lora.target_modules=proj: the model has no such linear layer or embedding."),
    ],
)  # fmt: skip
def test_a_name_that_is_no_linear_layer_is_refused_with_those_that_are(given, said):
    with pytest.raises(ConfigError) as caught:
        adapted(f"lora.target_modules={given}")
    assert said in str(caught.value)


def test_a_family_with_the_name_of_another_is_refused_as_a_wrong_name_is():
    with pytest.raises(ConfigError, match=r"lora\.target_modules=W_pack: the model has no such linear layer"):
        target_modules(Remote("baichuan", "qkv"), lora("default"))


def test_the_config_of_every_family_is_one_of_transformers_or_comes_with_its_checkpoint():
    """A misspelt model_type in the table would never be looked up."""
    from transformers import CONFIG_MAPPING

    from ftlab.model.targets import _DEFAULTS

    remote = {"baichuan", "deepseek", "internlm", "internlm2", "qwen"}
    assert {family for family in _DEFAULTS if family not in CONFIG_MAPPING} == remote
    assert AutoConfig.for_model("qwen3_moe").model_type == "qwen3_moe"


@pytest.mark.parametrize(
    ("family", "adapted", "left_out"),
    [
        ("mamba", {"in_proj"}, {"dt_proj", "out_proj", "x_proj"}),
        ("mamba2", {"in_proj"}, {"out_proj"}),
        ("jamba", {"in_proj", "out_proj", "x_proj", "q_proj", "gate_proj"}, {"dt_proj"}),
    ],
)
def test_every_adapter_of_a_recurrent_family_learns(family, adapted, left_out):
    """Where the model's code reads a layer's weight past its adapter there is none; each that there is learns."""
    run = make_run("model=tiny", "lora.dropout=0")
    model = apply_method(family_model(family, 97), run).train()
    model(input_ids=torch.arange(3, 30)[None], labels=torch.arange(3, 30)[None], use_cache=False).loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if ".lora_B." in name}
    names = {name.split(".lora_B.")[0].rpartition(".")[2] for name in trained}
    assert adapted <= names and not names & left_out
    reached = {name for name, gradient in trained.items() if gradient is not None and gradient.any()}
    assert {name for name in trained if ".experts." not in name} <= reached


def test_a_layer_that_no_adapter_would_train_is_refused_by_name():
    refusal = r"lora\.target_modules=out_proj: in mamba no adapter works on this layer.*Leave it out"
    with pytest.raises(ConfigError, match=refusal):
        target_modules(family_model("mamba", 97), lora(["in_proj", "out_proj"]))


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_what_is_read_past_its_layer_is_not_quantized(quant, tmp_path):
    """A packed weight could not be multiplied with; everything else of Mamba is packed, and it trains."""
    folder = save_family("mamba", tmp_path, state_size=16, hidden_size=64, time_step_rank=64)
    run = make_run("model=local", f"model.path={folder}", f"quant={quant}", "lora.dropout=0")
    model = apply_method(load_model(run), run).train()
    ids = torch.arange(3, 30)[None]
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    kinds = {name.rpartition(".")[2]: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["dt_proj"] == kinds["x_proj"] == kinds["out_proj"] == kinds["lm_head"] == "Linear"
    gradients = [p.grad for name, p in model.named_parameters() if ".lora_B." in name]
    assert gradients and all(gradient.any() for gradient in gradients)
