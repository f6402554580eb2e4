"""Small real runs for tests."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
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

# Without answers before and after: for what is only trained.
BARE = ("eval.golden_rows=0", "eval.samples=0", "tracker=none", "data.split.golden=none", "data.split.validation=none")
FAST = ("eval.golden_rows=4", "eval.samples=2", "eval.max_new_tokens=8", "train.logging_steps=1", "train.max_steps=6")


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


def interrupted_run(folder: Path, step: int, *overrides: str) -> RunDir:
    """Train in ``folder`` until Ctrl-C, which comes once a loss of that step, or of one of the next, is logged last."""
    run_dir, is_over = RunDir(folder), threading.Event()

    def press() -> None:
        while not is_over.wait(0.003):
            last = run_dir.last_logged() or {}
            if "loss" in last and step <= last["step"] <= step + 3:
                os.kill(os.getpid(), signal.SIGINT)
                return

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of one that comes too late
    presses = threading.Thread(target=press)
    presses.start()
    try:
        with pytest.raises(Interrupted):
            train_run(folder, *overrides)
    finally:
        is_over.set()
        presses.join()
        signal.signal(signal.SIGINT, before)
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
    return [{key: value for key, value in line.items() if key not in TIMES} for line in run_dir.logged()]


def final_hash(run_dir: RunDir) -> str:
    name = (
        "adapter_model.safetensors" if (run_dir.final / "adapter_model.safetensors").is_file() else "model.safetensors"
    )
    return sha256(run_dir.final / name)
