"""``suite=lm_eval``: tasks of lm-evaluation-harness, asked with the run's own template and stop tokens."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftlab.errors import ConfigError, Mistake, NotReadyError, first_line
from ftlab.measure.intervals import mean
from ftlab.measure.scores import Score, scored, weighted
from ftlab.model.guests import has_adapter
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.rundir.files import sha256, write_atomic
from ftlab.use.evaluate.kept import KeptEvaluation, Measured, Subject

_FILES = (".yaml", ".yml")
_BOOTSTRAPS = 1000  # of a metric that is no mean
_WIDTH = 1.959964  # standard errors to either side of a value, for 95 %


class HarnessEvaluation(KeptEvaluation):
    """:raises NotReadyError: the package is not installed. :raises ConfigError: no task is named, or a file is none."""

    def __init__(self, subject: Subject):
        super().__init__(subject)
        if find_spec("lm_eval") is None:
            raise NotReadyError("suite=lm_eval needs the package lm_eval: pip install 'ftlab[lm_eval]'")
        if not self.task.tasks:
            raise ConfigError([Mistake("task.tasks", "name tasks of lm_eval, or files of such: tasks=[my_task.yaml]")])
        self._files = [Path(name) for name in self.task.tasks if name.endswith(_FILES)]
        self._names = [_task_name(Path(name)) if name.endswith(_FILES) else name for name in self.task.tasks]
        self._results: dict[str, dict[str, Any]] = {}
        self._samples: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        return f"lm_eval-{'-'.join(self._names[:3])}{f'-and-{len(self._names) - 3}' if len(self._names) > 3 else ''}"

    def depends_on(self) -> dict[str, Any]:
        template = self.tokens.template
        return {
            "lm_eval": version("lm_eval"),
            "tasks": self._names,
            "files": {str(path): sha256(path) for path in self._files},
            "few_shot": self.task.few_shot,
            "limit": self.task.limit,
            "template": None if template is None else hashlib.sha256(template.source.encode()).hexdigest(),
        }

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> int:
        self._samples = [dict(line) for line in lines]
        return len(self._samples)

    def work(self, files: EvaluationDir) -> None:
        if self._samples and files.harness.is_file():
            self._results = json.loads(files.harness.read_text(encoding="utf-8"))["results"]
            return
        found = self._evaluate()
        self._results = found["results"]
        self._samples = [
            _line(number, task, sample)
            for number, (task, sample) in enumerate(
                (task, sample) for task, samples in found["samples"].items() for sample in samples
            )
        ]
        kept = {
            key: found[key] for key in ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better")
        }
        write_atomic(files.harness, json.dumps(kept, indent=2, default=str) + "\n")
        files.add(self._samples)

    def _evaluate(self) -> dict[str, Any]:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        policy, config = self.loaded, self.config
        base = policy.model.get_base_model() if has_adapter(policy.model) else policy.model
        base.generation_config.eos_token_id = policy.stop
        # To look through the thousands of tasks that it brings takes half a minute.
        folders, brings = [str(path.parent) for path in self._files], len(self._files) < len(self._names)
        manager = TaskManager(include_path=folders or None, include_defaults=brings)
        known = {*manager.all_tasks}
        if unknown := [name for name in self._names if name not in known]:
            raise ConfigError([Mistake("task.tasks", "lm_eval has no such task", name) for name in unknown])
        model = HFLM(
            pretrained=policy.model, tokenizer=policy.tokenizer, backend="causal", batch_size=config.eval.batch_size,
            max_length=config.model.architecture.max_positions,
        )  # fmt: skip
        try:
            with policy.autocast():
                found = simple_evaluate(
                    model, tasks=list(self._names), num_fewshot=self.task.few_shot, limit=self.task.limit,
                    task_manager=manager, apply_chat_template=self.tokens.template is not None, log_samples=True,
                    bootstrap_iters=_BOOTSTRAPS,
                )  # fmt: skip
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:  # of a task's file, or its data
            raise NotReadyError(f"lm_eval cannot run {', '.join(self._names)}: {first_line(error)}") from error
        assert found is not None, "this process is the first of one"
        return dict(found)

    def measured(self) -> list[Measured]:
        found = []
        for task, values in self._results.items():
            of_task = [line for line in self._samples if line["task"] == task]
            for key, value in values.items():
                metric, _, filter_ = key.partition(",")
                if not filter_ or metric.endswith("_stderr") or not isinstance(value, int | float):
                    continue
                name = f"{task} {metric}" + (f" ({filter_})" if filter_ != "none" else "")
                error = values.get(f"{metric}_stderr,{filter_}")
                found.append(self._score(name, metric, float(value), error, of_task))
        return found

    def _score(self, name: str, metric: str, value: float, error: Any, lines: Sequence[Mapping[str, Any]]) -> Measured:
        """With what each row adds to it where the value is a mean over rows; else with the harness's own error."""
        values = [line["scores"].get(metric) for line in lines]
        if values and all(isinstance(one, int | float) for one in values):
            score = scored(name, weighted(values), mean, self.config.seed)
            if abs(score.value - value) < 1e-9:
                return Measured(score, [line["row"] for line in lines])
        bounds = (value - _WIDTH * error, value + _WIDTH * error) if isinstance(error, int | float) else None
        return Measured(Score(name, value, len(lines), bounds, None), [line["row"] for line in lines])

    def lines(self, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
        return self._samples

    def about(self) -> dict[str, Any]:
        return {"data": ", ".join(self._names), "split": "lm_eval", "rows": len(self._samples), "left_out": {}}


def _task_name(path: Path) -> str:
    """:raises ConfigError: there is no such file, or it names no task."""
    import yaml

    try:
        # Its tags, as !function, are the harness's.
        whole: Any = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
        values = {key.value: value.value for key, value in whole.value if isinstance(value, yaml.ScalarNode)}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([Mistake("task.tasks", f"cannot be read: {first_line(error)}", path)]) from None
    if "task" not in values:
        raise ConfigError([Mistake("task.tasks", "is no task of lm_eval: it has no key task", path)])
    return str(values["task"])


def _line(number: int, task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: value for name in sample["metrics"] if isinstance(value := sample.get(name), int | float)}
    return {
        "row": number,
        "task": task,
        "doc_id": sample["doc_id"],
        "prompt": [str(one[0]) for one in list(_arguments(sample))[:1]],
        "reference": str(sample["target"]),
        "prediction": json.loads(json.dumps(sample["filtered_resps"], default=str)),
        "scores": scores,
    }


def _arguments(sample: Mapping[str, Any]) -> Iterable[Any]:
    """What was asked: the context of each request."""
    given = sample["arguments"]
    if isinstance(given, Mapping):
        return [[next(iter(one.values()))] if isinstance(one, Mapping) else one for one in given.values()]
    return list(given)
