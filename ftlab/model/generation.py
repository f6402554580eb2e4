"""``generation_config.json`` of a model's folder: kept for who serves the weights, and not what a run generates by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def only_what_is_asked(model: Any) -> Iterator[None]:
    """In the block ``model.generate`` goes by its arguments alone. Else transformers takes from the folder's file
    whatever is not among them: penalties, beams, forbidden and forced tokens."""
    from transformers import GenerationConfig

    from ftlab.model.guests import has_adapter

    base = model.get_base_model() if has_adapter(model) else model
    kept, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = kept
