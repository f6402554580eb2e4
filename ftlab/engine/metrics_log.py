"""What happens beside the steps: metrics.jsonl, which feeds the trackers, and the progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from ftlab.base.progress import Bar
from ftlab.engine.output import Output
from ftlab.engine.trackers.hub import Trackers
from ftlab.engine.trackers.rates import Rates
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.names import EXACT_MATCH

_KINDS = ("loss", "eval_loss", EXACT_MATCH)  # each line has one of them


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


def cut_back(run_dir: RunDir, phase: str, checkpoint: Path | None, is_measured: bool) -> None:
    """Take out of ``metrics.jsonl`` what ``phase`` logged after ``checkpoint``, and a torn last line.

    :param is_measured: whether the measures before training were finished; if not, they will be logged again.
    """
    if not run_dir.metrics.is_file():
        return
    step, logged = 0, set[str]()
    if checkpoint is not None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        step = state["global_step"]
        logged = {key for entry in state["log_history"] if entry["step"] == step for key in entry}

    def stands(entry: dict[str, Any]) -> bool:
        if entry["step"] == 0:
            return is_measured
        # What belongs to a step is logged before its checkpoint; what is measured after training, behind the last one.
        at_checkpoint = any(key in entry and key in logged for key in _KINDS)
        return entry["step"] < step or (entry["step"] == step and at_checkpoint)

    kept = [json.dumps(entry) + "\n" for entry in run_dir.logged() if entry["phase"] != phase or stands(entry)]
    write_atomic(run_dir.metrics, "".join(kept))


class Advance(TrainerCallback):
    """Moves the bar, with the last loss and how fast it went since the last log."""

    def __init__(self, output: Output, bar: Bar, rates: Rates):
        self._output, self._bar, self._rates = output, bar, rates
        self._status = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step, self._status)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            rate = self._rates.latest.get("tokens_per_second")
            self._status = f"loss {logs['loss']:.4f}" + (f" {rate:,.0f} tokens/s" if rate is not None else "")
        self._output.note(json.dumps({"step": state.global_step, **logs}))
