"""Whether a model's folder can be loaded at all, told in milliseconds and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.architecture import read_architecture
from ftlab.pretrained.files import CONFIG, REMEDY, read_object
from ftlab.pretrained.generation import GENERATION, generation_problems
from ftlab.pretrained.tensors import has_known_names, tensor_problems
from ftlab.pretrained.tokenizer_files import tokenizer_problems
from ftlab.pretrained.weights import inspect_weights


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
            problems += generation_problems(folder)
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


def linear_names(folder: Path) -> list[str]:
    """The paths of the modules with a matrix, from the headers of the files; empty where those do not tell."""
    try:
        if not has_known_names(read_architecture(folder)["family"]):
            return []
    except NotReadyError:
        return []
    shapes = inspect_weights(folder).shapes.items()
    return [name.removesuffix(".weight") for name, shape in shapes if name.endswith(".weight") and len(shape) == 2]
