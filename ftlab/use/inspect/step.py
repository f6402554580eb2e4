"""Of a run: its data, and the rows that one of its optimizer steps trained on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.data.packing.split_builder import Part
from ftlab.data.packing.store import PackedRows, Rows, Sample
from ftlab.data.prompts import prompt_rows
from ftlab.data.row_origins import unit_locations
from ftlab.data.sources.paths import special_kind
from ftlab.data.sources.resolve import Source, file_changes
from ftlab.errors import ConfigError, Mistake, RunDirError, nearest
from ftlab.model.remote_code import untrusted
from ftlab.policy import lineage
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import Phase, Plan
from ftlab.schema import InspectTask, Run
from ftlab.stages import order
from ftlab.use.inspect.show import SampleView, show_sample, visible

_PAIRS = ("rm", "dpo", "orpo")
_PROMPTS = ("ppo", "grpo")
_JOINED = 3  # texts named of a row that is one piece of many


@dataclass(frozen=True)
class StartedPhase:
    """A phase of a run that has come to its data. :param config: with the model that the phase starts from."""

    run_dir: RunDir
    phase: Phase
    config: Run

    def check_data(self, sources: Sequence[Source]) -> None:
        """:raises RunDirError: files are not what the run read."""
        for change in file_changes(sources, self.run_dir.data_files(self.phase.name)):
            raise RunDirError(f"{change} since {self.run_dir.path} began: its rows are no longer there.")


def find_run(run: Run, overrides: Sequence[str]) -> RunDir | None:
    """Return the run at ``run.dir``; None where none is named.

    :raises ConfigError: keys that only a run has, without one; config keys beside a run. :raises RunDirError: it is no
        run.
    """
    task = run.task
    assert isinstance(task, InspectTask)
    if run.run.dir is None:
        given = [(key, getattr(task, key)) for key in ("step", "phase") if getattr(task, key) is not None]
        mistakes = [
            Mistake(f"task.{key}", f"is of a run: ftlab inspect RUN {key}={value}", value) for key, value in given
        ]
        if mistakes:
            raise ConfigError(mistakes)
        return None
    path = Path(run.run.dir).expanduser()
    if path.is_file():
        typed = shlex.quote(f"data.path={run.run.dir}")
        raise RunDirError(
            f"{run.run.dir} is a file, not a run. Its rows: ftlab inspect {typed} data.format=FORMAT; which format "
            f"that is: ftlab init {shlex.quote(run.run.dir)}"
        )
    if path.exists() and not path.is_dir():
        raise RunDirError(f"{run.run.dir} is {special_kind(path)}, not a run. Write its rows into a file first.")
    ignored = [o for o in overrides if not o.startswith(("task=", "task.", "run.dir=", "-"))]
    if ignored:
        reason = "beside a run everything comes from its own run.yaml; without one, ftlab inspect takes any key"
        raise ConfigError([Mistake(override, reason) for override in ignored])
    if task.step is not None and task.split != "train":
        raise ConfigError([Mistake("task.split", "a step trains on the rows of train", task.split)])
    return RunDir.open(path)


def find_started_phase(run_dir: RunDir, task: InspectTask) -> StartedPhase:
    """Return the phase of a run that is asked for.

    :raises ConfigError: there is no such phase. :raises RunDirError: it has not begun.
    """
    plan = run_dir.plan()
    phase = _phase(plan, task.phase, run_dir)
    if not run_dir.ledger(phase.name).is_file():
        raise RunDirError(f"Phase {phase.name} of {run_dir.path} has not begun: there is nothing to look at.")
    return StartedPhase(run_dir, phase, untrusted(lineage.starting_config(run_dir, plan, phase)))


def _phase(plan: Plan, name: str | None, run_dir: RunDir) -> Phase:
    names = [phase.name for phase in plan.phases]
    if name is None and len(names) == 1:
        return plan.phases[0]
    if name not in names:
        reason = "must say which phase" if name is None else "no such phase"
        known = f"{reason}. {run_dir.path} has: {', '.join(names)}."
        raise ConfigError([Mistake("task.phase", known, name, nearest(name or "", names))])
    return plan.phases[names.index(name)]


def step_report(
    started: StartedPhase, task: InspectTask, parts: Sequence[Part], train: PackedRows, tokenizer: Any
) -> tuple[list[tuple[str, str]], list[SampleView]]:
    """Return the facts of an optimizer step, and its samples. :param parts: of the train split. :param train: its rows.

    :raises ConfigError: the phase has no such step.
    """
    config = started.config
    assert task.step is not None
    prompts = prompt_rows(parts, train) if config.stage.name in _PROMPTS else None
    found = order.step_order(config, len(train if prompts is None else prompts))
    done = started.run_dir.manifest().get("phases", {}).get(started.phase.name)
    steps = done["steps"] if done else found.steps
    if task.step > steps:
        reason = f"phase {started.phase.name} of {started.run_dir.path} has {steps} steps"
        raise ConfigError([Mistake("task.step", reason, task.step)])
    micros = found.rows(task.step)
    epoch = (task.step - 1) // found.steps_per_epoch + 1
    count = sum(map(len, micros))
    what = ("prompt" if prompts is not None else "packed row") + "s" * (count != 1)
    batches = f"{len(micros)} micro-batch{'es' * (len(micros) != 1)}"
    said = [
        ("run", f"{started.run_dir.path}, phase {started.phase.name}"),
        ("step", f"{task.step:,} of {steps:,}, in epoch {epoch}: {count} {what} in {batches}"),
    ]
    if prompts is not None:
        shown = [
            show_sample(
                [_place(micros, m, i), prompts[row].where, _answer(prompts[row].answer)],
                Sample(np.array(prompts[row].ids, np.int32), np.zeros(len(prompts[row].ids), bool)), tokenizer,
                task.full,
            )
            for m, micro in enumerate(micros) for i, row in enumerate(micro)
        ]  # fmt: skip
        return said, shown
    rows = _as_trained(config, train)
    where = unit_locations(parts, rows, {int(unit) for micro in micros for row in micro for unit in rows.units(row)})
    named = _SampleNames(config, train, where)
    return said, [
        show_sample([_place(micros, m, i), *name], sample, tokenizer, task.full)
        for m, micro in enumerate(micros)
        for i, row in enumerate(micro)
        for name, sample in named.samples(rows, row)
    ]


def _as_trained(config: Run, train: PackedRows) -> Rows:
    if config.stage.name != "kto":
        return train
    from ftlab.stages.kto import WithMismatched

    return WithMismatched(train, config.seed, config.data.max_length)


def _place(micros: Sequence[Sequence[int]], micro: int, row: int) -> str:
    """Where in its step a row is."""
    return f"micro-batch {micro + 1} of {len(micros)}, row {row + 1} of {len(micros[micro])}"


def _answer(answer: str | None) -> str:
    return f"prompt; answer: {visible(answer)}" if answer is not None else "prompt; no answer"


@dataclass(frozen=True)
class _SampleNames:
    """The samples of packed rows, in their order, with what a user calls each. :param where: of each unit."""

    config: Run
    train: PackedRows
    where: dict[int, str]

    def samples(self, rows: Rows, index: int) -> Iterator[tuple[list[str], Sample]]:
        row, units = rows[index], [self.where[unit] for unit in rows.units(index).tolist()]
        views = self.train.view_indices(index).tolist()
        stage = self.config.stage.name
        for i, sample in enumerate(row.samples):
            if stage == "kto":
                own, other = units[i // 2], units[len(units) // 2 + i // 2]
                label = "good" if row.columns["label"][i] else "bad"
                name = [own, f"label: {label}"] if i % 2 == 0 else [own, f"for the KL with the answer of {other}"]
            elif len(row.samples) < len(views):  # one piece of several texts
                texts = list(dict.fromkeys(units))
                more = f" and {len(texts) - _JOINED} more" if len(texts) > _JOINED else ""
                name = [f"{', '.join(texts[:_JOINED])}{more}"]
            elif stage in _PAIRS:
                name = [units[i], ("chosen", "rejected")[i % 2]]
            else:
                start = self.train.start(views[i]) if stage == "pt" else 0
                name = [units[i], f"from its token {start + 1:,}" if start else ""]
            yield name, sample
