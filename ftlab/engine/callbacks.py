"""What happens beside the steps: metrics.jsonl, trackers, the progress bar, Ctrl-C."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ftlab.engine.output import Bar, Output
from ftlab.errors import DivergedError
from ftlab.rundir import write_atomic


class Metrics(TrainerCallback):
    """One line of ``metrics.jsonl`` for each logged event; ``step`` is the optimizer step it belongs to."""

    def __init__(self, path: Path, phase: str):
        self._path, self._phase = path, phase

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # transformers ends with averages since the last (re)start, which no continued run could repeat.
        if state.is_world_process_zero and "train_runtime" not in logs:
            if not math.isfinite(logs.get("loss", 0.0)):  # no default of ours: evaluations log no loss
                raise DivergedError(
                    f"The loss is {logs['loss']} at step {state.global_step}: the run has diverged. Lower "
                    "train.learning_rate or train.max_grad_norm; checkpoints from before are in phases/."
                )
            self.write(state.global_step, {"epoch": state.epoch, **logs})

    def write(self, step: int, values: dict[str, Any]) -> None:
        line = json.dumps({"phase": self._phase, "step": step, "time": round(time.time(), 3), **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


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


class Interruption(TrainerCallback):
    """Ctrl-C: the first one lets the step end, saves and stops; the second one stops at once.

    Outside training (``with``, but before the first step) it is an ordinary KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.requested = False
        self._training = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        if not self._training or self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._training = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.requested:
            control.should_save = control.should_training_stop = True


def trackers(name: str, folder: Path, step: int) -> Sequence[TrainerCallback]:
    """The tracker's callback, continuing after ``step``."""
    if name != "tensorboard":
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(folder), purge_step=step + 1 if step else None))]
