"""Small real runs for tests."""

from __future__ import annotations

import json
from pathlib import Path

from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.engine.tasks import resume, train
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.names import TIMES
from ftlab.schema import Run

FAST = ("eval.golden_rows=4", "eval.samples=2", "eval.max_new_tokens=8", "train.logging_steps=1", "train.max_steps=6")


def make_run(*overrides: str) -> Run:
    return read(command_line.read(overrides).overrides)


def train_run(folder: Path, *overrides: str) -> RunDir:
    """Train in ``folder`` and return its run directory."""
    given = (*overrides, f"run.dir={folder}")
    train(make_run(*given), given)
    return RunDir.open(folder)


def resume_run(folder: Path) -> RunDir:
    given = ("task=resume", f"run.dir={folder}")
    resume(make_run(*given), given)
    return RunDir.open(folder)


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
