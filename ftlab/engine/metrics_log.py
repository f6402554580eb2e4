"""What happens beside the steps: metrics.jsonl, which feeds the trackers, and the progress bar."""

from __future__ import annotations

import json
import time
from typing import Any

from transformers import TrainerCallback

from ftlab.base.progress import Bar
from ftlab.distributed.world import current_world
from ftlab.engine.output import Output
from ftlab.engine.session import Session
from ftlab.engine.trackers.rates import Rates


class Metrics(TrainerCallback):
    """One line of ``metrics.jsonl`` for each logged event.

    ``step`` is the phase's optimizer step that the line belongs to, ``global_step`` the run's; ``tokens`` and
    ``total_tokens`` were trained on up to there; ``seconds`` of work went into the run, over all its starts.

    :param phase: its name. :param rates: are logged beside the loss.
    """

    def __init__(self, session: Session, phase: str, rates: Rates):
        self._session, self._phase, self._rates = session, phase, rates
        self._steps_before, self._tokens_before = session.steps_before(), session.tokens_before()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        # transformers ends with averages since the last (re)start, which no continued run could repeat.
        if current_world().is_first and "train_runtime" not in logs:
            rates = self._rates.latest if "loss" in logs else {}
            self.write(state.global_step, {"epoch": state.epoch, **logs, **rates})

    def write(self, step: int, values: dict[str, Any]) -> None:
        line = {"phase": self._phase, "step": step, "global_step": self._steps_before + step, **values}
        if "tokens" in values:
            line["total_tokens"] = self._tokens_before + values["tokens"]
        line |= {"time": round(time.time(), 3), "seconds": round(self._session.clock.seconds(), 3)}
        with self._session.run_dir.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._session.trackers.log(line)


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
