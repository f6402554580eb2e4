"""More steps for a run that has come to its end, or is on its way: where they leave the steps before as they were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import RunDirError
from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.names import OF_GOLDEN, TRAINER_STATE
from ftlab.rundir.plan import Phase, Plan
from ftlab.rundir.records import read_trainer_state
from ftlab.schema import Train

# What says how long a run is, and how long its warm-up.
LENGTH = ("train.max_steps", "train.epochs", "train.warmup_ratio", "train.warmup_steps")
# Learning rates that do not depend on the number of steps that the run will take.
OPEN_ENDED = ("constant", "constant_with_warmup", "inverse_sqrt")


@dataclass(frozen=True)
class _Progress:
    """Of a phase, by its newest whole checkpoint. :param total: the steps that it was to take then."""

    step: int
    epoch: float
    total: int


def check_longer(run_dir: RunDir, here: Plan, plan: Plan, name: str) -> None:
    """Look whether a phase can take more steps than its run.yaml has it.

    :param here: the plan that is there. :param plan: the one that is asked for.
    :raises RunDirError: a run of so many steps would have had other weights on the way; says what can be done instead.
    """
    ours, theirs = (next(phase for phase in one.phases if phase.name == name) for one in (here, plan))
    done = run_dir.manifest().get("phases", {})
    later = [phase.name for phase in here.phases[here.phases.index(ours) + 1 :] if phase.name in done]
    if later:
        raise _refusal(run_dir, ours, f"phase {later[0]} has begun with its weights")
    progress = _progress(run_dir, ours)
    if progress is None:
        raise _refusal(run_dir, ours, "no checkpoint is left to go on from")
    total = _total(theirs.config.train, progress)
    if total <= progress.total:
        raise _refusal(run_dir, ours, f"it was to take {progress.total} steps, and {total} are no more than that")
    if reason := _dependence(ours.config.train, theirs.config.train, ours.config.eval.steps, progress, total):
        raise _refusal(run_dir, ours, reason)


def extend(run_dir: RunDir, name: str) -> None:
    """Let a phase take more steps, as :func:`check_longer` allows. The caller writes the new run.yaml after this."""
    manifest = Manifest(run_dir)
    if name in manifest.phases:
        result = manifest.phases[name]
        extended = [*manifest.values.get("extended", []), {"phase": name, **result}]
        phases = {key: value for key, value in manifest.phases.items() if key != name}
        # Whoever dies from here on finds a run that lacks its last phase, and makes it again from the checkpoint.
        manifest.record(extended=extended, phases=phases, status="stopped")


def _progress(run_dir: RunDir, phase: Phase) -> _Progress | None:
    newest = next((one for one in checkpoints(run_dir.phase(phase.folder)) if is_whole(one)), None)
    if newest is None:
        return None
    state = read_trainer_state(newest / TRAINER_STATE)
    return _Progress(state["global_step"], state["epoch"], state["max_steps"])


def _total(train: Train, progress: _Progress) -> int:
    """Steps that a run takes. Those of an epoch follow from how far the phase has come."""
    if train.max_steps is not None:
        return train.max_steps
    return math.ceil(train.epochs * round(progress.step / progress.epoch))


def _dependence(ours: Train, theirs: Train, eval_steps: int, progress: _Progress, total: int) -> str | None:
    """Why the steps that were taken would have been others in a run of ``total`` steps; None where they would not."""
    scheduler = ours.lr_scheduler
    if scheduler not in OPEN_ENDED:
        return (
            f"train.lr_scheduler={scheduler} leads to the last step, so that a run of {total} steps has other learning "
            "rates from the beginning"
        )
    if scheduler != "constant":
        had, has = (one.warmup_count(steps) for one, steps in ((ours, progress.total), (theirs, total)))
        if had != has:
            return f"its warm-up took {had} steps, and would take {has} of {total}; give train.warmup_steps={had} too"
    is_compared = ours.keeps_best and not ours.best_metric.startswith(OF_GOLDEN)
    if is_compared and progress.step == progress.total and progress.step % eval_steps:
        return (
            f"its last evaluation, after step {progress.step}, is one that a run of {total} steps does not make "
            f"(eval.steps={eval_steps}), and evaluations choose its weights"
        )
    return None


def _refusal(run_dir: RunDir, phase: Phase, reason: str) -> RunDirError:
    final: Path = run_dir.phase_files(phase.folder).final
    key = "adapter" if phase.config.method.name == "lora" else "path"
    return RunDirError(
        f"{run_dir.path} cannot be trained on to more steps: {reason}. Another run can begin with its final weights: "
        f"model.{key}={final} and another run.name. Runs whose steps can be added to have "
        "train.lr_scheduler=constant_with_warmup and train.warmup_steps=N."
    )


def is_moved_end(state: dict[str, Any], total: int) -> bool:
    """Whether a checkpoint was the end of a run that takes ``total`` steps now. :param state: the trainer's."""
    return bool(state["global_step"] == state["max_steps"] < total)
