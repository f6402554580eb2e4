"""The experiment that ``ftlab init`` writes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftlab.errors import ConfigError, Mistake
from ftlab.use.init.guess import Guess

_PLAIN = re.compile(r"[\w./][\w./ -]*", re.ASCII)
_OURS = re.compile(r"(task|run|data\.(path|format|columns|tags|name))(\.|=|$)")  # what init sets, or what is no config
_GROUPS = ("model", "method", "quant", "lora", "phase", "deepspeed", "hardware", "tracker")


@dataclass(frozen=True, slots=True)
class Target:
    """Where an experiment is written. :param folder: what ``--config-dir`` names."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / "experiment" / f"{self.name}.yaml"

    @property
    def arguments(self) -> str:
        return shlex.join([f"--config-dir={self.folder}", f"experiment={self.name}"])


def target(out: str, name: str) -> Target:
    """:param out: a folder of config groups, or the file itself.
    :raises ConfigError: a file that Hydra would not find.
    """
    path = Path(out).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        return Target(path, name)
    if path.parent.name != "experiment" or path.suffix != ".yaml":
        reason = f"an experiment is found in a folder of that name: out={path.parent / 'experiment' / path.stem}.yaml"
        raise ConfigError([Mistake("task.out", reason, out)])
    return Target(path.parent.parent, path.stem)


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
            *parents, last = key.split(".")
            node = keys
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = (value, "as ftlab init was told")
    lines = ["# @package _global_", f"# ftlab {where.arguments}"]
    lines.append(f"# Look at the rows first: ftlab inspect {where.arguments}")
    if stage != "pt":
        lines.append("# Prompts of your own, answered before and after: data.split.golden=FILE; of")
        lines.append("# another format, or without answers: data.golden.format=prompts as well")
    lines += ["defaults:", *(f"  - override /{group}: {choice}" for group, choice in groups)]
    lines.append(f"  - override /stage: {stage}")
    return "\n".join([*lines, *_to_yaml(keys, "")]) + "\n"


def _data(file: str, guess: Guess, sampled: str) -> dict[str, Any]:
    good = len(guess.records)
    how_many = f"all of {sampled} read so" if good == guess.rows else f"{good} of {sampled} read so"
    found: dict[str, Any] = {"name": ("null", "none of the registry's, but this")}
    found |= {"path": (scalar(file), _where(file)), "format": (guess.format, how_many)}
    if guess.columns:
        found["columns"] = (_flow(guess.columns), "your columns by the format's; null: there is none")
    if guess.tags:
        found["tags"] = (_flow(guess.tags), "your words by sharegpt's")
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


def _to_yaml(node: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _to_yaml(value, indent + "  ")
        else:
            said, comment = value
            yield f"{f'{indent}{key}: {said}':<30}  # {comment}"


def _flow(names: Mapping[str, str | None]) -> str:
    inner = ", ".join(f"{key}: {'null' if value is None else scalar(value)}" for key, value in names.items())
    return f"{{{inner}}}"


def scalar(value: str) -> str:
    """A string as YAML writes it within a flow mapping, and OmegaConf does not interpolate.

    >>> scalar("my.json"), scalar("1"), scalar("a: b")
    ('my.json', '"1"', '"a: b"')
    """
    if _PLAIN.fullmatch(value) and value == value.strip() and yaml.safe_load(value) == value:
        return value
    return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)


def _short(reason: str) -> str:
    one_line = " ".join(reason.split())
    return one_line if len(one_line) <= 60 else f"{one_line[:57]}..."
