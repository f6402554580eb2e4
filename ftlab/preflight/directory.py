"""What a start does with the run that is in its directory: goes on with it, and where; or has nothing to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftlab.data.sources import resolve
from ftlab.errors import ConfigError, DataError, RunDirError
from ftlab.rundir.checkpoints import newest_whole, whole_of_step
from ftlab.rundir.claim import look
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import Phase, Plan
from ftlab.rundir.sweep import SweepDir


@dataclass(frozen=True)
class Continuation:
    """What the next start does in a directory.

    :param does: ``finished`` where nothing is left, ``nothing`` where only phases are left that are not chosen.
    :param lines: that are said of it. :param phase: with which it goes on, or begins.
    :param checkpoint: from which that goes on; None where it begins.
    :param kept: phases whose data and measures stay.
    """

    run_dir: RunDir
    does: Literal["finished", "nothing", "continue", "begin"]
    lines: tuple[str, ...]
    kept: frozenset[str]
    phase: str | None = None
    checkpoint: Path | None = None


def continuation(plan: Plan, step: int | None = None) -> Continuation | None:
    """How a run would go on in its directory; None where it begins in a new one. Looks only, and compares no weights
    with their hashes.

    :param step: of ``run.checkpoint``. :raises RunDirError: the start is refused, in its own words.
    """
    found = look(plan)
    if found is None:
        return None
    run_dir, changes = found
    left = plan.left(run_dir.manifest().get("phases", {}).keys() - {changes.longer})
    kept = frozenset(phase.name for phase in plan.phases) - {phase.name for phase in changes.anew}
    if not left:
        return Continuation(run_dir, "finished", (finished_line(run_dir),), kept)
    starts = plan.chosen(left)
    if not starts:
        return Continuation(run_dir, "nothing", (left_line(run_dir, left),), kept)
    for phase in (one for one in starts if one.name in kept):
        with suppress(ConfigError, DataError):  # what is not there is told by check
            check_same_data(run_dir, phase.name, resolve.resolve(phase.config.data, phase.config.stage.name))
    first, lines = starts[0], list[str]()
    folder, stage = run_dir.phase_files(first.folder).folder, first.config.stage.name
    checkpoint = None
    if step is not None:
        checkpoint = whole_of_step(folder, step, stage, reads_weights=False)
    elif first.name in kept:
        checkpoint, flaws = newest_whole(folder, stage, reads_weights=False)
        lines += [f"{path} {passed_over(reason)}" for path, reason in flaws.items()]
    lines.append(f"phase {first.name} begins" if checkpoint is None else continuing_line(checkpoint))
    does: Literal["continue", "begin"] = "begin" if checkpoint is None else "continue"
    return Continuation(run_dir, does, tuple(lines), kept, first.name, checkpoint)


def check_same_data(run_dir: RunDir, phase: str, sources: Sequence[resolve.Source]) -> None:
    """A run that goes on must read what it began with, or its weights belong to no data set at all.

    :raises RunDirError: it would not.
    """
    for change in resolve.file_changes(sources, run_dir.data_files(phase)):
        raise RunDirError(
            f"{change} since {run_dir.path} began. Put the data back as it was to continue, or start another run: "
            "run.if_exists=new, or another run.name."
        )


# --- words -----------------------------------------------------------------------------------------------------------


def finished_line(run_dir: RunDir) -> str:
    return f"{run_dir.path} is finished already. run.if_exists=new starts another run beside it."


def left_line(run_dir: RunDir, left: Sequence[Phase]) -> str:
    return f"Phases left: {', '.join(phase.name for phase in left)}. Continue with: {resume_command(run_dir)}"


def continuing_line(checkpoint: Path) -> str:
    return f"continuing from {checkpoint}"


def passed_over(reason: str) -> str:
    return f"{reason}; passed over"


def resume_command(directory: RunDir | SweepDir) -> str:
    return f"ftlab resume {shlex.quote(str(directory.path))}"


def how_to_go_on(sweep: SweepDir) -> str:
    return f"Go on with the same command, or with: {resume_command(sweep)}"
