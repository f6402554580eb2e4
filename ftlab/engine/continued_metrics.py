"""``metrics.jsonl`` of a run that goes on: cut back to its checkpoint, and with what was lost of it put back.

Every checkpoint has the trainer's log up to its step, and ``samples/`` what was measured before and after a phase.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.engine.session import Session
from ftlab.errors import RunDirError
from ftlab.rundir.checkpoints import checkpoints, has_state
from ftlab.rundir.documents import is_there, parse_line, text_lines
from ftlab.rundir.files import set_damaged_aside, write_atomic
from ftlab.rundir.names import ANSWERED, EXACT_MATCH, TRAINER_STATE
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import is_line, read_samples, read_trainer_state
from ftlab.rundir.summary import GOLDEN, VALIDATION

Line = dict[str, Any]
_KINDS = ("loss", "eval_loss", EXACT_MATCH)  # each line of metrics.jsonl has one of them


def cut_back(session: Session, phase: Phase, checkpoint: Path | None, measured: Mapping[str, Any] | None) -> None:
    """Take out of ``metrics.jsonl`` what ``phase`` logged after ``checkpoint``, and a torn last line; put in what this
    phase and those that are done have logged and is no longer there.

    :param measured: what was measured before training; None: it will be measured, and logged, again.
    """
    there, unreadable = _lines(session.run_dir.metrics)
    step, history = 0, list[Line]()
    if checkpoint is not None:
        state = read_trainer_state(checkpoint / TRAINER_STATE)
        step, history = state["global_step"], state["log_history"]
    logged = {key for entry in history if entry["step"] == step for key in entry}

    def stands(entry: Line) -> bool:
        if entry["step"] == 0:
            return measured is not None
        # What belongs to a step is logged before its checkpoint; what is measured after training, behind the last one.
        at_checkpoint = any(key in entry and key in logged for key in _KINDS)
        return entry["step"] < step or (entry["step"] == step and at_checkpoint)

    kept = [entry for entry in there if entry["phase"] != phase.name or stands(entry)]
    lost = [
        line for line in _expected(session, phase, checkpoint, measured) if _place(line) not in {*map(_place, kept)}
    ]
    if unreadable:
        damaged = set_damaged_aside(session.run_dir.metrics)
        line = f"{session.run_dir.metrics} had {unreadable} that cannot be read; it was moved to {damaged}"
        session.output.say(f"[yellow]{escape(line)}[/yellow]")
    if lost:
        line = f"{session.run_dir.metrics} lacked {_count(len(lost))}; put back from the log of the checkpoints"
        session.output.say(f"[yellow]{escape(line)}[/yellow]")
        order = {one.name: place for place, one in enumerate(session.plan.phases)}
        kept = sorted([*kept, *lost], key=lambda entry: (order.get(entry["phase"], len(order)), entry["step"]))
    if kept or is_there(session.run_dir.metrics):
        write_atomic(session.run_dir.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))


def _lines(path: Path) -> tuple[list[Line], str]:
    """The lines that can be read, and how many others there are, in words; a torn last one is none."""
    lines, others = list[Line](), 0
    for _, text in text_lines(path) if is_there(path) else ():
        values = parse_line(text)
        if values is not None and is_line(values):
            lines.append(values)
        elif text.endswith("\n"):
            others += 1
    return lines, _count(others) if others else ""


def _count(lines: int) -> str:
    return f"{lines} line{'s' * (lines > 1)}"


def _place(line: Line) -> tuple[str, int, str]:
    return line["phase"], line["step"], next((kind for kind in _KINDS if kind in line), "")


def _expected(
    session: Session, phase: Phase, checkpoint: Path | None, measured: Mapping[str, Any] | None
) -> Iterator[Line]:
    """What the phases have logged that are done, and ``phase`` up to its checkpoint."""
    run_dir, steps, tokens = session.run_dir, 0, 0
    for one in session.plan.phases:
        done = session.manifest.phases.get(one.name)
        if one.name == phase.name:
            yield from _of_phase(one.name, (steps, tokens), measured, checkpoint, None, None)
        elif done is not None:
            files = run_dir.phase_files(one.folder)
            last = next((path for path in checkpoints(files.folder) if has_state(path)), None)
            before, after = (_samples(run_dir.samples_file(one.name, when)) for when in ("before", "after"))
            yield from _of_phase(one.name, (steps, tokens), before, last, after, done["steps"])
        if done is not None:
            steps, tokens = steps + done["steps"], tokens + done["tokens"]


def _samples(path: Path) -> dict[str, Any] | None:
    """None also where it is damaged: of a phase that is done, nothing is measured again."""
    try:
        return read_samples(path)
    except RunDirError:
        return None


def _of_phase(
    phase: str, earlier: tuple[int, int], before: Mapping[str, Any] | None, checkpoint: Path | None,
    after: Mapping[str, Any] | None, end: int | None,
) -> Iterator[Line]:  # fmt: skip
    """:param earlier: steps and tokens of the phases before it. :param end: its last step, where it is done."""
    history: Sequence[Line] = ()
    time = 0.0  # when a line was logged is known no more: it was before its checkpoint was written
    if checkpoint is not None:
        state = checkpoint / TRAINER_STATE
        history, time = read_trainer_state(state)["log_history"], state.stat().st_mtime
    found = [*_measures(before, 0, 0), *((entry["step"], _values(entry)) for entry in history)]
    if end is not None:
        has = {(step, kind) for step, values in found for kind in _KINDS if kind in values}
        epoch = next((entry["epoch"] for entry in reversed(history) if "epoch" in entry), None)
        measured = _measures(after, end, epoch)
        found += [(step, values) for step, values in measured if not any((step, kind) in has for kind in values)]
    for step, values in found:
        if not any(kind in values for kind in _KINDS):
            continue  # averages of a whole start
        line = {"phase": phase, "step": step, "global_step": earlier[0] + step, **values}
        if "tokens" in values:
            line["total_tokens"] = earlier[1] + values["tokens"]
        yield {**line, "time": round(time, 3)}


def _values(entry: Line) -> Line:
    return {key: value for key, value in entry.items() if key not in ("step", ANSWERED)}


def _measures(measured: Mapping[str, Any] | None, step: int, epoch: Any) -> Iterator[tuple[int, Line]]:
    """What was logged of what ``samples/`` has."""
    values = {} if measured is None else measured["values"]
    validation = {
        f"eval_{name.removeprefix(VALIDATION)}": value for name, value in values.items() if name.startswith(VALIDATION)
    }
    if validation:
        yield step, {"epoch": epoch, **validation}
    if GOLDEN in values:
        yield step, {EXACT_MATCH: values[GOLDEN]}
