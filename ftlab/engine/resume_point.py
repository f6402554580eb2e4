"""Where a phase goes on: its newest whole checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.engine.output import Output
from ftlab.preflight.directory import passed_over
from ftlab.rundir.checkpoints import checkpoints, newest_whole, others, set_aside, whole_of_step
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import is_there, kind_of, parse_line
from ftlab.rundir.extension import is_moved_end
from ftlab.rundir.files import write_atomic
from ftlab.rundir.names import CHECKPOINT_MANIFEST, METRICS, TRAINER_STATE
from ftlab.rundir.records import is_line, read_trainer_state


def newest_whole_checkpoint(folder: Path, stage: str, output: Output) -> Path | None:
    """The checkpoint from which a phase goes on; None where it begins.

    Torn ones are taken out of the way, or they would count among those that are kept.

    :param folder: of the phase. :param stage: its name.
    """
    _pass_over_others(folder, output)
    found, flaws = newest_whole(folder, stage)
    for checkpoint, reason in flaws.items():
        # The trainer's state is written last, and then the manifest: where neither is, a process ended while it wrote.
        if any(is_there(checkpoint / name) for name in (CHECKPOINT_MANIFEST, TRAINER_STATE)):
            what = f"moved to {set_aside(checkpoint)}"
        else:
            shutil.rmtree(checkpoint)
            what = "removed"
        output.say(f"[yellow]{escape(f'{checkpoint} {passed_over(reason)} and {what}')}[/yellow]")
    return found


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
    wanted = whole_of_step(folder, step, stage)
    there = checkpoints(folder)
    _pass_over_others(folder, output)
    for checkpoint in there[: there.index(wanted)]:  # newest first: what is left is a run up to there at any moment
        place = set_aside(checkpoint)
        output.say(escape(f"{checkpoint} is later than run.checkpoint={step}; moved to {place}"))
    return wanted


def cut_back(
    run_dir: RunDir, phase: str, checkpoint: Path | None, is_measured: bool, total: int, output: Output
) -> None:
    """Take out of ``metrics.jsonl`` what ``phase`` logged after ``checkpoint``, and put back what is lost of the rest.

    :param is_measured: whether the measures before training were finished; if not, a phase without a checkpoint logs
        them again.
    :param total: steps that the phase takes now. What was evaluated because it ended there earlier no longer stands.
    """
    there = _content(run_dir.metrics)
    standing = b"" if checkpoint is None else _standing_lines(checkpoint, total)
    if not there.startswith(standing):
        line = f"{run_dir.metrics} had lost or changed lines: put back from {checkpoint}, as they were logged"
        output.say(f"[yellow]{escape(line)}[/yellow]")
    if checkpoint is None:  # the phase begins anew, but for its measures
        lines = run_dir.read_metrics()
        kept = [entry for entry in lines if entry["phase"] != phase or (is_measured and entry["step"] == 0)]
    else:
        kept = list(_lines(standing, there, phase))
    if kept or there:
        write_atomic(run_dir.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))


def _lines(standing: bytes, there: bytes, phase: str) -> Iterator[dict[str, Any]]:
    """The lines that a checkpoint has, and those of other phases that it has not. What else was logged behind it is
    logged again, and garbage there is no loss."""
    restored = standing.splitlines(keepends=True)
    yield from map(json.loads, restored)
    known = set(restored)
    for line in there.splitlines(keepends=True):
        entry = parse_line(line)
        if entry is not None and is_line(entry) and entry["phase"] != phase and line not in known:
            yield entry


def _standing_lines(checkpoint: Path, total: int) -> bytes:
    """What had been logged by a checkpoint, without the evaluation that only the end of the run had asked for, where
    that end has moved. It comes last."""
    lines = _content(checkpoint / METRICS)
    state = read_trainer_state(checkpoint / TRAINER_STATE)
    if lines and is_moved_end(state, total) and state["global_step"] % state["eval_steps"]:
        *before, last = lines.splitlines(keepends=True)
        if "eval_loss" in json.loads(last):
            return b"".join(before)
    return lines


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def restore(trainer: Any, checkpoint: Path) -> None:
    """Put the state after the last step into a trainer. transformers' own loop would take one step more before it looks
    whether there is one left."""
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
