"""The evaluation of one model: its losses and answers, kept as they come, and the metrics of them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ftlab import __version__
from ftlab.data.formats import Labelled
from ftlab.errors import DataError, RunDirError
from ftlab.measure.intervals import Numbers, mean
from ftlab.measure.metrics import perplexity
from ftlab.measure.numbers import last_number
from ftlab.measure.scores import METRICS, Answers, AnyMetric, MetricError, Score, resolve, scored, weighted
from ftlab.policy.from_run import Policy, TrainedPolicy
from ftlab.policy.tokens import Tokens
from ftlab.rundir.evaluations import EvaluationDir, choose_folder
from ftlab.rundir.files import weight_hashes
from ftlab.schema import EvaluateTask, Run
from ftlab.use.evaluate.losses import RowLoss, row_losses
from ftlab.use.evaluate.rows import (
    Question,
    Split,
    questions,
    questions_fingerprint,
    scored_rows,
    that_fit,
)

_PACKAGES = "pip install 'ftlab[eval]'"


@dataclass(frozen=True)
class Measured:
    """A metric, and the numbers of the rows that its own numbers are of."""

    score: Score
    rows: list[int]


@dataclass
class Evaluation:
    """What was found of a model.

    :param label: ``base``, or the run directory. :param remarks: sentences on it. :param failures: by metric, why it
        has no value.
    """

    label: str
    folder: Path
    measured: dict[str, Measured]
    remarks: list[str]
    failures: dict[str, str]
    values: dict[str, Any] = field(default_factory=dict)


Progress = Callable[..., AbstractContextManager[Any]]


class Evaluator:
    """Evaluates one model on a split.

    :param policy: the model, not loaded yet. :param run: its directory, as the user typed it. :param is_base: whether
        it is what the run began with. :param out: the folder; None: one of the run's ``evaluations/``.
    :param progress: ``(description, total, unit)`` -> a bar.
    """

    def __init__(
        self,
        policy: Policy,
        run: str,
        is_base: bool,
        split: Split,
        task: EvaluateTask,
        out: Path | None,
        progress: Progress,
    ):
        self._policy, self._run, self._is_base, self._split, self._task = policy, run, is_base, split, task
        self._label = "base" if is_base else run
        self._out, self._progress = out, progress
        self._config: Run = policy.config
        self._tokens: Tokens = policy.tokens()
        self._remarks: list[str] = []
        self._metrics = self._chosen_metrics()
        asked = questions(split.rows, self._tokens, self._config.data) if task.generate else []
        self._asked, longer = that_fit(asked, self._config, task.too_long)
        self._check_references()
        self._scored, self._left_out = scored_rows(split, self._tokens, self._config)
        self._scored = [row for row in self._scored if row.has_loss]
        if longer:
            self._left_out["prompt longer than the context"] = len(longer)

    def _check_references(self) -> None:
        """:raises DataError: a metric that was asked for compares with references, and there is none."""
        if self._config.eval.metrics is None or not self._asked:
            return
        names = [metric.name for metric in self._metrics if metric.needs_references]
        if names and all(question.reference is None for question in self._asked):
            raise DataError(
                f"{self._asked[0].row.where}: no row has a reference, and eval.metrics={','.join(names)} compares with "
                "it. Name the column that has them (data.columns), or leave the metric out."
            )

    @cached_property
    def _loaded(self) -> TrainedPolicy:
        return self._policy.load(self._tokens)

    def run(self) -> Evaluation:
        """:raises RunDirError: the folder is another process's, or damaged."""
        identity, began = self._identity(), time.monotonic()
        folder = self._folder(identity)
        with EvaluationDir(folder) as files:
            known = files.read() or {}
            if known and known.get("identity") != identity:
                raise RunDirError(
                    f"{folder} holds another evaluation: of other rows, weights or settings. Name another folder with "
                    "out=FOLDER, or leave it out."
                )
            files.write({**known, "status": "running", "identity": identity})
            losses, answers = _kept(files)
            kept = len(answers) + len(losses)
            files.begin()
            self._measure_losses(files, losses)
            self._answer(files, answers)
            evaluation = self._evaluation(folder, losses, answers)
            evaluation.values = self._values(evaluation, identity, known, began, kept)
            files.finish(self._lines(evaluation, losses, answers))
            files.write(evaluation.values)
        return evaluation

    # --- what is measured --------------------------------------------------------------------------------------------

    def _chosen_metrics(self) -> list[AnyMetric]:
        """``eval.metrics``, or all that apply and whose packages are there.

        :raises ConfigError: names that are none. :raises NotReadyError: a package that was asked for is missing.
        """
        names = self._config.eval.metrics
        if names is not None:
            return resolve(names)
        lacking = [metric.name for metric in METRICS.values() if not metric.is_installed]
        if lacking and self._task.generate and self._tokens.template is not None:
            self._remarks.append(f"{', '.join(lacking)} are not measured: their packages are missing, {_PACKAGES}")
        return [metric for metric in METRICS.values() if metric.is_installed]

    def _measure_losses(self, files: EvaluationDir, losses: dict[int, RowLoss]) -> None:
        left = [row for row in self._scored if row.row.number not in losses]
        if not left:
            return
        budget = self._config.eval.batch_size * self._config.data.max_length
        with self._progress(f"{self._label}: losses of {self._split.name} rows", len(left), "rows") as bar:
            for done in row_losses(self._loaded, left, budget):
                of_rows = {left[place].row.number: loss for place, loss in done.items()}
                files.add([{"row": number, **_loss_line(loss)} for number, loss in of_rows.items()])
                losses |= of_rows
                bar.advance(len(done))

    def _answer(self, files: EvaluationDir, answers: dict[int, dict[str, Any]]) -> None:
        left = [question for question in self._asked if question.row.number not in answers]
        if not left:
            return
        policy = self._loaded
        what = f"{self._label}: answering {self._split.name} prompts"
        with self._progress(what, len(left), "prompts") as bar, policy.autocast():
            for batch, found in self._batches(policy, left):
                lines = [_answer_line(left[i], ids, policy) for i, ids in zip(batch, found)]
                files.add(lines)
                answers |= {line["row"]: line for line in lines}
                bar.advance(len(batch))

    def _batches(self, policy: TrainedPolicy, asked: Sequence[Question]) -> Any:
        from ftlab.measure.generate import answer_batches
        from ftlab.measure.sample import answer_seeds, sample_batches

        settings = self._config.eval
        how: dict[str, Any] = {
            "stop": policy.stop, "pad": policy.tokenizer.pad_token_id, "max_new_tokens": settings.max_new_tokens,
            "batch_size": settings.batch_size,
        }  # fmt: skip
        prompts = [question.ids for question in asked]
        if not self._task.temperature:
            return answer_batches(policy.model, prompts, **how)
        # An answer's random numbers follow from its row, so that those that are written later are the same.
        seeds = np.concatenate([answer_seeds([self._config.seed, question.row.number], 1) for question in asked])
        return sample_batches(policy.model, prompts, seeds, temperature=self._task.temperature, **how)

    # --- what follows from it ----------------------------------------------------------------------------------------

    def _evaluation(
        self, folder: Path, losses: Mapping[int, RowLoss], answers: Mapping[int, Mapping[str, Any]]
    ) -> Evaluation:
        found = [*self._loss_scores(losses), *self._preference_scores(losses)]
        failures: dict[str, str] = {}
        if self._asked:
            asked, texts = self._asked, self._answers(answers)
            rows = [question.row.number for question in asked]
            for metric in self._metrics:
                if not self._applies(metric, texts):
                    continue
                try:
                    found += [Measured(score, rows) for score in metric.score(texts, self._config.seed)]
                except MetricError as error:
                    failures[metric.name] = str(error)
        return Evaluation(self._label, folder, {one.score.name: one for one in found}, self._remarks, failures)

    def _answers(self, answers: Mapping[int, Mapping[str, Any]]) -> Answers:
        asked = self._asked
        lines = [answers[question.row.number] for question in asked]
        names = dict.fromkeys(name for question in asked for name in question.row.columns)
        return Answers(
            prompts=[question.messages for question in asked],
            predictions=[line["prediction"] for line in lines],
            references=[question.reference for question in asked],
            tokens=[line["tokens"] for line in lines],
            stopped=[line["stopped"] for line in lines],
            columns={name: [question.row.columns.get(name) for question in asked] for name in names},
            places=[question.row.where for question in asked],
        )

    def _applies(self, metric: AnyMetric, texts: Answers) -> bool:
        """What compares with references has nothing to say of rows without any; of those that nobody asked for, the
        numeric answer has nothing to say where references have no number."""
        if metric.needs_references and not texts.has_references:
            return False
        if metric.name != "numeric_answer" or self._config.eval.metrics is not None:
            return True
        return all(reference is None or last_number(reference) is not None for reference in texts.references)

    def _loss_scores(self, losses: Mapping[int, RowLoss]) -> list[Measured]:
        if not losses:
            return []
        rows = [row.row.number for row in self._scored]
        numbers_RK = np.array([(losses[row].nll, losses[row].tokens) for row in rows], dtype=np.float64)
        seed = self._config.seed
        return [
            Measured(scored("loss", numbers_RK, mean, seed), rows),
            Measured(scored("perplexity", numbers_RK, _perplexities, seed), rows),
        ]

    def _preference_scores(self, losses: Mapping[int, RowLoss]) -> list[Measured]:
        rows = [row.row.number for row in self._scored if row.is_pair]
        if not rows:
            return []
        hits = weighted([float(bool(losses[row].prefers_chosen)) for row in rows])
        return [Measured(scored("preference_accuracy", hits, mean, self._config.seed), rows)]

    # --- what is written ---------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What the answers and losses depend on: all else may be computed from them again."""
        config, model = self._config, self._config.model
        weights = self._policy.weights.folder
        return {
            "rows": self._split.fingerprint(),
            "prompts": questions_fingerprint(self._asked),
            "model": {"path": model.path, "revision": model.revision, "init": model.init},
            "weights": None if self._is_base else weight_hashes(weights),
            "quant": config.quant.name,
            "precision": config.hardware.precision,
            "max_length": config.data.max_length,
            "truncation": config.data.truncation,
            "train_on": config.data.train_on,
            "max_new_tokens": config.eval.max_new_tokens,
            "temperature": self._task.temperature,
            "seed": config.seed if self._task.temperature else None,
        }

    def _folder(self, identity: Mapping[str, Any]) -> Path:
        if self._out is not None:
            return self._out
        weights = self._policy.weights
        parts = [self._split.sources, self._split.name]
        parts += [weights.phase.name] if len(self._policy.run_dir.plan().phases) > 1 else []
        parts += ["base"] if self._is_base else [f"step-{weights.step}"] if weights.step is not None else []
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))
        return choose_folder(self._policy.run_dir.path, name, identity)

    def _values(
        self, evaluation: Evaluation, identity: Mapping[str, Any], known: Mapping[str, Any], began: float, kept: int
    ) -> dict[str, Any]:
        weights, split, config = self._policy.weights, self._split, self._config
        seconds = known.get("seconds", 0.0) if kept else 0.0
        return {
            "status": "finished",
            "run": self._run,
            "model": "base" if self._is_base else weights.folder.name,
            "phase": weights.phase.name,
            "remark": weights.remark,
            "data": split.sources,
            "split": split.name,
            "rows": len(split.rows),
            "answers": len(self._asked),
            "left_out": self._left_out,
            "eval": {
                "max_new_tokens": config.eval.max_new_tokens,
                "temperature": self._task.temperature,
                "metrics": config.eval.metrics,
            },
            "metrics": {name: score_values(one.score) for name, one in evaluation.measured.items()},
            "failures": evaluation.failures,
            "seconds": round(seconds + time.monotonic() - began, 3),
            "ftlab": __version__,
            "identity": identity,
        }

    def _lines(
        self, evaluation: Evaluation, losses: Mapping[int, RowLoss], answers: Mapping[int, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """One for each row, in order: what was asked, wanted and answered, and how that was judged."""
        asked = {question.row.number: question for question in self._asked}
        judged: dict[int, dict[str, float]] = {}
        for name, one in evaluation.measured.items():
            if name in ("loss", "perplexity"):
                continue
            for number, value in zip(one.rows, one.score.of_rows or ()):
                if value is not None:
                    judged.setdefault(number, {})[name] = value
        lines = []
        for row in self._split.rows:
            if isinstance(row.record, Labelled) and not row.record.label:
                continue
            line: dict[str, Any] = {"row": row.number, "where": row.where}
            if (question := asked.get(row.number)) is not None:
                line |= {"prompt": question.messages, "reference": question.reference, **answers[row.number]}
            if (loss := losses.get(row.number)) is not None:
                line |= _loss_line(loss)
            if row.number in judged:
                line["scores"] = judged[row.number]
            lines.append(line)
        return lines


def score_values(score: Score) -> dict[str, Any]:
    low, high = score.bounds or (None, None)
    return {"value": json_number(score.value), "low": low, "high": high, "rows": score.rows}


def json_number(value: float | None) -> Any:
    """Numbers that JSON has no way to write become words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _perplexities(sums_SK: Numbers) -> Numbers:
    return np.array([perplexity(loss) for loss in mean(sums_SK).tolist()])


def _answer_line(question: Question, ids: list[int], policy: TrainedPolicy) -> dict[str, Any]:
    """:param ids: of the answer, with its end token where it has one."""
    stopped = bool(ids) and ids[-1] in policy.stop
    text = policy.tokenizer.decode(ids, skip_special_tokens=True)
    return {"row": question.row.number, "prediction": text, "tokens": len(ids) - stopped, "stopped": stopped}


def _loss_line(loss: RowLoss) -> dict[str, Any]:
    more = {} if loss.rejected is None else {"nll_rejected": loss.rejected}
    return {"nll": loss.nll, "learned_tokens": loss.tokens, **more}


def _kept(files: EvaluationDir) -> tuple[dict[int, RowLoss], dict[int, dict[str, Any]]]:
    """What an evaluation that was stopped, or is to be judged by other metrics, had found."""
    losses: dict[int, RowLoss] = {}
    answers: dict[int, dict[str, Any]] = {}
    for line in files.lines():
        row = line.get("row")
        if not isinstance(row, int):
            continue
        if "nll" in line:
            losses[row] = RowLoss(line["nll"], line["learned_tokens"], line.get("nll_rejected"))
        if "prediction" in line:
            answers[row] = {key: line[key] for key in ("row", "prediction", "tokens", "stopped")}
    return losses, answers
