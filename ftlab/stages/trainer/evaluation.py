"""Evaluations: what they find, and that they are logged."""

from __future__ import annotations

from typing import Any

from ftlab.stages.trainer.counters import CountingTrainer


class EvaluatingTrainer(CountingTrainer):
    """A stage gives :meth:`measure`."""

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
