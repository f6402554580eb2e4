"""An evaluation that keeps what it finds as it comes, and goes on with it: what all kinds of evaluation share."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ftlab import __version__
from ftlab.errors import RunDirError
from ftlab.measure.scores import Score
from ftlab.policy.from_run import Policy, TrainedPolicy
from ftlab.policy.tokens import Tokens
from ftlab.rundir.evaluations import EvaluationDir, choose_folder
from ftlab.rundir.files import weight_hashes
from ftlab.schema import EvaluateTask, Run

Progress = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated, not loaded yet, and how.

    :param run: its directory, as the user typed it. :param is_base: whether it is what the run began with.
    :param out: the folder; None: one of the run's ``evaluations/``.
    :param progress: ``(description, total, unit)`` -> a bar.
    """

    policy: Policy
    run: str
    is_base: bool
    task: EvaluateTask
    out: Path | None
    progress: Progress

    @property
    def label(self) -> str:
        return "base" if self.is_base else self.run


@dataclass(frozen=True)
class Measured:
    """A metric, and the numbers of the rows that its own numbers are of."""

    score: Score
    rows: list[int]


@dataclass
class Evaluation:
    """What was found of a model. :param remarks: sentences on it. :param failures: by metric, why it has no value.
    :param seed: of resamples."""

    folder: Path
    measured: dict[str, Measured]
    remarks: list[str]
    failures: dict[str, str]
    seed: int
    values: dict[str, Any] = field(default_factory=dict)


class KeptEvaluation:
    """A kind of evaluation gives its name, what it depends on, its work, and what follows from that."""

    def __init__(self, subject: Subject):
        self.subject, self.task = subject, subject.task
        self.config: Run = subject.policy.config
        self.tokens: Tokens = subject.policy.tokens()
        self.remarks: list[str] = []
        self.failures: dict[str, str] = {}

    # --- what a kind gives -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What is evaluated, in the name of the folder."""
        raise AssertionError("a kind has a name")

    def depends_on(self) -> dict[str, Any]:
        """What lines depend on, beside the model: where it differs they are of no use."""
        raise AssertionError("a kind says so")

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> int:
        """Take what an earlier evaluation has kept; how many lines that is."""
        raise AssertionError("a kind reads its lines")

    def work(self, files: EvaluationDir) -> None:
        """Find what is missing, and add it to ``files`` as it comes."""
        raise AssertionError("a kind has its work")

    def measured(self) -> list[Measured]:
        """The metrics of what was found; ``failures`` and ``remarks`` get what there is to say."""
        raise AssertionError("a kind has metrics")

    def lines(self, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
        """One for each row, in order."""
        raise AssertionError("a kind has rows")

    def about(self) -> dict[str, Any]:
        """What ``evaluation.json`` tells beside the metrics."""
        raise AssertionError("a kind tells what it is of")

    # --- what they share ---------------------------------------------------------------------------------------------

    @cached_property
    def loaded(self) -> TrainedPolicy:
        """The model, once something has to be asked of it."""
        return self.subject.policy.load(self.tokens)

    def run(self) -> Evaluation:
        """:raises RunDirError: the folder is another process's, or damaged, or holds another evaluation."""
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
            kept = self.restore(files.lines())
            files.begin()
            self.work(files)
            measured = {one.score.name: one for one in self.measured()}
            evaluation = Evaluation(folder, measured, self.remarks, self.failures, self.config.seed)
            seconds = (known.get("seconds", 0.0) if kept else 0.0) + time.monotonic() - began
            evaluation.values = self._values(evaluation, identity, seconds)
            files.finish(self.lines(measured))
            files.write(evaluation.values)
        return evaluation

    def _identity(self) -> dict[str, Any]:
        """What the lines depend on: all else may be computed from them again."""
        config, model = self.config, self.config.model
        return {
            **self.depends_on(),
            "model": {"path": model.path, "revision": model.revision, "init": model.init},
            "weights": None if self.subject.is_base else weight_hashes(self.subject.policy.weights.folder),
            "quant": config.quant.name,
            "precision": config.hardware.precision,
        }

    def _folder(self, identity: Mapping[str, Any]) -> Path:
        if self.subject.out is not None:
            return self.subject.out
        policy = self.subject.policy
        weights, run_dir = policy.weights, policy.run_dir
        parts = [self.name]
        parts += [weights.phase.name] if len(run_dir.plan().phases) > 1 else []
        parts += ["base"] if self.subject.is_base else [f"step-{weights.step}"] if weights.step is not None else []
        return choose_folder(run_dir.path, re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts)), identity)

    def _values(self, evaluation: Evaluation, identity: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        weights = self.subject.policy.weights
        return {
            "status": "finished",
            "run": self.subject.run,
            "model": "base" if self.subject.is_base else weights.folder.name,
            "phase": weights.phase.name,
            "remark": weights.remark,
            **self.about(),
            "metrics": {name: score_values(one.score) for name, one in evaluation.measured.items()},
            "failures": evaluation.failures,
            "seconds": round(seconds, 3),
            "ftlab": __version__,
            "identity": identity,
        }


def score_values(score: Score) -> dict[str, Any]:
    low, high = score.bounds or (None, None)
    return {"value": json_number(score.value), "low": json_number(low), "high": json_number(high), "rows": score.rows}


def json_number(value: float | None) -> Any:
    """Numbers that JSON has no way to write become words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
