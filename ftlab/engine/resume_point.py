"""Where a phase goes on: its newest whole checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.engine.output import Output
from ftlab.errors import RunDirError
from ftlab.rundir.checkpoints import checkpoints, flaw, others, set_aside, step_of
from ftlab.rundir.documents import is_there, kind_of
from ftlab.rundir.names import CHECKPOINT_MANIFEST, TRAINER_STATE


def newest_whole_checkpoint(folder: Path, stage: str, output: Output) -> Path | None:
    """The checkpoint from which a phase goes on; None where it begins.

    Torn ones are taken out of the way, or they would count among those that are kept.

    :param folder: of the phase. :param stage: its name.
    """
    _pass_over_others(folder, output)
    for checkpoint in checkpoints(folder):
        reason = flaw(checkpoint, stage)
        if reason is None:
            return checkpoint
        # The trainer's state is written last, and then the manifest: where neither is, a process ended while it wrote.
        if any(is_there(checkpoint / name) for name in (CHECKPOINT_MANIFEST, TRAINER_STATE)):
            what = f"moved to {set_aside(checkpoint)}"
        else:
            shutil.rmtree(checkpoint)
            what = "removed"
        output.say(f"[yellow]{escape(f'{checkpoint} {reason}; passed over and {what}')}[/yellow]")
    return None


def _pass_over_others(folder: Path, output: Output) -> None:
    """Say what is taken for no checkpoint. What stands where one may be written is moved; a link's target stays."""
    in_the_way, named = others(folder)
    for path in in_the_way:
        line = f"{path} is {kind_of(path.lstat().st_mode)}, no checkpoint; passed over and moved to {set_aside(path)}"
        output.say(f"[yellow]{escape(line)}[/yellow]")
    for path in named:
        output.say(f"[yellow]{escape(f'{path} has no name of a checkpoint; passed over')}[/yellow]")


def chosen_checkpoint(folder: Path, step: int, stage: str, output: Output) -> Path:
    """The checkpoint of ``step``, from which the phase goes on. Later ones no longer belong to the run: they are set
    aside.

    :param folder: of the phase. :param stage: its name.
    :raises RunDirError: there is none, or it is torn; nothing has changed then.
    """
    there = checkpoints(folder)
    wanted = next((checkpoint for checkpoint in there if step_of(checkpoint) == step), None)
    reason = None if wanted is None else flaw(wanted, stage)
    if wanted is None or reason is not None:
        torn = f" ({wanted} {reason})" if wanted else ""
        whole = [str(step_of(checkpoint)) for checkpoint in there if flaw(checkpoint, stage) is None]
        raise RunDirError(
            f"run.checkpoint={step}: {folder} has no whole checkpoint of that step{torn}. "
            f"It has: {', '.join(whole) or 'none'}."
        )
    _pass_over_others(folder, output)
    for checkpoint in there[: there.index(wanted)]:  # newest first: what is left is a run up to there at any moment
        place = set_aside(checkpoint)
        output.say(escape(f"{checkpoint} is later than run.checkpoint={step}; moved to {place}"))
    return wanted


def restore(trainer: Any, checkpoint: Path) -> None:
    """Put the state after the last step into a trainer. transformers' own loop would take one step more before it looks
    whether there is one left."""
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
