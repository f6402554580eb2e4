"""Reward models: what ``stage=rm`` has trained, judged by pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from ftlab.data.packing.store import Sample
from ftlab.errors import ConfigError, DataError, Mistake
from ftlab.measure.intervals import mean
from ftlab.measure.scores import scored, weighted
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.stages.rewards.alone import Judge, load_judge
from ftlab.use.evaluate.kept import KeptEvaluation, Measured, Subject
from ftlab.use.evaluate.rows import Split, scored_rows

_AT_ONCE = 64  # pairs between two writings


class RewardEvaluation(KeptEvaluation):
    """Pairs: whether the chosen answer has the higher score.

    :raises ConfigError: the base is asked, which has no head. :raises DataError: the rows are no pairs.
    """

    def __init__(self, subject: Subject, split: Split):
        super().__init__(subject)
        if subject.is_base:
            reason = "a reward model begins with a head of random numbers; compare it with another run of stage=rm"
            raise ConfigError([Mistake("task.compare", reason, "base")])
        self._split = split
        rows, self._left_out = scored_rows(split, self.tokens, self.config)
        self._pairs = [row for row in rows if row.is_pair]
        if not self._pairs:
            raise DataError(f"{split.rows[0].where}: a reward model is judged by pairs: data.format=preference.")
        self._found: dict[int, tuple[float, float]] = {}

    @property
    def name(self) -> str:
        return f"{self._split.sources}-{self._split.name}"

    def depends_on(self) -> dict[str, Any]:
        data = self.config.data
        return {"rows": self._split.fingerprint(), "max_length": data.max_length, "truncation": data.truncation}

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> int:
        self._found = {line["row"]: (line["score_chosen"], line["score_rejected"]) for line in lines}
        return len(self._found)

    @cached_property
    def _judge(self) -> Judge:
        folder = str(self.subject.policy.weights.folder)
        return load_judge(self.config, folder, f"run.dir={self.subject.run}", self.tokens.tokenizer)

    def work(self, files: EvaluationDir) -> None:
        left = [pair for pair in self._pairs if pair.row.number not in self._found]
        if not left:
            return
        with self.subject.progress(f"{self.subject.label}: scoring pairs", len(left), "pairs") as bar:
            for start in range(0, len(left), _AT_ONCE):
                part = left[start : start + _AT_ONCE]
                texts = [_judged(sample) for pair in part for sample in pair.samples]
                values = self._judge([[]] * len(texts), texts)
                lines: list[dict[str, Any]] = [
                    {"row": pair.row.number, "score_chosen": chosen, "score_rejected": rejected}
                    for pair, chosen, rejected in zip(part, values[0::2], values[1::2])
                ]
                files.add(lines)
                self._found |= {line["row"]: (line["score_chosen"], line["score_rejected"]) for line in lines}
                bar.advance(len(part))

    def measured(self) -> list[Measured]:
        rows = [pair.row.number for pair in self._pairs]
        values = {
            "preference_accuracy": [float(self._found[row][0] > self._found[row][1]) for row in rows],
            "score_margin": [self._found[row][0] - self._found[row][1] for row in rows],
            "score_chosen": [self._found[row][0] for row in rows],
            "score_rejected": [self._found[row][1] for row in rows],
        }
        seed = self.config.seed
        return [Measured(scored(name, weighted(of), mean, seed), rows) for name, of in values.items()]

    def lines(self, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
        return [
            {
                "row": pair.row.number, "where": pair.row.where, "score_chosen": self._found[pair.row.number][0],
                "score_rejected": self._found[pair.row.number][1],
            }
            for pair in self._pairs
        ]  # fmt: skip

    def about(self) -> dict[str, Any]:
        return {
            "data": self._split.sources,
            "split": self._split.name,
            "rows": len(self._split.rows),
            "left_out": self._left_out,
        }


def _judged(sample: Sample) -> list[int]:
    """The text up to the last token that is learned, where ``stage=rm`` learns to score it."""
    end = len(sample.learned) - int(sample.learned[::-1].argmax())
    ids: list[int] = sample.input_ids[:end].tolist()
    return ids
