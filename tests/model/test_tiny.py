"""The embedded model is what its config says, and small enough to ship."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from ftlab.config.paths import shipped
from ftlab.pretrained.shape import parameter_count
from tests.runs import make_run

TINY = Path(shipped("models/tiny"))


def test_its_config_file_is_the_shipped_models_own():
    shape = make_run().model.architecture
    config = json.loads((TINY / "config.json").read_text())
    assert config["model_type"] == shape.family
    for ours, theirs in {
        "layers": "num_hidden_layers", "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
        "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim",
        "vocab_size": "vocab_size", "max_positions": "max_position_embeddings",
        "tied_embeddings": "tie_word_embeddings",
    }.items():  # fmt: skip
        assert getattr(shape, ours) == config[theirs], ours


def test_its_weights_have_as_many_parameters_as_the_shape_says():
    with safe_open(TINY / "model.safetensors", "np") as file:
        stored = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 (no mapping)
    assert stored == parameter_count(make_run().model.architecture)


def test_it_is_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 8_000_000


def test_documents_and_turns_end_with_tokens_of_their_own_and_padding_is_neither():
    from ftlab.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(make_run().model)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"] == [
        tokenizer.convert_tokens_to_ids("<|im_end|>")
    ]
