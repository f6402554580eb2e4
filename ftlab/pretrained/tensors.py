"""The tensors of a model against the shape that its config.json says, for families whose layers are all alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ftlab.pretrained.weights import Shapes

# Families of which every layer has the same tensors under the names of the files. Of others loading alone can tell.
_ALIKE = (
    "bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "phi3",
    "qwen2", "qwen3", "starcoder2",
)  # fmt: skip
_LAYER = re.compile(r"^(.*?)\.?(?:layers|h)\.(\d+)\.(.+)$")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_BUFFERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")


def has_known_names(family: str) -> bool:
    """Whether the names of the tensors are those of the model's parameters."""
    return family in _ALIKE


def tensor_problems(shapes: Shapes, shape: Mapping[str, Any], is_quantized: bool) -> Iterator[str]:
    """Yield what the tensors lack or have otherwise than the config says; nothing of a family that is not known.

    :param shapes: of the files' tensors. :param shape: as :func:`ftlab.pretrained.architecture.read_architecture` has
        it. :param is_quantized: whether linear layers are packed, and so of shapes of their own.
    """
    if not shapes or shape["family"] not in _ALIKE:
        return
    layers: dict[int, set[str]] = {}
    for name in shapes:
        found = _LAYER.match(name)
        if found and not found[3].endswith(_BUFFERS):
            layers.setdefault(int(found[2]), set()).add(found[3])
    wanted, every = shape.get("layers", len(layers)), set().union(*layers.values())
    if len(layers) != wanted or (layers and max(layers) >= wanted):
        yield f"they hold {len(layers)} layers, and config.json says {wanted}"
        return
    for number in sorted(layers):
        lacking = sorted(every - layers[number])
        if lacking:
            names = ", ".join(_whole_name(shapes, number, name) for name in lacking[:3])
            yield f"they lack {names}" + (f" and {len(lacking) - 3} more of the layer" if len(lacking) > 3 else "")
    if not any(name.endswith(_EMBEDDINGS) for name in shapes):
        yield f"they lack the embedding ({_EMBEDDINGS[0]})"
    for name, real in shapes.items():
        expected = None if is_quantized else _expected(name, shape)
        if expected is not None and expected != real:
            yield f"{name} is {' x '.join(map(str, real))}, and config.json says {' x '.join(map(str, expected))}"
            return


def _whole_name(shapes: Shapes, number: int, inside: str) -> str:
    """The name that a tensor of a layer would have, as its like in other layers are called."""
    like = next(name for name in shapes if name.endswith(f".{inside}") and _LAYER.match(name))
    found = _LAYER.match(like)
    assert found is not None
    return f"{like[: found.start(2)]}{number}.{inside}"


def _expected(name: str, shape: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of a tensor whose name says what it is in every family that has it; None for others."""
    hidden, inner = shape.get("hidden_size"), shape.get("intermediate_size")
    if name.endswith(("embed_tokens.weight", "lm_head.weight")) and shape["family"] != "opt":
        sizes = (shape.get("vocab_size"), hidden)
    elif name.endswith("mlp.down_proj.weight"):
        sizes = (hidden, inner)
    elif name.endswith("self_attn.q_proj.weight") and "heads" in shape and hidden:
        sizes = (shape["heads"] * shape.get("head_dim", hidden // shape["heads"]), hidden)
    elif name.endswith("self_attn.k_proj.weight") and "heads" in shape and hidden:
        kv_heads = shape.get("kv_heads", shape["heads"])
        sizes = (kv_heads * shape.get("head_dim", hidden // shape["heads"]), hidden)
    else:
        return None
    return None if None in sizes else sizes  # type: ignore[return-value]
