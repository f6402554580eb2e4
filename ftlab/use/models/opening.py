"""Runs as a command names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.names import LATEST, OUTPUTS
from ftlab.rundir.summary import find_runs, summarize


def run_folder(name: str) -> Path:
    """:raises RunDirError: there is no run."""
    return RunDir.open(Path(name).expanduser()).path


def latest_run() -> Path:
    """The run that was started last here: where ``outputs/latest`` leads, else the newest below ``outputs/``.

    :raises RunDirError: there is none.
    """
    link = Path(OUTPUTS) / LATEST
    if RunDir(link).run_yaml.is_file():
        return RunDir.open(link).path
    runs = [summarize(path) for path in find_runs(Path(OUTPUTS))]
    if not runs:
        raise RunDirError(
            f"No run is named, and there is none in {OUTPUTS}/ of this folder. Name a run directory, or train one: "
            "ftlab starts a run, ftlab ls FOLDER lists those elsewhere."
        )
    return max(runs, key=lambda one: one.began).path


def labels(folders: Sequence[Path]) -> list[str]:
    """A short name for each run: its folder's, with as many folders above as it takes to tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    found = []
    for own in parts:
        others = [other for other in parts if other != own]
        lengths = range(1, len(own) + 1)
        length = next(n for n in lengths if n == len(own) or all(other[-n:] != own[-n:] for other in others))
        found.append("/".join(own[-length:]))
    return found
