"""The weights of a package with their tokenizer, template and generation config: a folder that transformers or PEFT
loads as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError, PackageError
from ftlab.policy.tokens import Tokens
from ftlab.pretrained.files import ADAPTER, CONFIG, read_object
from ftlab.pretrained.generation import GENERATION
from ftlab.pretrained.weights import ADAPTER_FILES, MODEL_FILES
from ftlab.rundir.files import link_file
from ftlab.rundir.model_card import is_of_hub
from ftlab.use.package.choice import Choice

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def write_weights(choice: Choice, tokens: Tokens, folder: Path) -> None:
    """Write everything that loads. Of GGUF this is the model that the file is made of.

    :raises NotReadyError: the base is not there, or it and the adapter do not belong together.
    :raises PackageError: the weights are no safetensors.
    """
    if choice.form == "peft":
        _write_adapter(choice, folder)
    elif choice.is_adapter or not _are_as_wanted(choice):
        _write_whole(choice, tokens, folder)
    else:
        source = choice.policy.weights.folder
        for path in sorted([source / CONFIG, *source.glob("model*.safetensors"), *source.glob("model*.index.json")]):
            link_file(path, folder / path.name)
    tokens.tokenizer.save_pretrained(folder)
    _write_generation(choice, tokens, folder)


def _write_adapter(choice: Choice, folder: Path) -> None:
    source, base = choice.policy.weights.folder, choice.base
    weights = ADAPTER_FILES[0]
    if not (source / weights).is_file():
        raise PackageError(f"{source} has no {weights}: a package has safetensors alone.")
    link_file(source / weights, folder / weights)
    # Where the base was on this machine is of no use elsewhere.
    revision = base.model.revision if is_of_hub(base) else None
    saved = {**read_object(source / ADAPTER), "base_model_name_or_path": choice.base_name, "revision": revision}
    (folder / ADAPTER).write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _are_as_wanted(choice: Choice) -> bool:
    """Whether the files of a full run can be packed as they are."""
    source, task = choice.policy.weights.folder, choice.task
    largest = max((path.stat().st_size for path in source.glob("model*.safetensors")), default=None)
    if largest is None:
        raise PackageError(f"{source} has no {MODEL_FILES[0]}: a package has safetensors alone.")
    return task.dtype == "auto" and (choice.form == "gguf" or largest <= shard_bytes(task.shard_size))


def shard_bytes(size: str) -> int:
    """Of ``5GB``, as transformers counts.

    >>> shard_bytes("2MB")
    2000000
    """
    return int(size[:-2]) * _UNITS[size[-2:]]


def _write_whole(choice: Choice, tokens: Tokens, folder: Path) -> None:
    import torch

    from ftlab.model.load import DTYPES, load_model
    from ftlab.policy.merged import merged_model

    if choice.is_adapter:  # added up in full precision, whatever they are written in
        model = merged_model(choice.config, tokens.tokenizer, torch.float32)
    else:
        model = load_model(choice.config)
    dtype = torch.float32 if choice.dtype == "q8_0" else DTYPES[choice.dtype]
    if dtype is torch.float16 and (name := _beyond_half(model)):
        raise NotReadyError(f"{name} has numbers that fp16 cannot hold; use dtype=bf16 or fp32.")
    model = model.to(dtype)
    model.config.dtype = dtype
    shards = choice.task.shard_size if choice.form == "hf" else "5GB"
    model.save_pretrained(folder, max_shard_size=shards)


def _beyond_half(model: Any) -> str | None:
    import torch

    largest = torch.finfo(torch.float16).max
    return next((name for name, p in model.named_parameters() if p.numel() and p.abs().max() > largest), None)


def _write_generation(choice: Choice, tokens: Tokens, folder: Path) -> None:
    """With the tokens that end an answer, as training saved them beside final weights; a checkpoint has none."""
    from transformers import GenerationConfig

    from ftlab.model.generation import make_savable

    source = choice.policy.weights.folder
    if (source / GENERATION).is_file():
        found = GenerationConfig.from_pretrained(source)
    else:
        try:
            found = GenerationConfig.from_pretrained(choice.config.model.path, revision=choice.config.model.revision)
        except OSError:  # the base has none
            found = GenerationConfig()
    make_savable(found, str(choice.config.model.path))
    found.eos_token_id, found.pad_token_id = tokens.stop, tokens.tokenizer.pad_token_id
    found.save_pretrained(folder)
