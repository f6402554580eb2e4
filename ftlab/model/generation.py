"""``generation_config.json`` of a model's folder: such as transformers reads and would not write again."""

from __future__ import annotations

from typing import Any

from ftlab.errors import NotReadyError


def make_savable(generation: Any, path: str) -> None:
    """Mend sampling values without ``do_sample``, which published models have: they say how to sample, so it is set.

    :param generation: transformers' GenerationConfig, changed in place. :param path: the model's.
    :raises NotReadyError: something else keeps it from being saved, as final/ and checkpoints do.
    """
    try:
        generation.validate(strict=True)
        return
    except ValueError:
        had, generation.do_sample = generation.do_sample, True
    try:
        generation.validate(strict=True)
    except ValueError as error:
        generation.do_sample = had
        lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("`")), lines[0])
        raise NotReadyError(
            f"model.path={path}: its generation_config.json cannot be written beside the weights: {reason} "
            "Mend the file."
        ) from None
