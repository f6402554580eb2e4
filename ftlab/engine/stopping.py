"""``train.early_stopping``: no more steps once evaluations stop getting better, and the best one's weights at the end.

Everything follows from the evaluations in the trainer's own log, which is in every checkpoint: a run that goes on from
one stops where the whole run would have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ftlab.errors import ConfigError, Mistake, RunDirError
from ftlab.rundir import is_whole
from ftlab.schema import Train

_BETTER_LOWER = ("loss", "perplexity")


@dataclass(frozen=True)
class Best:
    """:param step: of the first evaluation that no other is better than. :param since: evaluations after it."""

    step: int
    value: float
    since: int


def best(log: Sequence[dict[str, Any]], metric: str) -> Best | None:
    """The best evaluation of a trainer's log, by one measure; NaN is never better. None where there is none."""
    sign = -1 if metric in _BETTER_LOWER else 1
    key = f"eval_{metric}"
    found: Best | None = None
    for entry in log:
        if key not in entry or entry["step"] == 0:
            continue
        if found is None or sign * entry[key] > sign * found.value or found.value != found.value:
            found = Best(entry["step"], entry[key], 0)
        else:
            found = Best(found.step, found.value, found.since + 1)
    return found


def is_over(checkpoint: Path, train: Train) -> bool:
    """Whether the run had stopped early when it wrote this checkpoint."""
    if train.early_stopping is None:
        return False
    log = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    found = best(log, train.early_stopping_metric)
    return found is not None and found.since >= train.early_stopping


def callbacks(train: Train, folder: Path, can_evaluate: bool, say: Callable[[str], None]) -> list[TrainerCallback]:
    """What watches over the evaluations, if anything shall.

    :param folder: of the checkpoints. :raises ConfigError: there is nothing to evaluate on.
    """
    if train.early_stopping is None:
        return []
    if not can_evaluate:
        reason = "compares evaluations, and this data has no validation split; set data.split.validation or .fraction"
        raise ConfigError([Mistake("train.early_stopping", reason, train.early_stopping)])
    return [EarlyStopping(train.early_stopping, train.early_stopping_metric, folder, say)]


def load_best(trainer: Any, train: Train, folder: Path) -> int:
    """Put the best evaluation's weights back, under early stopping; which step the trainer's weights are of then.

    :raises RunDirError: its checkpoint is gone or torn.
    """
    last: int = trainer.state.global_step
    found = None if train.early_stopping is None else best(trainer.state.log_history, train.early_stopping_metric)
    if found is None or found.step == last:
        return last
    checkpoint = _checkpoint(folder, found.step)
    if not is_whole(checkpoint):
        raise RunDirError(
            f"{checkpoint}, the best evaluation's, is gone or torn. Remove the checkpoints after it and continue: what "
            "comes after them is trained again."
        )
    trainer._load_from_checkpoint(str(checkpoint))
    return found.step


class EarlyStopping(TrainerCallback):
    """Has every evaluation that is better than all before it saved, keeps that checkpoint, and stops after
    ``patience`` evaluations that are not."""

    def __init__(self, patience: int, metric: str, folder: Path, say: Callable[[str], None]):
        self._patience, self._metric, self._folder, self._say = patience, metric, folder, say
        self._training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = True
        self._protect(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = best(state.log_history, self._metric)
        if not self._training or found is None:
            return
        self._protect(state)
        if found.step == state.global_step:
            control.should_save = True
        elif found.since >= self._patience:
            control.should_training_stop = True
            self._say(
                f"stopped early at step {state.global_step} of {state.max_steps}: no better validation {self._metric} "
                f"in {found.since} evaluations; the best was {found.value:.4f} at step {found.step}, whose weights are "
                "kept"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = False

    def _protect(self, state: Any) -> None:
        found = best(state.log_history, self._metric)
        state.best_model_checkpoint = None if found is None else str(_checkpoint(self._folder, found.step))


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"
