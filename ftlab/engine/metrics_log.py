"""What happens beside the steps: metrics.jsonl, which feeds the trackers, and what the terminal shows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from transformers import TrainerCallback

from ftlab.base.numbers import readable
from ftlab.base.progress import Bar
from ftlab.engine.output import Output
from ftlab.engine.session import Session
from ftlab.engine.trackers.rates import Rates
from ftlab.rundir.names import BOUNDS, OF_GOLDEN

# Of what a stage measures on the validation split: what its line of an evaluation shows, in this order.
SHOWN = (
    "loss", "perplexity", "accuracy", "preference_accuracy", "reward", "rewards/margins", "score/margin", "kl",
)  # fmt: skip


class Metrics(TrainerCallback):
    """One line of ``metrics.jsonl`` for each logged event.

    ``step`` is the phase's optimizer step that the line belongs to, ``global_step`` the run's; ``tokens`` and
    ``total_tokens`` were trained on up to there; ``seconds`` of work went into the run, over all its starts.

    :param phase: its name. :param rates: are logged beside the loss. :param is_begun: whether the phase goes on from a
        checkpoint, which has what was measured before training, be it that its answers are lost and measured again.
    """

    def __init__(self, session: Session, phase: str, rates: Rates, is_begun: bool):
        self._session, self._phase, self._rates, self.is_begun = session, phase, rates, is_begun
        self._steps_before, self._tokens_before = session.steps_before(), session.tokens_before()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # transformers ends with averages since the last (re)start, which no continued run could repeat.
        if "train_runtime" not in logs:
            rates = self._rates.latest if "loss" in logs else {}
            self.write(state.global_step, {"epoch": state.epoch, **logs, **rates})

    def write(self, step: int, values: dict[str, Any]) -> None:
        if (self.is_begun and step == 0) or not self._session.writes:
            return
        line = {"phase": self._phase, "step": step, "global_step": self._steps_before + step, **values}
        if "tokens" in values:
            line["total_tokens"] = self._tokens_before + values["tokens"]
        line |= {"time": round(time.time(), 3), "seconds": round(self._session.clock.seconds(), 3)}
        with self._session.run_dir.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._session.trackers.log(line)


class Advance(TrainerCallback):
    """Moves the bar, with the last loss and how fast it went since the last log; a line for each evaluation, and one
    for the end. The values are those of ``metrics.jsonl``."""

    def __init__(self, output: Output, bar: Bar, rates: Rates):
        self._output, self._bar, self._rates = output, bar, rates
        self._status = ""
        self._told = 0  # the step up to which evaluations were told

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._told = state.global_step  # by the start that took it
        self._bar.update(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell_evaluation(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_log:  # else the step's own loss is about to come
            self._bar.update(state.global_step, self._status)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            rate = self._rates.latest.get("tokens_per_second")
            self._status = f"loss {readable(logs['loss'])}" + (f" {rate:,.0f} tokens/s" if rate is not None else "")
            self._bar.update(state.global_step, self._status)
        self._output.note(json.dumps({"step": state.global_step, **logs}))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step)
        last = next((entry for entry in reversed(state.log_history) if "loss" in entry), None)
        if last is not None:
            self._output.say(f"step {last['step']}: last logged loss {readable(last['loss'])}")
        self._tell_evaluation(state)

    def _tell_evaluation(self, state: Any) -> None:
        """What was measured after this step, in one line: answers come before the step is logged, and the validation
        split after it."""
        step = state.global_step
        if step > self._told:
            self._told = step
            of_step = takewhile(lambda entry: entry["step"] == step, reversed(state.log_history))
            measured = {key: value for entry in of_step for key, value in entry.items()}
            if line := evaluation_line(measured):
                self._output.say(f"step {step}: {line}")


def evaluation_line(logged: Mapping[str, Any]) -> str:
    """What a person wants to know of an evaluation, by the names that ``metrics.jsonl`` has; empty without one."""
    found = [(f"eval_{name}", f"validation {name}") for name in SHOWN if f"eval_{name}" in logged]
    parts = [f"{label} {readable(logged[key])}" for key, label in found]
    parts = [*parts[:1], *(part.removeprefix("validation ") for part in parts[1:])]
    golden = [key for key in logged if key.startswith(OF_GOLDEN) and not key.endswith(BOUNDS)]
    told = [f"{key.replace('_', ' ')} {readable(logged[key], key)}" for key in golden]
    return ", ".join([*parts, *told[:1], *(line.removeprefix("golden ") for line in told[1:])])
