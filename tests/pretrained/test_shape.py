"""The shapes in conf/model against published parameter counts and against the classes of transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from omegaconf import OmegaConf

from ftlab.config import compose
from ftlab.pretrained import shape as arithmetic

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "conf" / "model"
# The tiny models ship with the project and are published nowhere else.
TINY = ("tiny", "tiny_instruct", "local")
NAMES = sorted(path.stem for path in MODELS.glob("*.yaml") if not path.stem.startswith("_") and path.stem not in TINY)
PUBLISHED = yaml.safe_load(Path(__file__).with_name("published_parameters.yaml").read_text())

REMOTE_CODE = {"baichuan", "chatglm", "internlm2"}
SIZES = {"_1b": (0, 3.5e9), "_7b": (3.5e9, 10e9), "_13b": (10e9, 16e9), "_34b": (16e9, 50e9), "_70b": (50e9, 1e12)}


@pytest.fixture(scope="module")
def models(loader):
    """Every model file, composed by Hydra as a config that has nothing else."""
    composed = {name: compose.compose([], loader, f"model/{name}").model for name in NAMES}
    return {name: OmegaConf.to_container(model, throw_on_missing=True) for name, model in composed.items()}


@pytest.fixture(scope="module")
def shapes(models):
    """The architecture of every model, by its name."""
    return {name: SimpleNamespace(**model["architecture"]) for name, model in models.items()}


def test_every_model_has_a_published_count_and_the_reverse():
    assert set(PUBLISHED) == set(NAMES)


def test_counts_are_the_published_ones(shapes, subtests):
    for name, shape in shapes.items():
        entry = PUBLISHED[name]
        surplus = entry.get("not_parameters", {})
        with subtests.test(name):
            assert entry["source"]
            difference = arithmetic.parameter_count(shape) - (entry["published"] - sum(surplus.values()))
            assert abs(difference) <= entry.get("tolerance", 0)
            explained = {
                "tied_head": shape.vocab_size * shape.hidden_size if shape.tied_embeddings else None,
                "rotary_buffers": shape.layers * shape.head_dim // 2,
            }
            assert surplus == {key: explained[key] for key in surplus}


def test_files_are_complete_and_of_their_size(models, shapes, subtests):
    for name, model in models.items():
        shape = shapes[name]
        with subtests.test(name):
            assert model["name"] == name
            assert model["revision"] == "main"
            assert model["path"].count("/") == 1
            assert set(model["architecture"]) == set(models["llama2_7b"]["architecture"])
            assert model["trust_remote_code"] is False  # only a user says so
            text = (MODELS / f"{name}.yaml").read_text()
            assert f"# python -m ftlab model={name}\n" in text
            size = yaml.safe_load(text)["defaults"][0]
            low, high = SIZES[size]
            assert low <= arithmetic.parameter_count(shape) < high
            assert shape.heads % shape.kv_heads == 0
            assert shape.experts_per_token <= shape.experts
            assert model["recommended"]["max_length"] <= shape.max_positions


def test_recommended_values_of_each_size(models):
    expected = {
        "phi_2": (16, 8, 2), "llama2_7b": (16, 4, 4), "phi4": (32, 2, 8), "yi_34b": (32, 1, 16),
        "llama2_70b": (64, 1, 16),
    }  # fmt: skip
    sizes = {name: yaml.safe_load((MODELS / f"{name}.yaml").read_text())["defaults"][0] for name in expected}
    assert list(sizes.values()) == list(SIZES)
    assert {name: models[name]["recommended"] for name in expected} == {
        name: {
            "lora": {"r": r, "alpha": 2 * r, "dropout": 0.05},
            "micro_batch_size": micro_batch_size,
            "gradient_accumulation_steps": accumulation,
            "max_length": 2048,
            "epochs": 3,
            "learning_rate": None,
        }
        for name, (r, micro_batch_size, accumulation) in expected.items()
    }


def _config(shape, layers):
    """The transformers config of this shape: sizes only, so that biases, norms and gates are the library's own."""
    from transformers import AutoConfig

    sizes = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_positions,
        "tie_word_embeddings": shape.tied_embeddings,
    }
    if shape.family == "qwen3_moe":
        sizes |= {"num_experts": shape.experts, "moe_intermediate_size": shape.intermediate_size}
    elif shape.family in ("mixtral", "gpt_oss"):
        sizes |= {"num_local_experts": shape.experts}
    elif shape.family == "granitemoehybrid":
        # Those without state spaces and experts: what is shared between experts is all that there is.
        sizes |= {
            "layer_types": ["attention"] * layers,
            "shared_intermediate_size": shape.intermediate_size,
            "num_local_experts": 0,
        }
    elif shape.family == "glm4":
        sizes |= {"attention_bias": shape.qkv_bias}
    elif shape.family == "falcon":
        # Names of its own; head_dim follows from the others. The first layout has one key-value head and one norm.
        del sizes["head_dim"], sizes["num_key_value_heads"], sizes["intermediate_size"]
        sizes |= {"num_kv_heads": shape.kv_heads, "ffn_hidden_size": shape.intermediate_size}
        sizes |= {"new_decoder_architecture": shape.norms_per_layer == 2}
    elif shape.family in ("phi3", "smollm3", "olmo3"):
        # The default ids lie outside smaller vocabularies.
        sizes |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return AutoConfig.for_model(shape.family, **sizes)


