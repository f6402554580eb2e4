"""The folder that the relative paths of a run start from, wherever a later command is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from ftlab.rundir.directory import RunDir
from ftlab.rundir.names import MULTIRUN, OUTPUTS
from ftlab.rundir.sweep import SweepDir


def start_folder(run_dir: RunDir) -> Path | None:
    """Where a run was started; where its folder has moved together with the run, there. None where nobody knows.

    :raises RunDirError: its manifest or its run.yaml is damaged.
    """
    recorded = run_dir.manifest().get("folder")
    if recorded is None:
        return None
    chosen = run_dir.plan().phases[0].config.run.dir
    return _folder_of(run_dir.run_yaml, recorded, chosen)


def sweep_start_folder(sweep: SweepDir) -> Path | None:
    """The same of a sweep. :raises RunDirError: its journal is damaged."""
    journal = sweep.journal()
    given = dict(line.partition("=")[::2] for line in journal.overrides)
    chosen = given["hydra.sweep.dir"].strip("'\"") if "hydra.sweep.dir" in given else None
    if chosen is None and "sweep.name" in given:
        chosen = str(Path(MULTIRUN) / given["sweep.name"])
    return _folder_of(sweep.journal_file, journal.folder, chosen)


def _folder_of(file: Path, recorded: str, chosen: str | None) -> Path | None:
    """:param file: which every such directory has. :param recorded: the folder that it was started in, by its own word.
    :param chosen: the directory as the command line named it; None where it got a name in ``outputs``.
    """
    started, here = Path(recorded), file.parent.absolute()
    inside = Path(OUTPUTS) / here.name if chosen is None else Path(chosen)
    if not inside.is_absolute() and not (started / inside / file.name).exists():
        count = len(inside.parts)
        if here.parts[-count:] == inside.parts:
            return Path(*here.parts[:-count]).resolve()
    return started if started.is_dir() else None


def started_in(folder: Path, recorded: str, what: str = "run") -> str:
    """What to tell of a folder that is another than the current one. :param recorded: as :func:`_folder_of` has it."""
    moved = "" if str(folder) == recorded else f" (it has moved from {recorded})"
    return f"Relative paths start from {folder}, in which the {what} was started{moved}."


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
    remark = started_in(folder, run_dir.manifest()["folder"])
    run_dir = RunDir(run_dir.path.absolute())
    with chdir(folder):
        yield run_dir, remark


@contextmanager
def started_from(folder: Path) -> Iterator[Path]:
    """Be in the folder that the paths of the run in ``folder`` start from; the run as it is named from there.

    :raises RunDirError: it is no run, or its manifest or its run.yaml is damaged.
    """
    with in_start_folder(RunDir.open(folder)) as (run_dir, _):
        yield run_dir.path
