"""Evaluations: what they find, and that they are logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.base.progress import NoBar, Progress
from ftlab.stages.trainer.counters import CountingTrainer


class EvaluatingTrainer(CountingTrainer):
    """A stage gives :meth:`measure`."""

    _progress: Progress = NoBar

    @property
    def rows_at_once(self) -> int:
        """How many rows of ``data.max_length`` tokens a forward takes now."""
        return self.run.train.micro_batch_size

    def begin(self, progress: Progress) -> None:
        """Find out what the first step needs. :param progress: of bars, for what takes long from here on."""
        self._progress = progress

    def bar(self, description: str, total: int, unit: str) -> Any:
        """A bar on the terminal, below that of training where it is drawn; nothing elsewhere."""
        return self._progress(description, total, unit, only_live=True)

    def is_alive(self, count: int) -> None:
        """Told that so many items are done, to whoever would think that the run hangs."""
        self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def advancing(self, bar: Any) -> Callable[[int], None]:
        """What moves a bar on, and is a sign of life."""

        def advance(count: int) -> None:
            bar.advance(count)
            self.is_alive(count)

        return advance

    def evaluation_bar(self, total: int, unit: str) -> Any:
        """:param unit: of the validation split, that :meth:`measure` goes through."""
        return self.bar(f"evaluating on {total:,} validation {unit}", total, "")

    def measure(self, eval_dataset: Any = None) -> dict[str, float]:
        """What the weights as they are come to on the validation rows, by name; ``loss`` is among it. Training does not
        notice, and nothing is logged. :param eval_dataset: other rows than the trainer's own."""
        raise AssertionError("a stage gives its measures")

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Measure, log, and tell the callbacks."""
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure(eval_dataset).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
