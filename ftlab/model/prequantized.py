"""Checkpoints whose weights are quantized already, as their config.json says. Imports no torch and loads no weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import CONFIG, local_folder, read_object
from ftlab.schema import Model, Run

# How a checkpoint may be quantized, to be trained on with adapters -> what transformers loads it with, and from which
# version on gradients pass through it (GptqHfQuantizer and AwqQuantizer of transformers 5).
_NEEDS: dict[str, dict[str, str]] = {
    "gptq": {"gptqmodel": "1.4.3", "optimum": "1.24.0"},
    "awq": {"gptqmodel": "5.0.0"},
    "bitsandbytes": {},
}


@dataclass(frozen=True)
class Packing:
    """How the weights of linear layers are stored.

    :param bits: of a weight. :param group: weights of one output that share a scale and a zero point; None: all of
        them. :param double_quantization: of bitsandbytes: whether the scales are quantized too.
    """

    kind: str
    bits: int
    group: int | None
    double_quantization: bool


def quantization_kind(model: Model) -> str | None:
    """``gptq``, ``awq``, ``bitsandbytes`` or another of transformers' names; None for weights as they are, and for a
    model whose config.json is not on this machine."""
    found = packing(model)
    return None if found is None else found.kind


def packing(model: Model) -> Packing | None:
    """None for weights as they are, and for a model whose config.json is not on this machine."""
    found = _config(model).get("quantization_config")
    if not found or not isinstance(found, dict):  # preflight tells of another type
        return None
    if found.get("load_in_4bit") or found.get("load_in_8bit"):  # files from before the kind had a name
        kind = "bitsandbytes"
    else:
        kind = str(found.get("quant_method", "unknown"))
    if kind == "bitsandbytes":
        return Packing(kind, 8 if found.get("load_in_8bit") else 4, None, bool(found.get("bnb_4bit_use_double_quant")))
    # AutoAWQ has names of its own. Both kinds began with 4 bits and groups of 128.
    bits, group = (_count(found, *names) for names in (("bits", "w_bit"), ("group_size", "q_group_size")))
    return Packing(kind, bits or 4, None if group == -1 else group or 128, False)


def _count(found: dict[str, Any], *names: str) -> int | None:
    return next((found[name] for name in names if isinstance(found.get(name), int)), None)


def unsupported_reason(run: Run) -> str | None:
    """Return why the run cannot train on its checkpoint's quantized weights, and what would do; None if it can."""
    kind = quantization_kind(run.model)
    if kind is None:
        return None
    said = f"model.path={run.model.path} is quantized already ({kind})"
    if run.quant.name != "none":
        return f"{said}: use quant=none instead of quant={run.quant.name}, which is for weights as they are"
    if run.method.name != "lora":
        return f"{said}, and quantized weights cannot be trained themselves: use method=lora, or the unquantized model"
    if kind not in _NEEDS:
        return f"{said}; adapters train on {', '.join(_NEEDS)}. Use the unquantized model, with method=qlora if need be"
    if run.hardware.fsdp and kind != "bitsandbytes":
        return f"{said}, in a form that FSDP cannot shard: use hardware.fsdp=false, or the unquantized model"
    lacking = [f"{name}>={version}" for name, version in _NEEDS[kind].items() if not _has(name, version)]
    if lacking:
        install = " ".join(f"'{package}'" for package in lacking)
        return f"{said}; training on it needs {' and '.join(lacking)}: pip install {install}"
    return None


def _has(package: str, version: str) -> bool:
    try:
        return _numbers(metadata.version(package)) >= _numbers(version)
    except metadata.PackageNotFoundError:
        return False


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _config(model: Model) -> dict[str, Any]:
    folder = local_folder(model.path, model.revision)
    try:
        return read_object(folder / CONFIG) if folder is not None and (folder / CONFIG).is_file() else {}
    except NotReadyError:
        return {}  # which preflight tells of a folder
