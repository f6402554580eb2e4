"""Linear layers that no adapter works on: the model's code reads their weight, past the layer, or what they give is no
plain product. PEFT refuses some of them for some of the families; of others an adapter is there, and learns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftlab.errors import Mistake
from ftlab.model.module_names import matches_name

# model_type -> the layers' names, as transformers 5.23 computes them: in kernels that take the weights of a whole block
# (``outproj_weight``, ``mamba_inner_fn``), by a product of its own (``self.dt_proj.weight @ ...``), or with two results
# (Llama 4's router).
_UNADAPTED = {
    "bamba": ["out_proj"],
    "falcon_h1": ["out_proj"],
    "falcon_mamba": ["dt_proj", "out_proj", "x_proj"],
    "granitemoehybrid": ["out_proj"],
    "jamba": ["dt_proj"],
    "llama4": ["router"],
    "llama4_text": ["router"],
    "mamba": ["dt_proj", "out_proj", "x_proj"],
    "mamba2": ["out_proj"],
    "nemotron_h": ["out_proj"],
    "zamba2": ["out_proj"],
}


def unadapted_layers(model: Any) -> list[str]:
    """Names of layers that get no adapter, whatever ``lora.target_modules`` takes as a whole."""
    return _UNADAPTED.get(model.config.model_type, [])


def unquantized_layers(family: str) -> list[str] | None:
    """Names of layers of a ``model_type`` that stay as they are: the same, for a weight that is read past its layer
    cannot be packed, and the output layer. None: what transformers leaves out by itself."""
    return [*_UNADAPTED[family], "lm_head"] if family in _UNADAPTED else None


def unadapted_mistakes(model: Any, names: Sequence[str]) -> list[Mistake]:
    """Return a mistake for each of the names that an adapter would not train."""
    family = model.config.model_type
    layers = unadapted_layers(model)
    reason = f"in {family} no adapter works on this layer: the model reads its weight past one. Leave it out"
    return [
        Mistake("lora.target_modules", f"{reason}, as all-linear does.", name)
        for name in names
        if any(matches_name(name, layer) for layer in layers)
    ]
