"""Whether a model's folder can be loaded at all, told in milliseconds and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.architecture import read_architecture
from ftlab.pretrained.files import CONFIG, REMEDY, local_folder, read_object
from ftlab.pretrained.tensors import has_known_names, tensor_problems
from ftlab.pretrained.tokenizer_files import tokenizer_problems
from ftlab.pretrained.weights import inspect_weights

GENERATION = "generation_config.json"
# What its keys must be, of those that a run reads or writes again.
_GENERATION_TYPES: dict[str, tuple[type, ...]] = {
    "temperature": (int, float), "top_p": (int, float), "top_k": (int,), "do_sample": (bool,), "num_beams": (int,),
    "eos_token_id": (int, list), "bos_token_id": (int,), "pad_token_id": (int,), "repetition_penalty": (int, float),
    "max_new_tokens": (int,), "max_length": (int,),
}  # fmt: skip


def folder_problems(folder: Path, needs_weights: bool) -> list[str]:
    """Return what is wrong with the files of a model's folder that has a config.json; empty where nothing is seen.

    :param needs_weights: False where they are drawn, and only shape and tokenizer are the folder's.
    """
    problems: list[str] = []
    shape: dict[str, Any] = {}
    try:
        config = read_object(folder / CONFIG)
        shape = read_architecture(folder)
    except NotReadyError as error:
        return [str(error)]
    if config.get("is_encoder_decoder") is True:
        return [f"{folder} is an encoder with a decoder ({shape['family']}); what trains here are language models"]
    problems += tokenizer_problems(folder, "auto_map" in config or (folder / "tokenization.py").exists())
    if (folder / GENERATION).exists():
        try:
            problems += _generation_problems(folder)
        except NotReadyError as error:
            problems.append(str(error))
    if needs_weights:
        weights = inspect_weights(folder)
        problems += weights.problems
        is_quantized = bool(config.get("quantization_config"))
        problems += [
            f"{folder}: the weights are not those of its {CONFIG}: {problem}. {REMEDY}."
            for problem in tensor_problems(weights.shapes, shape, is_quantized)
        ]
    return problems


def _generation_problems(folder: Path) -> list[str]:
    values = read_object(folder / GENERATION)
    return [
        f"{folder / GENERATION}: {key}={value!r} must be {' or '.join(_WORDS[kind] for kind in kinds)}. Mend it, or "
        "delete the file"
        for key, kinds in _GENERATION_TYPES.items()
        if (value := values.get(key)) is not None and (type(value) not in kinds or not _are_ids(value))
    ]


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", list: "a list of them"}


def _are_ids(value: Any) -> bool:
    return not isinstance(value, list) or all(type(one) is int for one in value)


def sampling_remark(path: str, revision: str) -> list[str]:
    """What to say of sampling values that a folder has without do_sample; empty where there are none."""
    folder = local_folder(path, revision)
    if folder is None or not (folder / GENERATION).is_file():
        return []
    try:
        values = read_object(folder / GENERATION)
    except NotReadyError:
        return []
    # What transformers samples by unless told otherwise counts as not said.
    usual = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
    given = [f"{key}={values[key]}" for key, value in usual.items() if values.get(key) not in (None, value)]
    if not given or values.get("do_sample"):
        return []
    return [
        f"{folder / GENERATION} has {', '.join(given)} without do_sample; the weights of this run get it with "
        "do_sample=true, as they could not be saved otherwise"
    ]


def linear_names(folder: Path) -> list[str]:
    """The paths of the modules with a matrix, from the headers of the files; empty where those do not tell."""
    try:
        if not has_known_names(read_architecture(folder)["family"]):
            return []
    except NotReadyError:
        return []
    shapes = inspect_weights(folder).shapes.items()
    return [name.removesuffix(".weight") for name, shape in shapes if name.endswith(".weight") and len(shape) == 2]
