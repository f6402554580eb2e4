"""What to say of an experiment that is not where Hydra looks for it, or not written as Hydra reads it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlab.config import foreign_names
from ftlab.config.paths import config_dir

_FOLDER = "experiment"
_FIRST_LINE = "# @package _global_"


def location_hint(given: str) -> str | None:
    """How to choose a file that is there; None where none is.

    :param given: what stands behind ``experiment=``, or a bare word: a name, or the path of a file.
    """
    path = Path(given).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = Path("conf") / _FOLDER / f"{given}.yaml"  # where ftlab init writes it
    if not path.is_file():
        return None
    if path.parent.name == _FOLDER and path.suffix == ".yaml":
        choice = shlex.join([f"--config-dir={path.parent.parent}", f"{_FOLDER}={path.stem}"])
        return f"{path} is chosen with {choice}"
    target = Path("conf") / _FOLDER / f"{path.stem}.yaml"
    return (
        f"a file of values is an experiment: put it into {target}, with the first line '{_FIRST_LINE}', and choose it "
        f"with --config-dir=conf {_FOLDER}={path.stem}. Of LLaMA-Factory's or TRL's, ftlab import {path} makes one"
    )


def choices_hint(group: str) -> str | None:
    """How to choose the user's own files of a group where ``ftlab init`` writes them; None where there are none."""
    folder = Path("conf") / group
    if folder.absolute().parent == config_dir():
        return None
    own = sorted(file.stem for file in folder.glob("[!_]*.yaml"))
    return f"with --config-dir=conf also {', '.join(own)}" if own else None


def misplaced_values(values: Mapping[str, Any]) -> str:
    """What to say where an experiment's keys lie under ``experiment``. :param values: what lies there."""
    translated = [
        f"{key}: {line}" for key, value in values.items() if (line := foreign_names.translation(str(key), str(value)))
    ]
    others = f". Of its keys, {'; '.join(translated)}" if translated else ""
    return f"its file needs the first line '{_FIRST_LINE}', or its keys are read below '{_FOLDER}'{others}"
