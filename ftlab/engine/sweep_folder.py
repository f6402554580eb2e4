"""In which folder a sweep runs: a new one, or that of the sweep which is gone on with, perhaps with more jobs."""

from __future__ import annotations

from pathlib import Path

from ftlab.config.sweeps import Sweep
from ftlab.errors import RunDirError
from ftlab.rundir.lock import is_held
from ftlab.rundir.sweep import Journal, SweepDir, is_same_sweep, is_sweep, unfinished_sweeps, with_new_jobs


def find(asked: Sweep) -> tuple[SweepDir, Journal | None]:
    """The folder of a sweep, and what its journal is to be where it goes on there; None where it begins.

    :raises RunDirError: the folder that was asked for holds another sweep, or one is not to be there.
    """
    if asked.named is not None and is_sweep(asked.path) and asked.if_exists != "new":
        sweep = SweepDir(asked.path)
        if asked.if_exists == "refuse":
            raise RunDirError(
                f"{asked.path} exists. run.if_exists=resume continues it, run.if_exists=new makes another."
            )
        return sweep, _joined(sweep, asked)
    if asked.named is not None and not is_sweep(asked.path):
        return SweepDir(asked.path), None
    if asked.if_exists != "new" and asked.journal.count is not None:
        for sweep in unfinished_sweeps(asked.path.parent, asked.journal):
            if not is_held(sweep.path):
                return sweep, _joined(sweep, asked)
    return SweepDir(_free(asked.path)), None


def _free(path: Path) -> Path:
    """A folder that is not there: another sweep may have begun in the same second, or have had the name."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _joined(sweep: SweepDir, asked: Sweep) -> Journal:
    """What there is with what is newly asked for. Of ``hydra.*`` and ``sweep.*`` the newer command counts.

    :raises RunDirError: it is another sweep.
    """
    there, here = sweep.journal(), asked.journal
    newer = there.model_copy(update={"overrides": here.overrides, "objectives": here.objectives})
    if there.search is not None and here.search is not None and is_same_sweep(there, here):
        trials = here.search.trials
        return newer.model_copy(update={"search": there.search.model_copy(update={"trials": trials})})
    if there.jobs is not None and here.jobs is not None:
        jobs = with_new_jobs(there, here.jobs)
        if jobs is not None:
            return newer.model_copy(update={"jobs": jobs})
    elsewhere = {"sweep.name": "another sweep.name", "hydra.sweep.dir": "another folder with hydra.sweep.dir=FOLDER"}
    raise RunDirError(
        f"{sweep.path} holds another sweep: {_what(there)} there, {_what(here)} here{_difference(there, here)}. Give "
        f"{elsewhere[asked.named or 'sweep.name']}, or leave it out."
    )


def _what(journal: Journal) -> str:
    if journal.search is not None:
        return "jobs that its sweeper chooses"
    return f"{len(journal.asked or ())} jobs" if journal.jobs else "jobs that a sweeper chooses"


def _difference(there: Journal, here: Journal) -> str:
    """What to tell of how they differ; empty where that is told by what they are."""
    if there.search is not None and here.search is not None:
        ours, theirs = there.search.space, here.search.space
        sides = [[line for line in a if line not in b] for a, b in ((ours, theirs), (theirs, ours))]
        if not any(sides):
            sides = [[f"{one.direction} {one.measure}" for one in side.objectives] for side in (there, here)]
        return "; " + ", ".join(
            f"{' '.join(side) or 'nothing'} {where}" for side, where in zip(sides, ("there", "here"))
        )
    asked = [sorted(job) for job in here.jobs or ()]
    missing = next((job for job in there.asked or () if sorted(job) not in asked), None)
    return f"; here is none with {' '.join(missing)}" if missing is not None and asked else ""
