"""Where a reward model's files are, and whether they are those of one. Nothing here imports torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

MAKE = "Train one with stage=rm, and give its run directory."
HEAD = "score.weight"  # how the names of ftlab.model.score's head end, in whole models and in adapters
_PHASE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def find(named: str, phases: Path | None) -> Path | None:
    """The folder of a run directory's final model, of a ``final/`` itself, or of an earlier phase of this run.

    :param phases: the run's own ``phases/``; None while there is none.
    """
    earlier = sorted(phases.glob(f"*-{named}/final")) if phases is not None and _PHASE.fullmatch(named) else []
    given = Path(named).expanduser()
    for folder in (*earlier, given / "final", given):
        if (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
            return folder
    return None


def wrong(named: str, phases: Path | None = None) -> str | None:
    """Why there is no reward model at ``named``; None if there is one, or if it may be a phase that is still to come.

    :param phases: as in :func:`find`.
    """
    folder = find(named, phases)
    if folder is None:
        if phases is None and _PHASE.fullmatch(named) and not Path(named).exists():
            return None
        return f"it is neither a run directory with a final model nor an earlier phase of this run. {MAKE}"
    try:
        if any(name == HEAD or name.endswith(f".{HEAD}") for name in _tensors(folder)):
            return None
    except (OSError, ValueError) as error:
        return f"{folder} cannot be read: {error}"
    kind = "adapter" if (folder / "adapter_config.json").is_file() else "model"
    return f"{folder} is no reward model: its {kind} has no score head. {MAKE}"


def _tensors(folder: Path) -> set[str]:
    """The names of all tensors of a model or an adapter, from the headers of its safetensors files."""
    return {name for file in sorted(folder.glob("*.safetensors")) for name in _header(file)} - {"__metadata__"}


def _header(file: Path) -> dict[str, object]:
    """:raises ValueError: the file is torn or no safetensors file."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size > file.stat().st_size:
            raise ValueError(f"{file.name} is torn")
        return json.loads(opened.read(size))
