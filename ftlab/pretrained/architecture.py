"""``config.json`` of a model's folder as the ``architecture`` block of our configs.

Families name the same things otherwise; the names here are those of transformers' own configuration classes. What a
file does not say is left to the recipe, or to whoever gives ``model.architecture.KEY``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import CONFIG, REMEDY, read_object

_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "max_positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token"),
}
_EXPERT_SIZE = "moe_intermediate_size"  # of one expert, where the other name is that of dense layers
_PARTS = ("text_config", "quantization_config")
NEEDED = ("layers", "hidden_size", "vocab_size")
UNBOUNDED = 2**20  # positions of a family whose config names no end of them: ALiBi, state spaces
# Families of learned positions, with the rows that they have beyond the positions.
_LEARNED = {"gpt2": 0, "gpt_bigcode": 0, "gpt_neo": 0, "opt": 2, "biogpt": 2, "openai-gpt": 0, "imagegpt": 0}
# Families whose positions are no parameters, but stand in a table that ends with them.
_TABLES = ("codegen", "ctrl", "gptj", "mpt")
# Families that read a text in both directions unless their config says otherwise.
_ENCODERS = (
    "albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "megatron-bert", "modernbert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
_SAY_BIAS = ("glm4", "glm4_moe")  # families of which some sizes have biases of queries, keys and values: attention_bias
_MOST = 2**31  # no size of a model is more
_TIED = ("bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "mpt", "opt")
_UNGATED = (
    "biogpt", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi",
    "starcoder2",
)  # fmt: skip
_BIASED = ("biogpt", "bloom", "gpt2", "gpt_bigcode", "gpt_neox", "opt", "phi")  # every projection, and norms


def is_bounded(family: str, position_embeddings: int) -> bool:
    """Whether a token beyond ``max_positions`` cannot be computed at all; rotary models only know it less well."""
    return position_embeddings > 0 or family in _TABLES


def model_types(config: Mapping[str, Any]) -> list[str]:
    """The families that a config names: its own, and that of its text part."""
    parts = [config, config.get("text_config")]
    return [str(part["model_type"]) for part in parts if isinstance(part, Mapping) and part.get("model_type")]


def read_architecture(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says of ``model.architecture``; keys of which it says nothing are absent.

    :raises NotReadyError: the file cannot be read, is of a model that is no decoder, or the sizes are none; names the
        file and the key.
    """
    file = folder / CONFIG
    config = read_object(file)
    for part in _PARTS:
        if not isinstance(config.get(part), dict | None):
            raise NotReadyError(f"{file}: {part}={config[part]!r} must be a JSON object, {{...}}. {REMEDY}.")
    types = model_types(config)
    if not types:
        raise NotReadyError(f"{file} names no model_type, so nobody can tell what kind of model it is.")
    is_encoder = types[-1] in _ENCODERS and config.get("is_decoder") is not True
    if is_encoder or config.get("is_encoder_decoder") is True:
        kind = "an encoder, which reads a text in both directions" if is_encoder else "an encoder and a decoder"
        raise NotReadyError(f"{file}: model_type={types[-1]} is {kind}; models here write a text from left to right.")
    text = config.get("text_config")
    if isinstance(text, Mapping) and not any(name in config for name in _NAMES["layers"]):
        config = {**config, **text}
    found: dict[str, Any] = {"family": types[-1]}
    for key, names in _NAMES.items():
        name = next((name for name in names if config.get(name) is not None), None)
        if name is not None:
            found[key] = _size(file, name, config[name], least=0 if "expert" in key else 1)
    if not found.get("experts", 1):
        del found["experts"]
    if config.get(_EXPERT_SIZE) is not None and found.get("experts", 1) > 1:
        found["intermediate_size"] = _size(file, _EXPERT_SIZE, config[_EXPERT_SIZE])
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        found["kv_heads"] = 1
    tied = config.get("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise NotReadyError(f"{file}: tie_word_embeddings={tied!r} must be true or false.")
    if tied is not None:
        found["tied_embeddings"] = tied
    if types[-1] in _SAY_BIAS and isinstance(config.get("attention_bias"), bool):
        found["qkv_bias"] = config["attention_bias"]
    if types[-1] in _LEARNED and "max_positions" in found:
        found["position_embeddings"] = found["max_positions"] + _LEARNED[types[-1]]
    _check_heads(file, found)
    return found


def complete(found: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Every key of ``model.architecture`` for a model without a recipe.

    :raises NotReadyError: the file does not say what cannot be guessed.
    """
    for key in NEEDED:
        if key not in found:
            names = " or ".join(_NAMES[key])
            raise NotReadyError(f"{file} has no {names}; give it with model.architecture.{key}=N.")
    family, biased, heads = found["family"], found["family"] in _BIASED, found.get("heads", 1)
    values = {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": max(found["hidden_size"] // heads, 1),
        "max_positions": UNBOUNDED,
        "intermediate_size": 4 * found["hidden_size"],
        "tied_embeddings": family in _TIED,
        "gated_mlp": family not in _UNGATED,
        "qkv_bias": biased or family in ("qwen2", "gpt_oss"),
        "output_bias": biased or family == "gpt_oss",
        "mlp_bias": biased or family == "gpt_oss",
        "lm_head_bias": family == "phi",
        "norms_per_layer": 4 if family in ("gemma2", "gemma3_text", "glm4") else 2,
        "norm_bias": biased or family in ("falcon", "starcoder2"),
        "qk_norm": "whole" if family in ("olmo2", "olmo3") else family in ("qwen3", "qwen3_moe", "gemma3_text"),
        "attention_sinks": family == "gpt_oss",
        "experts": 1,
        "experts_per_token": 1,
        "router_bias": family == "gpt_oss",
        "position_embeddings": 0,
    }
    return {**values, **found}


def describe(shape: Mapping[str, Any]) -> str:
    """The shape in words, for one line."""
    experts = f", {shape['experts']} experts" if shape.get("experts", 1) > 1 else ""
    positions = "" if shape["max_positions"] == UNBOUNDED else f", {shape['max_positions']:,} positions"
    return (
        f"{shape['family']}, {shape['layers']} layers of {shape['hidden_size']}, {shape['heads']} heads{experts}, "
        f"{shape['vocab_size']:,} tokens{positions}"
    )


def _size(file: Path, name: str, value: Any, least: int = 1) -> int:
    """One number of a config. Some remote code gives one for each layer; the largest stands for all."""
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        value = max(value)
    if type(value) is not int or not least <= value < _MOST:
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
        raise NotReadyError(
            f"{file}: {name}={shown} must be a whole number of at least {least}. The file is damaged or of something "
            "else; copy the one that was published."
        )
    return value


def _check_heads(file: Path, found: Mapping[str, Any]) -> None:
    heads, hidden, kv_heads = found.get("heads"), found.get("hidden_size"), found.get("kv_heads")
    if heads and hidden and "head_dim" not in found and hidden % heads:
        raise NotReadyError(
            f"{file}: a hidden size of {hidden} is not divisible by {heads} heads. The file is damaged."
        )
    if heads and kv_heads and heads % kv_heads:
        raise NotReadyError(
            f"{file}: {heads} heads are not divisible by {kv_heads} key-value heads. The file is damaged."
        )
