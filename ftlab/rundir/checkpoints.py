"""The checkpoints of a phase: which there are, and which count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir import seals
from ftlab.rundir.documents import is_folder
from ftlab.rundir.files import free_name, temporary_folder
from ftlab.rundir.names import CHECKPOINT_MANIFEST, FINAL, MERGED_BASE, SET_ASIDE, TRAINER_STATE, WEIGHT_FILES
from ftlab.rundir.records import read_trainer_state

_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
# In a phase's folder: a copy of weights that are elsewhere, to begin with; and the same while it is being written.
MERGED = (MERGED_BASE, temporary_folder(Path(MERGED_BASE)).name)


# What transformers and the stages put into every checkpoint; of a file that each process has one of, its pattern.
_PARTS = ("*.safetensors", "optimizer*", "scheduler.pt", "rng_state*.pth", "counters*.pt", TRAINER_STATE)
_INSTEAD = {"optimizer*": "global_step*"}  # of DeepSpeed, which has a folder for every process's part of it
_PARTS_OF_STAGE = {"ppo": ("ppo.pt",), "grpo": ("generation*.pt",)}


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders of a phase, newest step first, whole or not. A link is none: what it leads to is elsewhere."""
    inside = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in inside if _CHECKPOINT.fullmatch(path.name) and is_folder(path)]
    return sorted(found, key=step_of, reverse=True)


def others(folder: Path) -> tuple[list[Path], list[Path]]:
    """What only looks like checkpoints: what is no folder, where one may be written; and folders of other names."""
    named = sorted(path for path in folder.glob("checkpoint-*")) if folder.is_dir() else []
    taken = [path for path in named if _CHECKPOINT.fullmatch(path.name)]
    return (
        [path for path in taken if not is_folder(path)],
        [path for path in named if path not in taken and path.is_dir()],
    )


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint folder is named after."""
    return int(checkpoint.name.rpartition("-")[2])


def set_aside(path: Path) -> Path:
    """Move a folder of weights to where no start looks for it: ``set_aside/`` beside it. Returns where it is then."""
    folder = path.parent / SET_ASIDE
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise RunDirError(f"{folder} is no folder, and {path.name} would be moved into it. Move it away.") from None
    free = free_name(folder / path.name)
    path.rename(free)
    return free


def weights(folder: Path) -> Iterator[Path]:
    """What holds weights below a folder: checkpoints, whole or torn, final and merged models, and files of weights."""
    for path in folder.rglob("*"):
        is_model = path.name in (FINAL, *MERGED) or _CHECKPOINT.fullmatch(path.name) is not None
        if path.suffix in WEIGHT_FILES or (is_model and path.is_dir()):
            yield path


def seal(checkpoint: Path) -> None:
    """Write the manifest of hashes that makes a checkpoint count."""
    seals.seal_folder(checkpoint, CHECKPOINT_MANIFEST)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there with the hash of its manifest."""
    return seals.broken_file(checkpoint, CHECKPOINT_MANIFEST) is None


def flaw(checkpoint: Path, stage: str, reads_weights: bool = True) -> str | None:
    """Why a run cannot go on from a checkpoint; None where it can.

    :param stage: whose parts it must have: with fewer, a run would go on from a state that it never had.
    :param reads_weights: whether every file is compared with its hash; else it is enough that they are there.
    """
    files = seals.sealed_files(checkpoint, CHECKPOINT_MANIFEST) or {}
    if not (is_whole(checkpoint) if reads_weights else files and all((checkpoint / file).is_file() for file in files)):
        return "is torn (a file is missing or changed)"
    for part in (*_PARTS, *_PARTS_OF_STAGE.get(stage, ())):
        patterns = filter(None, (part, _INSTEAD.get(part)))
        if not any(fnmatch(Path(file).parts[0], pattern) for pattern in patterns for file in files):
            return f"is not whole (its {CHECKPOINT_MANIFEST} names no {part})"
    try:
        state = read_trainer_state(checkpoint / TRAINER_STATE)
    except RunDirError:
        return f"is not whole (its {TRAINER_STATE} is not what a run writes)"
    if state["global_step"] != step_of(checkpoint):
        return f"is of step {state['global_step']} (its {TRAINER_STATE} says so)"
    return None


def newest_whole(folder: Path, stage: str, reads_weights: bool = True) -> tuple[Path | None, dict[Path, str]]:
    """The checkpoint from which a phase goes on, or None where it begins; and the newer ones, each with its flaw.

    :param folder: of the phase. :param stage, reads_weights: as of :func:`flaw`.
    """
    flaws: dict[Path, str] = {}
    for checkpoint in checkpoints(folder):
        reason = flaw(checkpoint, stage, reads_weights)
        if reason is None:
            return checkpoint, flaws
        flaws[checkpoint] = reason
    return None, flaws


def whole_of_step(folder: Path, step: int, stage: str, reads_weights: bool = True) -> Path:
    """The checkpoint that ``run.checkpoint`` names. :param folder: of the phase.

    :param stage, reads_weights: as of :func:`flaw`. :raises RunDirError: there is none, or it is torn.
    """
    there = checkpoints(folder)
    wanted = next((checkpoint for checkpoint in there if step_of(checkpoint) == step), None)
    reason = None if wanted is None else flaw(wanted, stage, reads_weights)
    if wanted is not None and reason is None:
        return wanted
    torn = f" ({wanted} {reason})" if wanted else ""
    whole = [str(step_of(checkpoint)) for checkpoint in there if flaw(checkpoint, stage, reads_weights) is None]
    raise RunDirError(
        f"run.checkpoint={step}: {folder} has no whole checkpoint of that step{torn}. "
        f"It has: {', '.join(whole) or 'none'}."
    )


def has_state(checkpoint: Path) -> bool:
    """Whether the trainer's state is what the checkpoint was sealed with; nothing else of it is read."""
    return seals.is_file_whole(checkpoint, CHECKPOINT_MANIFEST, TRAINER_STATE)
