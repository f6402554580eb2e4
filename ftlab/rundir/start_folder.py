"""The folder that the relative paths of a run start from, wherever a later command is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from ftlab.rundir.directory import RunDir
from ftlab.rundir.names import OUTPUTS


def start_folder(run_dir: RunDir) -> Path | None:
    """Where a run was started; where its folder has moved together with the run, there. None where nobody knows.

    :raises RunDirError: its manifest or its run.yaml is damaged.
    """
    recorded = run_dir.manifest().get("folder")
    if recorded is None:
        return None
    started, here = Path(recorded), run_dir.path.absolute()
    keys = run_dir.plan().phases[0].config.run
    inside = Path(OUTPUTS) / here.name if keys.dir is None else Path(keys.dir)
    if not inside.is_absolute() and not (started / inside / run_dir.run_yaml.name).exists():
        count = len(inside.parts)
        if here.parts[-count:] == inside.parts:
            return Path(*here.parts[:-count])
    return started if started.is_dir() else None


@contextmanager
def in_start_folder(run_dir: RunDir) -> Iterator[tuple[RunDir, str | None]]:
    """Be in the folder that the paths of a run start from.

    :return: the run as it is named from there, and what to tell of a folder that is another than the current one.
    :raises RunDirError: its manifest or its run.yaml is damaged.
    """
    folder = start_folder(run_dir)
    if folder is None or folder.resolve() == Path.cwd():
        yield run_dir, None
        return
    recorded = run_dir.manifest()["folder"]
    moved = "" if str(folder) == recorded else f" (it has moved from {recorded})"
    run_dir = RunDir(run_dir.path.absolute())
    with chdir(folder):
        yield run_dir, f"Relative paths start from {folder}, in which the run was started{moved}."
