"""What a run can be that begins with the weights of another which is at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftlab.errors import Mistake
from ftlab.rundir.control import IN_FLIGHT, Schedule, Weights
from ftlab.rundir.identity import identity
from ftlab.rundir.sweep import Clone
from ftlab.schema import Run

# Of a clone that goes on with its parent's steps, what may differ beside the numbers of its loss.
_MAY_CHANGE = (*IN_FLIGHT, "lora.dropout", "train.loss_spike")
# Of a clone that begins with its parent's adapter, what of the adapter may differ.
_OF_ADAPTER = ("lora.r", "lora.alpha", "lora.dropout", "lora.loraplus_ratio")


def clone_overrides(parent: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a clone. :param parent: those of its parent. :param changes: each in the place of the parent's
    of the same key."""
    keys = [_key(line) for line in changes]
    return (*(line for line in parent if _key(line) not in keys), *changes)


def clone_mistakes(
    parent: Run, clone: Run, changes: Sequence[str], schedule: Schedule, weights: Weights
) -> list[Mistake]:
    """Why a clone cannot begin where its parent is; empty where it can.

    :param parent, clone: the configs of their phases. :param changes: as they were typed.
    """
    if weights == "scratch":
        return []
    ours, theirs = dict(identity(parent)), dict(identity(clone))
    differ = [key for key, value in theirs.items() if ours.get(key) != value and not key.startswith("run.")]
    if schedule == "continue":
        decays = {parent.train.weight_decay > 0, clone.train.weight_decay > 0}  # of which an optimizer keeps the record
        wrong = [key for key in differ if not _may_change(key, theirs[key], len(decays) == 1)]
        reason = (
            "cannot change in a clone that has its parent's optimizer, order of rows and number of steps; "
            "schedule=restart begins with its weights alone"
        )
    else:
        wrong = [key for key in differ if _is_of_weights(key)]
        reason = "cannot change in a clone that begins with its parent's weights; weights=scratch begins without"
        if parent.method.name == "lora" and parent.lora.variant == "pissa":
            wrong.append("lora")
            reason = "has no weights to begin with: pissa changes the base of its parent; schedule=continue can do that"
    typed = {_key(line): line.partition("=")[2] for line in changes}
    return [Mistake(key, reason, typed.get(key, theirs.get(key))) for key in wrong]


def origin(clone: Clone) -> str:
    """What is told of a job that is a clone: ``a clone of job 2 after step 40``."""
    at = f" after step {clone.step}" if clone.step is not None else ", from scratch"
    return f"a clone of job {clone.parent + 1}{at}"


def _may_change(key: str, value: Any, keeps_decay: bool) -> bool:
    if key == "train.weight_decay":
        return keeps_decay
    return key in _MAY_CHANGE or (key.startswith("stage.") and isinstance(value, float))


def _is_of_weights(key: str) -> bool:
    if key in _OF_ADAPTER or key == "model.adapter":
        return False
    return key.startswith(("model.", "lora.", "method.")) or key == "stage.name"


def _key(line: str) -> str:
    return line.partition("=")[0].lstrip("+")
