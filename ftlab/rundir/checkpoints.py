"""The checkpoints of a phase: which there are, and which count."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir.documents import read_json
from ftlab.rundir.files import sha256, temporary_folder, write_atomic
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
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKPOINT_MANIFEST)
    hashes = {str(path.relative_to(checkpoint)): sha256(path) for path in files}
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    write_atomic(checkpoint / CHECKPOINT_MANIFEST, json.dumps({"sha256": hashes}, indent=2) + "\n")


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there with the hash of its manifest."""
    manifest = checkpoint / CHECKPOINT_MANIFEST
    if not manifest.is_file():
        return False
    try:
        hashes = read_json(manifest, "")["sha256"].items()
    except (RunDirError, KeyError, AttributeError):  # the manifest itself was damaged
        return False
    return all((checkpoint / name).is_file() and sha256(checkpoint / name) == value for name, value in hashes)
