"""Where a reward model's files are, and whether they are those of one. Nothing here imports torch."""

from __future__ import annotations

import re
from pathlib import Path

from ftlab.pretrained.files import ADAPTER, CONFIG
from ftlab.pretrained.weights import ADAPTER_FILES, MODEL_FILES, inspect_weights
from ftlab.rundir.names import FINAL

MAKE = "Train one with stage=rm, and give its run directory."
HEAD = "score.weight"  # how the names of ftlab.model.score's head end, in whole models and in adapters
_PHASE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_FOLDER = re.compile(rf"(?:[0-9]{{2}}|[1-9][0-9]{{2,}})-({_PHASE.pattern})")


def find_reward_model(name: str, phases: Path | None) -> Path | None:
    """Return the folder of a run's final model, a ``final/`` given itself, or that of an earlier phase of this run.

    :param phases: the run's own ``phases/``; None while there is none.
    """
    given = Path(name).expanduser()
    of_phase = [] if phases is None else [path for path in phases.glob("*") if _is_of(name, path.name)]
    # A folder that happens to have the name of a phase is never used in its place.
    for folder in [path / FINAL for path in sorted(of_phase)] or [given / FINAL, given]:
        if (folder / ADAPTER).is_file() or (folder / CONFIG).is_file():
            return folder
    return None


def _is_of(phase: str, folder: str) -> bool:
    """Whether a folder of ``phases/`` is the phase's: its number, of two digits or as many as it has, and its name."""
    found = _FOLDER.fullmatch(folder)
    return found is not None and found[1] == phase


def reward_model_problem(path: str, phases: Path | None = None) -> str | None:
    """Return why there is no reward model at ``path``; None if there is one, or if an earlier phase may still make it.

    :param phases: as in :func:`find_reward_model`.
    """
    folder = find_reward_model(path, phases)
    if folder is None:
        if phases is None and _PHASE.fullmatch(path) and not Path(path).exists():
            return None
        return f"it is neither a run directory with a final model nor an earlier phase of this run. {MAKE}"
    is_adapter = (folder / ADAPTER).is_file()
    weights = inspect_weights(folder, ADAPTER_FILES if is_adapter else MODEL_FILES)
    if weights.problems:
        return weights.problems[0]
    if any(name == HEAD or name.endswith(f".{HEAD}") for name in weights.shapes):
        return None
    return f"{folder} is no reward model: its {'adapter' if is_adapter else 'model'} has no score head. {MAKE}"
