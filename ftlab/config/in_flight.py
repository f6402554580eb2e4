"""What may be changed of a run between two of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.rundir.control import IN_FLIGHT
from ftlab.schema import Run


def read_values(changes: Sequence[str], run: Run) -> dict[str, float]:
    """The values of some ``KEY=VALUE``.

    :param run: the config of the phase at work. :raises ConfigError: every mistake at once; says what may be changed.
    """
    if not changes:
        keys = ", ".join(IN_FLIGHT)
        what = f"is missing: set KEY=VALUE. Keys that can change while a run is at work: {keys}"
        raise ConfigError([Mistake("task.changes", what)])
    values: dict[str, float] = {}
    mistakes = []
    for change in changes:
        key, _, word = change.partition("=")
        value = _number(word)
        reason = _reason_against(key, value, run)
        if reason is None:
            reason = "must be a number" if value is None else _out_of_bounds(key, value, run)
        if reason is not None:
            near = nearest(key, IN_FLIGHT) if key not in IN_FLIGHT else []
            mistakes.append(Mistake(key, reason, word, near))
        elif value is not None:
            values[key] = value
    if mistakes:
        raise ConfigError(mistakes)
    return values


def _reason_against(key: str, value: float | None, run: Run) -> str | None:
    """Why a key cannot change in this run; None where it can."""
    if key not in IN_FLIGHT:
        return (
            f"is fixed once a run has begun. What can change: {', '.join(IN_FLIGHT)}. For anything else: ftlab control "
            "SWEEP clone JOB KEY=VALUE"
        )
    if key == "train.weight_decay" and run.train.weight_decay == 0:
        return "began at 0, and no weight is marked for it"
    if key == "train.weight_decay" and value == 0:
        return "must be more: 0 would be for good, because the weights that it is for are known by having some"
    if key == "train.max_grad_norm" and (run.deepspeed.name != "none" or run.stage.name == "ppo"):
        return "is fixed under DeepSpeed, and in ppo"
    return None


def _number(word: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return None


def _out_of_bounds(key: str, value: float, run: Run) -> str | None:
    group, _, name = key.partition(".")
    node: BaseModel = getattr(run, group)
    try:
        type(node).model_validate({**node.model_dump(), name: value})
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).replace("Input should be", "must be")
    return None
