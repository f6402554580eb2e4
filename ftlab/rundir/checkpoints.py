"""The checkpoints of a phase: which there are, and which count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from ftlab.rundir import seals
from ftlab.rundir.files import temporary_folder
from ftlab.rundir.names import CHECKPOINT_MANIFEST, FINAL, MERGED_BASE, SET_ASIDE, WEIGHT_FILES

_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
# In a phase's folder: a copy of weights that are elsewhere, to begin with; and the same while it is being written.
MERGED = (MERGED_BASE, temporary_folder(Path(MERGED_BASE)).name)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders of a phase, newest step first, whole or not."""
    inside = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in inside if _CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint folder is named after."""
    return int(checkpoint.name.rpartition("-")[2])


def set_aside(path: Path) -> Path:
    """Move a folder of weights to where no start looks for it: ``set_aside/`` beside it. Returns where it is then."""
    folder = path.parent / SET_ASIDE
    folder.mkdir(exist_ok=True)
    names = itertools.chain([path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
    free = next(folder / name for name in names if not (folder / name).exists())
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
