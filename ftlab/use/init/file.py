"""The experiment that ``ftlab init`` writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlab.config import experiment_file
from ftlab.config.experiment_file import Target, value_text
from ftlab.use.init.guess import Guess

_OURS = re.compile(r"(task|run|data\.(path|format|columns|tags|name))(\.|=|$)")  # what init sets, or what is no config
_GROUPS = ("model", "method", "quant", "lora", "phase", "deepspeed", "hardware", "tracker")


def user_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the command line that belong in the experiment: groups and keys, without ``+``."""
    bare = [override.lstrip("+") for override in overrides if "=" in override and not override.startswith("-")]
    return [o for o in bare if not _OURS.match(o) and not o.startswith(("stage=", "data=", "hydra", "experiment="))]


def text(
    where: Target, file: str, stage: str, guess: Guess, overrides: Sequence[str], sampled: str, length: int | None
) -> str:
    """:param overrides: of :func:`user_overrides`. :param sampled: how the rows that were looked at are called.
    :param length: a ``data.max_length`` that they need.
    """
    groups = [(key, value) for key, _, value in (o.partition("=") for o in overrides) if key in _GROUPS]
    keys: dict[str, Any] = {"data": _data(file, guess, sampled)}
    if length is not None:
        keys["data"]["max_length"] = (
            str(length),
            f"keeps (nearly) all of {sampled} whole; the model's default would not",
        )
    for key, _, value in (o.partition("=") for o in overrides):
        if key not in _GROUPS:
            experiment_file.put(keys, key, value, "as ftlab init was told")
    lines = ["# @package _global_", f"# ftlab {where.arguments}"]
    lines.append(f"# Look at the rows first: ftlab inspect {where.arguments}")
    if stage != "pt":
        lines.append("# Prompts of your own, answered before and after: data.split.golden=FILE; of")
        lines.append("# another format, or without answers: data.golden.format=prompts as well")
    lines += ["defaults:", *(f"  - override /{group}: {choice}" for group, choice in groups)]
    lines.append(f"  - override /stage: {stage}")
    return "\n".join([*lines, *experiment_file.lines(keys)]) + "\n"


def _data(file: str, guess: Guess, sampled: str) -> dict[str, Any]:
    good = len(guess.records)
    how_many = f"all of {sampled} read so" if good == guess.rows else f"{good} of {sampled} read so"
    found: dict[str, Any] = {"name": ("null", "none of the registry's, but this")}
    found |= {"path": (value_text(file), _where(file)), "format": (guess.format, how_many)}
    if guess.columns:
        found["columns"] = (value_text(guess.columns), "your columns by the format's; null: there is none")
    if guess.tags:
        found["tags"] = (value_text(guess.tags), "your words by sharegpt's")
    if guess.problems:
        reason, count, _ = guess.reasons()[0]
        most = "" if count == len(guess.problems) else f"; of {count} it is said"
        told = f"{len(guess.problems)} of {sampled} cannot be used{most}: {_short(reason)}"
        found["on_invalid"] = ("drop", told)
    return found


def _where(file: str) -> str:
    if file.startswith(("hf://", "ms://")):
        return "a set on a hub"
    is_absolute = Path(file).expanduser().is_absolute()
    return "from any folder" if is_absolute else "from the folder that the command is given in"


def _short(reason: str) -> str:
    one_line = " ".join(reason.split())
    return one_line if len(one_line) <= 60 else f"{one_line[:57]}..."
