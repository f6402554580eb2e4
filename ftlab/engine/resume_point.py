"""Where a phase goes on: its newest whole checkpoint, and what had been logged by then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.engine.output import Output
from ftlab.errors import RunDirError
from ftlab.rundir.checkpoints import checkpoints, is_whole, step_of
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.names import EXACT_MATCH, TRAINER_STATE

_KINDS = ("loss", "eval_loss", EXACT_MATCH)  # each line of metrics.jsonl has one of them


def newest_whole_checkpoint(folder: Path, wanted: int | None, output: Output) -> Path | None:
    """The checkpoint from which a phase goes on; None where it begins.

    :param folder: of the phase. :param wanted: ``run.checkpoint``, the step of the checkpoint that is to be taken.
    :raises RunDirError: there is none of that step.
    """
    for checkpoint in checkpoints(folder):
        if wanted is not None and step_of(checkpoint) != wanted:
            continue
        if is_whole(checkpoint):
            output.say(f"continuing from {escape(str(checkpoint))}")
            return checkpoint
        line = f"{escape(str(checkpoint))} is torn (a file is missing or changed); passed over and removed"
        output.say(f"[yellow]{line}[/yellow]")
        shutil.rmtree(checkpoint)  # or it would count among those that are kept
    if wanted is not None:
        whole = [str(step_of(checkpoint)) for checkpoint in checkpoints(folder) if is_whole(checkpoint)]
        raise RunDirError(
            f"run.checkpoint={wanted}: {folder} has no whole checkpoint of that step. "
            f"It has: {', '.join(whole) or 'none'}."
        )
    return None


def cut_back(run_dir: RunDir, phase: str, checkpoint: Path | None, is_measured: bool) -> None:
    """Take out of ``metrics.jsonl`` what ``phase`` logged after ``checkpoint``, and a torn last line.

    :param is_measured: whether the measures before training were finished; if not, they will be logged again.
    """
    if not run_dir.metrics.is_file():
        return
    step, logged = 0, set[str]()
    if checkpoint is not None:
        state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
        step = state["global_step"]
        logged = {key for entry in state["log_history"] if entry["step"] == step for key in entry}

    def stands(entry: dict[str, Any]) -> bool:
        if entry["step"] == 0:
            return is_measured
        # What belongs to a step is logged before its checkpoint; what is measured after training, behind the last one.
        at_checkpoint = any(key in entry and key in logged for key in _KINDS)
        return entry["step"] < step or (entry["step"] == step and at_checkpoint)

    kept = [json.dumps(entry) + "\n" for entry in run_dir.logged() if entry["phase"] != phase or stands(entry)]
    write_atomic(run_dir.metrics, "".join(kept))


def restore(trainer: Any, checkpoint: Path) -> None:
    """Put the state after the last step into a trainer. transformers' own loop would take one step more before it looks
    whether there is one left."""
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
