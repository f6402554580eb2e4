"""Runs as their directories tell of them: for commands that look at many of them, or at two."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from ftlab.errors import RunDirError
from ftlab.rundir import records
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import read_yaml
from ftlab.rundir.names import OF_GOLDEN
from ftlab.rundir.records import LineRecord, ManifestRecord

GOLDEN = "golden exact match"
# Beside it: how many prompts were answered, and how many of them have an answer to compare with. They are no measures.
PROMPTS, ANSWERS = GOLDEN_COUNTS = ("golden prompts", "golden answers")
VALIDATION = "validation "  # begins the name of every measure on that split
EVALUATED = "eval_"  # begins it in metrics.jsonl
# What a stage is about: the first of these that it measures.
MAIN = ("accuracy", "preference_accuracy", "reward", "loss")


def prompts_asked(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """How many golden prompts were answered, and how many of them have an answer to compare with."""
    asked = []
    for values in (before, after):
        if PROMPTS in values:
            prompts, answers = values[PROMPTS], values.get(ANSWERS, values[PROMPTS])
            asked.append(f"{prompts:.0f}" if answers == prompts else f"{answers:.0f} of {prompts:.0f}")
    return f" ({asked[0]} prompts before, {asked[1]} after)" if len({*asked}) > 1 else f" ({asked[0]} prompts)"


class _Named(BaseModel):
    name: str


class _Train(BaseModel):
    max_steps: int | None = None
    epochs: float | None = None


class _Config(BaseModel):
    """The part of a run's config that is looked at; the rest may be of any version."""

    train: _Train = _Train()
    model: _Named
    method: _Named
    quant: _Named
    stage: _Named


class _Phase(BaseModel):
    """:param start: stands behind the config, and is not there in a file that was cut off."""

    name: str
    config: _Config
    start: str


