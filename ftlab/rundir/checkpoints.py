"""The checkpoints of a phase: which there are, and which count."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ftlab.rundir.files import sha256, write_atomic
from ftlab.rundir.names import CHECKPOINT_MANIFEST


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders of a phase, newest step first, whole or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: -step_of(path))


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


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
        hashes = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError):  # the manifest itself was damaged: no JSON, no text, another key
        return False
    return all((checkpoint / name).is_file() and sha256(checkpoint / name) == value for name, value in hashes.items())
