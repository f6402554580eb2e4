"""Whether what a run directory has in the places of its files and folders are files and folders that can be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import is_there, kind_of


def check_layout(run_dir: RunDir) -> None:
    """Look before anything is prepared or trained that could then not be written down.

    :raises RunDirError: something of another kind is in a place, or it cannot be written.
    """
    for path in (run_dir.manifest_json, run_dir.metrics, run_dir.log, run_dir.trackers_json):
        _check(path, "file")
    phases = run_dir.path / "phases"
    for path in (run_dir.path, run_dir.samples, run_dir.tensorboard, run_dir.ledger("").parent, phases):
        _check(path, "folder")
    for path in sorted(phases.iterdir()) if phases.is_dir() else ():
        if not path.name.startswith("."):
            _check(path, "folder")


def _check(path: Path, wanted: str) -> None:
    reason = next(_problems(path, wanted), None)
    if reason is not None:
        raise RunDirError(f"{path} {reason}. Move it away or put a copy back, and start the same command again.")


def _problems(path: Path, wanted: str) -> Iterator[str]:
    if not is_there(path):
        return
    if not path.exists():
        yield f"is a link that leads nowhere, where a run has a {wanted}"
        return
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) if wanted == "file" else stat.S_ISDIR(mode)):
        yield f"is {kind_of(mode)}, where a run has a {wanted}"
    elif not os.access(path, os.R_OK | os.W_OK | (os.X_OK if wanted == "folder" else 0)):
        yield "cannot be read and written"