def check_against_transformers(shape):
    """Two layers on the meta device: what a layer holds, and what stands around the layers. Depth is a factor."""
    import torch
    from transformers import AutoModelForCausalLM

    shape.layers = 2
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(shape, layers=2))
    # parameters() yields a tied matrix once.
    assert sum(parameter.numel() for parameter in model.parameters()) == arithmetic.parameter_count(shape)
    embedding = model.get_input_embeddings().weight
    assert embedding.numel() == arithmetic.embedding_parameters(shape)
    assert (model.get_output_embeddings().weight is embedding) == shape.tied_embeddings
    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 2)
    assert sum(parameter.numel() for parameter in layers[0].parameters()) == arithmetic.layer_parameters(shape)


def test_the_formula_agrees_with_transformers(shapes, subtests):
    """Of every model, except where the class comes with the checkpoint."""
    checked = {name: shape for name, shape in shapes.items() if shape.family not in REMOTE_CODE}
    assert len(checked) > 50
    for name, shape in checked.items():
        with subtests.test(name):
            check_against_transformers(copy.copy(shape))


def test_parts_add_up_by_hand():
    """A layer small enough for pencil and paper, with every switch that no published model here sets."""
    shape = SimpleNamespace(
        layers=3,
        hidden_size=8,
        intermediate_size=5,
        heads=4,
        kv_heads=2,
        head_dim=2,
        vocab_size=10,
        position_embeddings=6,
        tied_embeddings=True,
        gated_mlp=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        lm_head_bias=True,
        norms_per_layer=2,
        norm_bias=True,
        qk_norm=True,
        attention_sinks=True,
        experts=3,
        experts_per_token=2,
        router_bias=True,
    )
    assert arithmetic.embedding_parameters(shape) == 10 * 8 + 6 * 8
    assert arithmetic.attention_parameters(shape) == (64 + 8) + 2 * (32 + 4) + (64 + 8) + 2 * 2 + 4
    assert arithmetic.expert_parameters(shape) == 2 * (40 + 5) + (40 + 8)
    assert arithmetic.feed_forward_parameters(shape) == 3 * 138 + 8 * 3 + 3
    assert arithmetic.layer_parameters(shape) == 224 + 441 + 2 * 16
    assert arithmetic.lm_head_parameters(shape) == 10
    assert arithmetic.parameter_count(shape) == 128 + 3 * 697 + 16 + 10
    assert arithmetic.active_parameter_count(shape) == 128 + 3 * (697 - 138) + 16 + 10
    shape.qk_norm = "whole"
    assert arithmetic.attention_parameters(shape) == (64 + 8) + 2 * (32 + 4) + (64 + 8) + (8 + 4) + 4


def test_active_parameters_are_those_of_the_model_card(shapes):
    # Cards give one decimal, some rounded and some cut off.
    billions = {"mixtral_8x7b": 12.9, "qwen3_30b_a3b": 3.3, "llama2_7b": 6.7}
    counted = {name: arithmetic.active_parameter_count(shapes[name]) / 1e9 for name in billions}
    assert {name: count for name, count in counted.items() if not 0 <= count - (billions[name] - 0.05) < 0.15} == {}


def test_no_torch_in_the_arithmetic():
    source = Path(arithmetic.__file__).read_text()
    assert "import torch" not in source and "import transformers" not in source