class _Plan(BaseModel):
    overrides: tuple[str, ...] = ()
    phases: tuple[_Phase, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Summary:
    """One run.

    :param status: what its manifest says, but ``killed`` where that is ``running`` and no process is at work; ``new``
        where nothing has begun; ``unreadable``.
    :param problem: why it failed or cannot be read. :param done: names of the phases that are, of ``phases``.
    :param before: measures of the last phase that is done. :param after: the same after it.
    :param began: seconds since the epoch. :param overrides: of the command that started it.
    :param lengths: of each phase the optimizer steps that it takes, or was asked for; None where epochs decide.
    :param epochs: of each phase; None where a config does not say.
    """

    path: Path
    status: str
    problem: str | None
    done: tuple[str, ...]
    phases: tuple[str, ...]
    stages: tuple[str, ...]
    model: str
    method: str
    steps: int
    tokens: int | float
    seconds: float | None
    before: dict[str, float]
    after: dict[str, float]
    began: float
    overrides: tuple[str, ...]
    lengths: tuple[int | None, ...]
    epochs: tuple[float | None, ...]

    @property
    def main(self) -> str | None:
        """The measure on the validation split that says most about the stage."""
        return main_measure(self.after)


def main_measure(measures: Collection[str]) -> str | None:
    """Of some measures, the one on the validation split that says most about the stage."""
    return next((VALIDATION + name for name in MAIN if VALIDATION + name in measures), None)


def measure_word(measure: str) -> str:
    """``golden exact match`` as it is typed: ``golden_exact_match``."""
    return measure.lower().replace(" ", "_")


def find_measure(word: str, known: Iterable[str]) -> str | None:
    """Of the ``known`` measures the one that is meant by ``golden_exact_match``, ``validation_loss``, ``eval_loss`` or
    ``loss``; None where it is none of them."""
    by_word = {measure_word(name): name for name in known}
    typed = measure_word(word)
    meant = (typed, measure_word(VALIDATION) + typed.removeprefix("eval_"))
    return next((by_word[name] for name in meant if name in by_word), None)


def find_runs(folder: Path) -> Iterator[Path]:
    """Run directories in and below ``folder``. Links and hidden folders are not followed, nor is a run looked into."""
    for path, folders, files in os.walk(folder):
        if "run.yaml" in files or {"manifest.json", "metrics.jsonl"} <= {*files}:
            folders.clear()
            yield Path(path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def summarize(path: Path) -> Summary:
    """Summarize a run; one that cannot be read gets a summary with the problem."""
    try:
        return _summarize(RunDir.open(path))
    except (RunDirError, OSError) as error:
        nothing: dict[str, Any] = {"done": (), "phases": (), "stages": (), "before": {}, "after": {}}
        return Summary(
            path, "unreadable", " ".join(str(error).split()), **nothing, model="", method="", steps=0, tokens=0,
            seconds=None, began=path.stat().st_mtime if path.exists() else 0.0, overrides=(), lengths=(), epochs=(),
        )  # fmt: skip


def _summarize(run_dir: RunDir) -> Summary:
    values = read_plan(run_dir)
    records.check(_Plan, values, run_dir.run_yaml)
    plan = _Plan.model_validate(values)
    phases = plan.phases
    manifest = ManifestRecord.model_validate(run_dir.manifest())
    status = manifest.status
    if status == "running" and not run_dir.is_locked:
        status = "killed"
    elif status == "new" and run_dir.is_locked:
        status = "running"
    done = tuple(phase.name for phase in phases if phase.name in manifest.phases)
    results = [manifest.phases[name] for name in done]
    steps, tokens = sum(result.steps for result in results), sum(result.tokens for result in results)
    ends = (next(run_dir.read_metrics(), None), run_dir.read_last_metrics())
    first, last = (None if line is None else LineRecord.model_validate(line) for line in ends)
    if last is not None and last.phase not in done:
        steps += last.step
        tokens += last.tokens
    seconds = (manifest.seconds, None if last is None else last.seconds)  # of a killed run only the line has them
    began = first.time if first else run_dir.run_yaml.stat().st_mtime  # of a run of a version that wrote no other
    began = datetime.fromisoformat(manifest.began).timestamp() if manifest.began else began
    config = phases[0].config
    quant = "" if config.quant.name == "none" else f" {config.quant.name}"
    return Summary(
        path=run_dir.path,
        status=status,
        problem=manifest.error,
        done=done,
        phases=tuple(phase.name for phase in phases),
        stages=tuple(phase.config.stage.name for phase in phases),
        model=config.model.name,
        method=config.method.name + quant,
        steps=steps,
        tokens=tokens,
        seconds=max((known for known in seconds if known is not None), default=None),
        before=results[-1].before if results else {},
        after=results[-1].after if results else {},
        began=began,
        overrides=plan.overrides,
        lengths=tuple(
            manifest.phases[phase.name].steps if phase.name in done else phase.config.train.max_steps
            for phase in phases
        ),
        epochs=tuple(phase.config.train.epochs for phase in phases),
    )


def value_of(run: Summary, measure: str) -> float | None:
    """What a finished run has come to. :param measure: as it is logged: ``eval_loss``, ``golden_exact_match``.

    :return: None where the run is not finished, or has not measured it.
    """
    return measured(run, measure) if run.status == "finished" else None


def measured(run: Summary, measure: str) -> float | None:
    """The same of a run as far as it has come."""
    return run.after[label(measure)] if label(measure) in run.after else _last_logged(run.path, measure)


def label(measure: str) -> str:
    """``eval_loss`` as tables and manifests have it: ``validation loss``."""
    if measure.startswith(OF_GOLDEN):
        return measure.replace("_", " ")
    return VALIDATION + measure.removeprefix(EVALUATED) if measure.startswith(EVALUATED) else measure


def _last_logged(path: Path, measure: str) -> float | None:
    try:
        values = [line[measure] for line in RunDir(path).read_metrics() if isinstance(line.get(measure), int | float)]
    except RunDirError:
        return None
    return float(values[-1]) if values else None


def read_plan(run_dir: RunDir) -> dict[str, Any]:
    """``run.yaml`` unchecked, so that runs of other versions can be looked at.

    :raises RunDirError: it is no YAML mapping.
    """
    return read_yaml(run_dir.run_yaml, "Put a copy back.")


def check_readable(run_dir: RunDir) -> None:
    """:raises RunDirError: what every run has is not in ``run.yaml``, or not in the manifest."""
    records.check(_Plan, read_plan(run_dir), run_dir.run_yaml)
    run_dir.manifest()
