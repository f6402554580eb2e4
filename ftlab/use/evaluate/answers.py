"""The rows of a data set: losses of what they say, answers to what they ask, and the metrics of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.data.formats import Labelled
from ftlab.errors import ConfigError, DataError, Mistake, NotReadyError
from ftlab.measure.intervals import Numbers, mean
from ftlab.measure.metrics import perplexity
from ftlab.measure.numbers import last_number
from ftlab.measure.scores import METRICS, Answers, AnyMetric, MetricError, missing_packages, resolve, scored, weighted
from ftlab.policy.from_run import TrainedPolicy
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.rundir.files import weight_hashes
from ftlab.stages.rewards.alone import Judge, load_judge
from ftlab.stages.rewards.find import find_reward_model, reward_model_problem
from ftlab.use.evaluate.kept import KeptEvaluation, Measured, Subject
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


class RowsEvaluation(KeptEvaluation):
    """:param split: the rows."""

    def __init__(self, subject: Subject, split: Split):
        super().__init__(subject)
        self._split = split
        self._metrics = self._chosen_metrics()
        asked = questions(split.rows, self.tokens, self.config.data) if self.task.generate else []
        self._asked, longer = that_fit(asked, self.config, self.task.too_long)
        self._check_references()
        every, self._left_out = scored_rows(split, self.tokens, self.config)
        self._scored = [row for row in every if row.has_loss]
        if longer:
            self._left_out["prompt longer than the context"] = len(longer)
        self._judged_by = None if self.task.reward_model is None else Path(self.task.reward_model)
        if self._judged_by is not None and (wrong := reward_model_problem(str(self._judged_by))):
            raise ConfigError([Mistake("task.reward_model", wrong, self.task.reward_model)])
        self._losses: dict[int, RowLoss] = {}
        self._answers: dict[int, dict[str, Any]] = {}

    @property
    def name(self) -> str:
        return f"{self._split.sources}-{self._split.name}"

    def depends_on(self) -> dict[str, Any]:
        config = self.config
        return {
            "rows": self._split.fingerprint(),
            "prompts": questions_fingerprint(self._asked),
            "max_length": config.data.max_length,
            "truncation": config.data.truncation,
            "train_on": config.data.train_on,
            "max_new_tokens": config.eval.max_new_tokens,
            "temperature": self.task.temperature,
            "seed": config.seed if self.task.temperature else None,
            "reward_model": None if self._judged_by is None else _reward_hashes(str(self._judged_by)),
        }

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> int:
        for line in lines:
            if "nll" in line:
                self._losses[line["row"]] = RowLoss(line["nll"], line["learned_tokens"], line.get("nll_rejected"))
            if "prediction" in line:
                kept = {key: line[key] for key in ("row", "prediction", "tokens", "stopped", "reward") if key in line}
                self._answers[line["row"]] = kept
        return len(self._losses) + len(self._answers)

    def _check_references(self) -> None:
        """:raises DataError: a metric that was asked for compares with references, and there is none."""
        if self.config.eval.metrics is None or not self._asked:
            return
        names = [metric.name for metric in self._metrics if metric.needs_references]
        if names and all(question.reference is None for question in self._asked):
            raise DataError(
                f"{self._asked[0].row.where}: no row has a reference, and eval.metrics={','.join(names)} compares with "
                "it. Name the column that has them (data.columns), or leave the metric out."
            )

    # --- what is measured --------------------------------------------------------------------------------------------

    def _chosen_metrics(self) -> list[AnyMetric]:
        """``eval.metrics``, or all that apply and whose packages are there.

        :raises ConfigError: names that are none. :raises NotReadyError: a package that was asked for is missing.
        """
        names = self.config.eval.metrics
        if names is not None:
            if lacking := missing_packages(names):
                raise NotReadyError("\n".join(lacking))
            return resolve(names)
        lacking = [metric.name for metric in METRICS.values() if metric.lacking]
        if lacking and self.task.generate and self.tokens.template is not None:
            self.remarks.append(f"{', '.join(lacking)} are not measured: their packages are missing, {_PACKAGES}")
        return [metric for metric in METRICS.values() if not metric.lacking]

    def work(self, files: EvaluationDir) -> None:
        self._measure_losses(files)
        self._answer(files)

    def _measure_losses(self, files: EvaluationDir) -> None:
        left = [row for row in self._scored if row.row.number not in self._losses]
        if not left:
            return
        budget = self.config.eval.batch_size * self.config.data.max_length
        what = f"{self.subject.label}: losses of {self._split.name} rows"
        with self.subject.progress(what, len(left), "rows") as bar:
            for done in row_losses(self.loaded, left, budget):
                of_rows = {left[place].row.number: loss for place, loss in done.items()}
                files.add([{"row": number, **_loss_line(loss)} for number, loss in of_rows.items()])
                self._losses |= of_rows
                bar.advance(len(done))

    def _answer(self, files: EvaluationDir) -> None:
        left = [question for question in self._asked if question.row.number not in self._answers]
        if not left:
            return
        policy = self.loaded
        what = f"{self.subject.label}: answering {self._split.name} prompts"
        with self.subject.progress(what, len(left), "prompts") as bar, policy.autocast():
            for batch, found in self._batches(policy, left):
                lines = [_answer_line(left[i], ids, policy) for i, ids in zip(batch, found)]
                if self._judge is not None:
                    rewards = self._judge([left[i].ids for i in batch], found)
                    lines = [{**line, "reward": reward} for line, reward in zip(lines, rewards)]
                files.add(lines)
                self._answers |= {line["row"]: line for line in lines}
                bar.advance(len(batch))

    @cached_property
    def _judge(self) -> Judge | None:
        if self._judged_by is None:
            return None
        return load_judge(
            self.config, str(self._judged_by), f"task.reward_model={self._judged_by}", self.tokens.tokenizer
        )

    def _batches(self, policy: TrainedPolicy, asked: Sequence[Question]) -> Any:
        from ftlab.measure.generate import answer_batches
        from ftlab.measure.sample import answer_seeds, sample_batches

        settings = self.config.eval
        how: dict[str, Any] = {
            "stop": policy.stop, "pad": policy.tokenizer.pad_token_id, "max_new_tokens": settings.max_new_tokens,
            "batch_size": settings.batch_size,
        }  # fmt: skip
        prompts = [question.ids for question in asked]
        references = policy.tokenizer([question.reference or "" for question in asked], add_special_tokens=False)
        how["expected"] = [len(ids) for ids in references["input_ids"]]
        if not self.task.temperature:
            return answer_batches(policy.model, prompts, **how)
        # An answer's random numbers follow from its row, so that those that are written later are the same.
        seeds = np.concatenate([answer_seeds([self.config.seed, question.row.number], 1) for question in asked])
        return sample_batches(policy.model, prompts, seeds, temperature=self.task.temperature, **how)

    # --- what follows from it ----------------------------------------------------------------------------------------

    def measured(self) -> list[Measured]:
        found = [*self._loss_scores(), *self._preference_scores()]
        if not self._asked:
            return found
        texts, rows = self._texts(), [question.row.number for question in self._asked]
        if self._judged_by is not None:
            rewards = weighted([self._answers[row]["reward"] for row in rows])
            found.append(Measured(scored("reward_model_score", rewards, mean, self.config.seed), rows))
        for metric in self._metrics:
            if not self._applies(metric, texts):
                continue
            try:
                found += [Measured(score, rows) for score in metric.score(texts, self.config.seed)]
            except MetricError as error:
                self.failures[metric.name] = str(error)
        return found

    def _texts(self) -> Answers:
        asked = self._asked
        lines = [self._answers[question.row.number] for question in asked]
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
        if metric.name != "numeric_answer" or self.config.eval.metrics is not None:
            return True
        return all(reference is None or last_number(reference) is not None for reference in texts.references)

    def _loss_scores(self) -> list[Measured]:
        losses = self._losses
        if not losses:
            return []
        rows = [row.row.number for row in self._scored]
        numbers_RK = np.array([(losses[row].nll, losses[row].tokens) for row in rows], dtype=np.float64)
        seed = self.config.seed
        return [
            Measured(scored("loss", numbers_RK, mean, seed), rows),
            Measured(scored("perplexity", numbers_RK, _perplexities, seed), rows),
        ]

    def _preference_scores(self) -> list[Measured]:
        rows = [row.row.number for row in self._scored if row.is_pair]
        if not rows:
            return []
        hits = weighted([float(bool(self._losses[row].prefers_chosen)) for row in rows])
        return [Measured(scored("preference_accuracy", hits, mean, self.config.seed), rows)]

    # --- what is written ---------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        return {
            "data": self._split.sources,
            "split": self._split.name,
            "rows": len(self._split.rows),
            "answers": len(self._asked),
            "left_out": self._left_out,
            "eval": {
                "max_new_tokens": self.config.eval.max_new_tokens,
                "temperature": self.task.temperature,
                "metrics": self.config.eval.metrics,
            },
        }

    def lines(self, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
        """What was asked, wanted and answered, and how that was judged."""
        asked = {question.row.number: question for question in self._asked}
        judged: dict[int, dict[str, float]] = {}
        for name, one in measured.items():
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
                line |= {"prompt": question.messages, "reference": question.reference, **self._answers[row.number]}
            if (loss := self._losses.get(row.number)) is not None:
                line |= _loss_line(loss)
            if row.number in judged:
                line["scores"] = judged[row.number]
            lines.append(line)
        return lines


def _reward_hashes(run: str) -> dict[str, str]:
    folder = find_reward_model(run, None)
    return {} if folder is None else weight_hashes(folder)


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
