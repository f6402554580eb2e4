"""How models answer, and what may be said of it while they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.policy.given import Given
from ftlab.schema import Settings
from ftlab.schema.tasks import Answering

if TYPE_CHECKING:
    from ftlab.measure.sample import Sampling

_LENGTH = "eval.max_new_tokens"  # as ftlab evaluate has it
_NOTHING = ("null", "none", "off", "")


def first_settings(task: Answering, given: Given, seed: int) -> Settings:
    """What the command line says."""
    values = {name: getattr(task, name) for name in Answering.model_fields}
    values["max_new_tokens"] = given.values.get(_LENGTH, task.max_new_tokens)
    return Settings(**values, seed=given.values.get("seed", seed))


def changed(settings: Settings, key: str, text: str) -> Settings:
    """The settings with another value. :param text: as it was typed.

    :raises ConfigError: there is no such setting, or it has no such value.
    """
    name = key.removeprefix("eval.")
    known = list(Settings.model_fields)
    if name not in known:
        raise ConfigError([Mistake(key, f"no such setting. Known: {', '.join(known)}.", None, nearest(name, known))])
    value = None if text.lower() in _NOTHING else text
    try:
        return Settings.model_validate({**settings.model_dump(), name: value})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].replace("Input should be", "must be").split(", unable to parse")[0]
        raise ConfigError([Mistake(name, reason, text)]) from None


def sampling_of(settings: Settings) -> Sampling:
    """How the next token is chosen."""
    from ftlab.measure.sample import Sampling

    return Sampling(settings.temperature, settings.top_k, settings.top_p, settings.repetition_penalty)
