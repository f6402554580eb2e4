"""``train.keep_best``: the weights of the best evaluation at the end; ``train.early_stopping``: that, and no more steps
once evaluations stop getting better.

Everything follows from the measures in the trainer's own log, which is in every checkpoint: a run that goes on from one
chooses and stops as the whole run would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ftlab.base.numbers import readable
from ftlab.errors import ConfigError, Mistake, RunDirError
from ftlab.rundir.checkpoints import is_whole
from ftlab.rundir.compare import lower_is_better
from ftlab.rundir.names import OF_GOLDEN, TRAINER_STATE
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.rundir.records import read_trainer_state
from ftlab.rundir.summary import measure_word
from ftlab.schema import Train


@dataclass(frozen=True)
class Best:
    """:param step: of the first measurement that no other is better than. :param since: measurements after it."""

    step: int
    value: float
    since: int


def find_best(log: Sequence[dict[str, Any]], metric: str) -> Best | None:
    """The best value in a trainer's log of one measure; NaN is never better. None where there is none."""
    sign = -1 if lower_is_better(metric) else 1
    key = _key(metric)
    found: Best | None = None
    for entry in log:
        if key not in entry or entry["step"] == 0:
            continue
        if found is None or sign * entry[key] > sign * found.value or found.value != found.value:
            found = Best(entry["step"], entry[key], 0)
        else:
            found = Best(found.step, found.value, found.since + 1)
    return found


def has_stopped_early(checkpoint: Path, train: Train) -> bool:
    """Whether the run had stopped early when it wrote this checkpoint."""
    if train.early_stopping is None:
        return False
    log = read_trainer_state(checkpoint / TRAINER_STATE)["log_history"]
    found = find_best(log, train.best_metric)
    return found is not None and found.since >= train.early_stopping


def callbacks(
    train: Train, files: PhaseFiles, splits: Mapping[str, bool], say: Callable[[str], None]
) -> list[TrainerCallback]:
    """Return the callbacks that keep the best evaluation or stop early, if the config asks for either.

    :param files: of the phase. :param splits: whether the data has rows for each.
    :raises ConfigError: there is nothing to measure on.
    """
    if not train.keeps_best:
        return []
    split = "golden" if train.best_metric.startswith(OF_GOLDEN) else "validation"
    if not splits[split]:
        key, value = ("early_stopping", train.early_stopping) if train.early_stopping else ("keep_best", "true")
        rows = "golden prompts with answers" if split == "golden" else "validation split"
        reason = f"compares evaluations by {train.best_metric}, and this data has no {rows}; "
        reason += f"set data.split.{split}" + (" or .fraction" if split == "validation" else "")
        raise ConfigError([Mistake(f"train.{key}", reason, value)])
    return [KeepBest(train.early_stopping, train.best_metric, files, say)]


def check_measured(train: Train, log: Sequence[dict[str, Any]], before: Mapping[str, float]) -> None:
    """Check that an evaluation before training logs the measure that will be compared.

    :param before: what was measured before training, as a manifest has it.
    :raises ConfigError: ``train.best_metric`` is not among it.
    """
    measured = sorted({key.removeprefix("eval_") for entry in log for key in entry if key.startswith("eval_")})
    if train.best_metric.startswith(OF_GOLDEN):
        measured = [measure_word(name) for name in before if measure_word(name).startswith(OF_GOLDEN)]
    is_measured = train.best_metric in measured or measure_word(train.best_metric) in measured
    if train.keeps_best and measured and not is_measured:
        mistake = f"is not measured; this run's evaluations have: {', '.join(measured)}"
        raise ConfigError([Mistake("train.best_metric", mistake, train.best_metric)])


def load_best(trainer: Any, train: Train, files: PhaseFiles, say: Callable[[str], None]) -> int:
    """Put the best evaluation's weights back, where they are wanted; which step the trainer's weights are of then.

    :param say: is told which those are, and what they were chosen by.

    :raises RunDirError: its checkpoint is gone or torn.
    """
    last: int = trainer.state.global_step
    found = find_best(trainer.state.log_history, train.best_metric) if train.keeps_best else None
    if found is None:
        return last
    value = readable(found.value, train.best_metric)
    best = f"the weights of step {found.step} are kept, the best by {_label(train.best_metric)} ({value})"
    if found.step == last:
        say(f"{best}, which is the last step")
        return last
    checkpoint = files.checkpoint(found.step)
    if not is_whole(checkpoint):
        raise RunDirError(
            f"{checkpoint}, whose weights {_key_of(train)} keeps as the best, is gone or torn. Remove the checkpoints "
            "after it and continue: what comes after them is trained again."
        )
    trainer._load_from_checkpoint(str(checkpoint))
    say(f"{best}, of {last} steps")
    return found.step


def _key_of(train: Train) -> str:
    """What in the config asks for the best weights."""
    return "train.keep_best" if train.early_stopping is None else "train.early_stopping"


class KeepBest(TrainerCallback):
    """Has every evaluation that is better than all before it saved, keeps that checkpoint, and stops after
    ``patience`` evaluations that are not.

    :param patience: None never stops.
    """

    def __init__(self, patience: int | None, metric: str, files: PhaseFiles, say: Callable[[str], None]):
        self._patience, self._metric, self._files, self._say = patience, metric, files, say
        self._training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = True
        self._protect(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._judge(state, control)  # the golden prompts have been answered by then

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._judge(state, control)  # an evaluation ends with its log

    def _judge(self, state: Any, control: Any) -> None:
        """Of what was measured last, if that was now."""
        last = state.log_history[-1] if state.log_history else {}
        if not self._training or _key(self._metric) not in last or last["step"] != state.global_step:
            return
        found = find_best(state.log_history, self._metric)
        assert found is not None, "it has at least this one"
        self._protect(state)
        if found.step == state.global_step:
            control.should_save = True
        elif self._patience is not None and found.since >= self._patience:
            control.should_training_stop = True
            self._say(
                f"stopped early at step {state.global_step} of {state.max_steps}: no better {_label(self._metric)} "
                f"in {found.since} evaluations; the best was {readable(found.value, self._metric)} at step {found.step}"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = False

    def _protect(self, state: Any) -> None:
        found = find_best(state.log_history, self._metric)
        state.best_model_checkpoint = None if found is None else str(self._files.checkpoint(found.step))


def _key(metric: str) -> str:
    """In a trainer's log."""
    return metric if metric.startswith(OF_GOLDEN) else f"eval_{metric}"


def _label(metric: str) -> str:
    return metric.replace("_", " ") if metric.startswith(OF_GOLDEN) else f"validation {metric}"
