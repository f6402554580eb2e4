"""What happens beside the steps: metrics.jsonl, which feeds the trackers, and the progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from ftlab.engine.output import Bar, Output
from ftlab.engine.trackers.hub import Trackers
from ftlab.engine.trackers.rates import Rates
from ftlab.rundir import write_atomic


class Before(NamedTuple):
    """What a run had done when a phase began."""

    steps: int
    tokens: int


class Metrics(TrainerCallback):
    """One line of ``metrics.jsonl`` for each logged event.

    ``step`` is the phase's optimizer step that the line belongs to, ``global_step`` the run's; ``tokens`` and
    ``total_tokens`` were trained on up to there; ``seconds`` of work went into the run, over all its starts.

    :param seconds: that number.
    :param trackers: get every line too. :param rates: are logged beside the loss.
    """

    def __init__(
        self, path: Path, phase: str, before: Before, seconds: Callable[[], float], trackers: Trackers, rates: Rates
    ):
        self._path, self._phase, self._before, self._seconds = path, phase, before, seconds
        self._trackers, self._rates = trackers, rates

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # transformers ends with averages since the last (re)start, which no continued run could repeat.
        if state.is_world_process_zero and "train_runtime" not in logs:
            rates = self._rates.latest if "loss" in logs else {}
            self.write(state.global_step, {"epoch": state.epoch, **logs, **rates})

    def write(self, step: int, values: dict[str, Any]) -> None:
        line = {"phase": self._phase, "step": step, "global_step": self._before.steps + step, **values}
        if "tokens" in values:
            line["total_tokens"] = self._before.tokens + values["tokens"]
        line |= {"time": round(time.time(), 3), "seconds": round(self._seconds(), 3)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._trackers.log(line)


def cut_back(path: Path, phase: str, checkpoint: Path | None, is_measured: bool) -> None:
    """Take out of ``metrics.jsonl`` what ``phase`` logged after ``checkpoint``, and a torn last line.

    :param is_measured: whether the measures before training were finished; if not, they will be logged again.
    """
    if not path.is_file():
        return
    step, evaluated = 0, False
    if checkpoint is not None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        step = state["global_step"]
        evaluated = any(entry["step"] == step and "eval_loss" in entry for entry in state["log_history"])

    def stands(entry: dict[str, Any]) -> bool:
        if entry["step"] == 0:
            return is_measured
        # Evaluations that belong to a step come before its checkpoint; those after training come behind the last one.
        at_checkpoint = "loss" in entry or (evaluated and "eval_loss" in entry)
        return entry["step"] < step or (entry["step"] == step and at_checkpoint)

    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["phase"] != phase or stands(entry):
            kept.append(line)
    write_atomic(path, "".join(line + "\n" for line in kept))


class Advance(TrainerCallback):
    """Moves the bar, with the last loss and the rate since the last log."""

    def __init__(self, output: Output, bar: Bar):
        self._output, self._bar = output, bar
        self._since: tuple[float, int] | None = None
        self._loss = self._rate = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step, f"{self._loss} {self._rate}".strip())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = (time.monotonic(), state.num_input_tokens_seen)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            now = (time.monotonic(), state.num_input_tokens_seen)
            if self._since is not None and now[1] > self._since[1]:
                rate = (now[1] - self._since[1]) / max(now[0] - self._since[0], 1e-9)
                self._rate = f"{rate:,.0f} tokens/s"
            self._since = now
            self._loss = f"loss {logs['loss']:.4f}"
        self._output.note(json.dumps({"step": state.global_step, **logs}))
