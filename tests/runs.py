"""Small real runs for tests."""

from __future__ import annotations

import functools
import json
import signal
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.tasks import resume, train
from ftlab.errors import Interrupted
from ftlab.rundir.claim import claim
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.names import TIMES
from ftlab.rundir.plan import Plan
from ftlab.schema import Run
from tests.conftest import ROOT

# Without answers before and after: for what is only trained.
BARE = ("eval.golden_rows=0", "eval.samples=0", "tracker=none", "data.split.golden=none", "data.split.validation=none")
FAST = ("eval.golden_rows=4", "eval.samples=2", "eval.max_new_tokens=8", "train.logging_steps=1", "train.max_steps=6")


def held_out(folder: Path, name: str, count: int = 8) -> str:
    """A validation split of a few rows of an embedded data set: evaluating all of them is most of a small run."""
    path = folder / "held_out" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = (ROOT / "dataset" / name / "validation.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(rows[:count]), encoding="utf-8")
    return f"data.split.validation={path}"


_FOLDER = tempfile.TemporaryDirectory(prefix="held_out-")  # to the end of the process
FEW = held_out(Path(_FOLDER.name), "instructions")


@functools.cache
def make_run(*overrides: str) -> Run:
    """The validated run of a command line, composed once: it cannot be changed."""
    return read(command_line.read(overrides).overrides)


def train_run(folder: Path, *overrides: str, hooks: PhaseHooks | None = None) -> RunDir:
    """Train in ``folder`` and return its run directory. :param hooks: are told of what happens meanwhile."""
    given = (*overrides, f"run.dir={folder}")
    train(make_run(*given), given, hooks)
    return RunDir.open(folder)


def resume_run(folder: Path) -> RunDir:
    given = ("task=resume", f"run.dir={folder}")
    resume(make_run(*given), given)
    return RunDir.open(folder)


def create_run(plan: Plan) -> RunDir:
    """The directory of a run as its start leaves it, without anybody at work in it."""
    with claim(plan) as run_dir:
        return run_dir


class Stop(PhaseHooks):
    """Asks a run to stop, as Ctrl-C does, when so many steps of a phase have been taken."""

    def __init__(self, steps: int):
        self._steps = steps

    def trainer_built(self, phase: Any, trainer: Any) -> None:
        from transformers import TrainerCallback

        interruption, steps = phase.session.interruption, self._steps

        class Request(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == steps:
                    interruption.request(signal.SIGINT)

        trainer.add_callback(Request())


def interrupted_run(folder: Path, step: int, *overrides: str) -> RunDir:
    """Train in ``folder`` until Ctrl-C, which comes after so many steps; the one that is begun then is finished."""
    with pytest.raises(Interrupted):
        train_run(folder, *overrides, hooks=Stop(step))
    return RunDir.open(folder)


def across(
    rows: Iterable[Any], columns: Iterable[Any], fast: Callable[[Any, Any], bool], ids: Callable[[Any], str] = str
) -> list[Any]:
    """Cases for every pair of ``rows`` and ``columns``; those that are not ``fast`` wait for ``make test-matrix``."""
    columns = list(columns)
    return [
        pytest.param(row, column, id=f"{ids(row)}-{ids(column)}", marks=() if fast(row, column) else pytest.mark.matrix)
        for row in rows
        for column in columns
    ]


def metrics(run_dir: RunDir, key: str) -> list[float]:
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def logged(run_dir: RunDir) -> list[dict]:
    """Every line of ``metrics.jsonl``, times aside."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in run_dir.read_metrics()]


def final_hash(run_dir: RunDir) -> str:
    name = (
        "adapter_model.safetensors" if (run_dir.final / "adapter_model.safetensors").is_file() else "model.safetensors"
    )
    return sha256(run_dir.final / name)
