"""Jobs that are added to a sweep while it is at work: each begins where another one is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ftlab.config.quoting import quote
from ftlab.errors import NotReadyError
from ftlab.rundir.checkpoints import newest_whole, step_of
from ftlab.rundir.claim import hold
from ftlab.rundir.control import IN_FLIGHT, Command, ControlJournal, value_of
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import link_folder
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import Obeyed
from ftlab.rundir.sweep import Clone, SweepDir

_ADAPTER = "adapter_config.json"


def asked_clones(sweep: SweepDir, numbers: Collection[int]) -> tuple[list[tuple[Clone, Command]], bool]:
    """The clones that were asked for and are no jobs yet, and whose parents have put their checkpoint aside, or never
    will by themselves; and whether there are others, which have to wait for that.

    :param numbers: of the jobs that are at work, or wait for their turn.
    """
    made = {(clone.parent, clone.line) for clone in sweep.journal().clones.values()}
    found, are_waiting = [], False
    for number, job in sweep.records().items():
        journal = ControlJournal(sweep.run_dir(job))
        if not journal.size:
            continue
        for line, command in enumerate(journal.read()):
            if command is None or command.verb != "clone" or (number, line) in made:
                continue
            asked = Clone(
                parent=number, line=line, schedule=command.schedule, weights=command.weights, changes=command.changes
            )
            if command.weights == "scratch" or _is_ready(sweep.run_dir(job), line, number in numbers):
                found.append((asked, command))
            else:
                are_waiting = True
    return found, are_waiting


def _is_ready(parent: Path, line: int, is_at_work: bool) -> bool:
    has_obeyed = any(one["line"] == line for one in RunDir(parent).manifest().get("control", []))
    return has_obeyed or not is_at_work


def add(sweep: SweepDir, asked: Clone, command: Command) -> int:
    """Make a clone a job of its sweep. :return: its number.

    :raises NotReadyError: its parent has no checkpoint. :raises FtlabError: its weights cannot be made to fit.
    """
    journal = sweep.journal()
    number, overrides = journal.count or 0, command.overrides
    if asked.weights == "parent":
        parent = sweep.run_dir(sweep.records()[asked.parent])
        checkpoint = _put_aside(parent, asked.line)
        asked = asked.model_copy(update={"phase": _phase(RunDir(parent)).name, "step": step_of(checkpoint)})
        if asked.schedule == "restart":
            overrides = (*overrides, _weights_override(sweep, number, checkpoint, command.values))
    jobs = (*(journal.jobs or ()), overrides)
    sweep.write(journal.model_copy(update={"jobs": jobs, "clones": {**journal.clones, number: asked}}))
    if asked.weights == "parent" and asked.schedule == "restart":
        shutil.rmtree(checkpoint.parent)  # whose weights are where the clone finds them
    return number


def _put_aside(parent: Path, line: int) -> Path:
    """The checkpoint of a run that a clone begins with; the newest, where the run is not at work."""
    folder = ControlJournal(parent).clone_folder(line)
    there = [*folder.iterdir()] if folder.is_dir() else []
    if there:
        return there[0]
    run_dir = RunDir(parent)
    phase = _phase(run_dir)
    newest, _ = newest_whole(run_dir.phase(phase.folder), phase.config.stage.name)
    if newest is None:
        raise NotReadyError(f"{parent} has no checkpoint, and a clone would begin with it. weights=scratch needs none.")
    link_folder(newest, folder / newest.name)
    return folder / newest.name


def _phase(run_dir: RunDir) -> Phase:
    """The only one: curricula are not cloned."""
    return run_dir.plan().phases[0]


def _weights_override(sweep: SweepDir, number: int, checkpoint: Path, values: Mapping[str, float]) -> str:
    """Have the weights of a checkpoint where a run can begin with them, and say so in its words."""
    start = sweep.clone_start(number)
    if not (checkpoint / _ADAPTER).is_file():
        link_folder(checkpoint, start)
        return f"model.path={quote(str(start))}"
    from ftlab.model.adapter_rank import copy_with_rank  # which imports torch

    shutil.rmtree(start, ignore_errors=True)
    copy_with_rank(checkpoint, start, int(values["lora.r"]), values["lora.alpha"])
    return f"model.adapter={quote(str(start))}"


def begin(sweep: SweepDir, number: int, clone: Clone, run_dir: RunDir) -> None:
    """Have a clone's run directory begin where its parent was; one that has begun is left as it is.

    :param run_dir: as it was made for its config, its lock not held.
    """
    if clone.weights == "scratch" or "clone" in run_dir.manifest():
        return
    parent = RunDir(sweep.run_dir(sweep.records()[clone.parent]))
    place = os.path.relpath(parent.path, run_dir.path)
    values: dict[str, Any] = {"run": place, "phase": clone.phase, "step": clone.step}
    control = []
    if clone.schedule == "continue":
        ours, theirs = _phase(run_dir), _phase(parent)
        manifest = parent.manifest()
        lineage = manifest.get("clone") or {}
        values["learning_rate"] = lineage.get("learning_rate") or theirs.config.train.learning_rate
        control = _control(manifest, ours, clone)
        (checkpoint,) = ControlJournal(parent.path).clone_folder(clone.line).iterdir()
        target = run_dir.phase_files(ours.folder).checkpoint(step_of(checkpoint))
        link_folder(checkpoint, target)
        before = parent.samples_file(theirs.name, "before")
        if before.is_file():
            target = run_dir.samples_file(ours.name, "before")
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(before, target)
    with hold(run_dir):
        Manifest(run_dir).record(clone=values, control=[one.model_dump(exclude_defaults=True) for one in control])
    shutil.rmtree(ControlJournal(parent.path).clone_folder(clone.line), ignore_errors=True)  # it is the clone's now


def _control(manifest: Mapping[str, Any], phase: Phase, clone: Clone) -> list[Obeyed]:
    """What was set in the parent until then, and what the clone is to have otherwise from there on."""
    step = clone.step or 0
    done = [Obeyed.model_validate(one) for one in manifest.get("control", [])]
    kept = [one.model_copy(update={"line": -1}) for one in done if one.verb == "set" and one.step <= step]
    changed = {line.lstrip("+").partition("=")[0] for line in clone.changes}
    values = {key: float(value_of(phase.config, key)) for key in IN_FLIGHT if key in changed}
    return [*kept, *([Obeyed(line=-1, verb="set", phase=phase.name, step=step, values=values)] if values else [])]
