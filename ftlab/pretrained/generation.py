"""``generation_config.json`` of a model's folder: whether it can be read, and what a run does not take of it."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import local_folder, read_object

GENERATION = "generation_config.json"
# What its keys must be, of those that a run reads or writes again.
_GENERATION_TYPES: dict[str, tuple[type, ...]] = {
    "temperature": (int, float), "top_p": (int, float), "top_k": (int,), "min_p": (int, float),
    "typical_p": (int, float), "do_sample": (bool,), "num_beams": (int,), "num_return_sequences": (int,),
    "no_repeat_ngram_size": (int,), "eos_token_id": (int, list), "bos_token_id": (int,), "pad_token_id": (int,),
    "repetition_penalty": (int, float), "max_new_tokens": (int,), "max_length": (int,),
}  # fmt: skip
# The least and the most of those that have bounds. A top_k of -1 is what other engines call "all".
_GENERATION_BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0, inf), "top_p": (0, 1), "top_k": (-1, inf), "min_p": (0, 1), "typical_p": (0, 1),
    "num_beams": (1, inf), "num_return_sequences": (1, inf), "no_repeat_ngram_size": (0, inf), "pad_token_id": (0, inf),
    "repetition_penalty": (0, inf), "max_new_tokens": (1, inf), "max_length": (1, inf),
}  # fmt: skip
# What decides which tokens an answer has, and the value at which it does nothing.
_ANSWERING: dict[str, object] = {
    "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "num_return_sequences": 1, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "exponential_decay_length_penalty": None,
    "bad_words_ids": None, "force_words_ids": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "sequence_bias": None, "guidance_scale": None,
    "watermarking_config": None, "penalty_alpha": None, "min_length": 0, "min_new_tokens": None, "stop_strings": None,
}  # fmt: skip
_SAMPLING = ("temperature", "top_p", "top_k")  # what transformers cannot save without do_sample


def generation_problems(folder: Path) -> list[str]:
    """What is wrong with the file of a folder that has one. :raises NotReadyError: it is no JSON object."""
    values = read_object(folder / GENERATION)
    problems = {}
    for key, kinds in _GENERATION_TYPES.items():
        if (value := values.get(key)) is None:
            continue
        if type(value) not in kinds or not _are_ids(value):
            problems[key] = " or ".join(_WORDS[kind] for kind in kinds)
        elif key in _GENERATION_BOUNDS:
            least, most = _GENERATION_BOUNDS[key]
            if not least <= value <= most or value == inf:
                problems[key] = f"at least {least}" if most == inf else f"from {least} to {most}"
    return [
        f"{folder / GENERATION}: {key}={values[key]!r} must be {allowed}. Mend it, or delete the file"
        for key, allowed in problems.items()
    ]


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", list: "a list of them"}


def _are_ids(value: Any) -> bool:
    return not isinstance(value, list) or all(type(one) is int for one in value)


def generation_remark(path: str, revision: str) -> list[str]:
    """What to say of a folder's own way to generate, by which this run's answers do not go; empty where it has none."""
    folder = local_folder(path, revision)
    if folder is None or not (folder / GENERATION).is_file():
        return []
    try:
        values = read_object(folder / GENERATION)
    except NotReadyError:
        return []
    given = {key: values[key] for key, none in _ANSWERING.items() if values.get(key) not in (None, none)}
    if not given:
        return []
    said = (
        f"{folder / GENERATION} has {', '.join(f'{key}={json.dumps(value)}' for key, value in given.items())}: for who "
        "serves the weights, beside which it is saved; answers of this run go by its own keys (eval.*, stage.*)"
    )
    if not given.get("do_sample") and any(key in given for key in _SAMPLING):
        said += ". It gets do_sample=true there, as it could not be saved otherwise"
    return [said]
