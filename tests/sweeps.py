"""Sweeps and runs as they lie on the disk, written without training anything."""

from __future__ import annotations

import json
from pathlib import Path

from ftlab.rundir.sweep import JobRecord, Journal, SweepDir

# Rewards of runs that end in all ways.
ENDS = """
import os, sys
def good(completions, **_):
    return [len(one) / 10 for one in completions]
def leaves(completions, **_):
    sys.exit(3)
def raises(completions, **_):
    raise KeyError("no such answer")
def killed(completions, **_):
    os.kill(os.getpid(), 9)
"""


def sweep_of(folder: Path, jobs: list[tuple[str, ...]]) -> SweepDir:
    """A sweep of which no job has begun."""
    sweep = SweepDir(folder)
    sweep.write(Journal(overrides=(), flags=(), folder=str(folder.parent), jobs=tuple(jobs)))
    return sweep


def begin(sweep: SweepDir, number: int, error: str | None = None) -> Path:
    """Write down that a job has begun. Returns where its run directory will be."""
    overrides = (sweep.jobs() or ())[number]
    sweep.record(JobRecord(number=number, overrides=overrides, directory=str(number), error=error))
    return sweep.path / str(number)


def write_run(folder: Path, status: str, max_steps: int | None = 20, epochs: float = 1.0, **after: float) -> Path:
    """A run directory with what commands on runs read of it. :param after: measures of its phase, if that is done."""
    folder.mkdir(parents=True)
    config: dict = {group: {"name": "tiny"} for group in ("model", "method", "quant", "stage")}
    config |= {"train": {"max_steps": max_steps, "epochs": epochs, "learning_rate": 5e-4}, "lora": {"r": 16}}
    (folder / "run.yaml").write_text(
        json.dumps({"overrides": [], "phases": [{"name": "sft", "config": config, "start": "continue"}]})
    )
    named = {name.replace("_", " "): value for name, value in after.items()}
    result = {"steps": 20, "tokens": 200, "before": {}, "after": named, "sha256": {}}
    manifest = {"status": status, "phases": {"sft": result} if after else {}, "seconds": 60.0 if after else None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def record(folder: Path, /, **values: object) -> None:
    """Add to a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def log(folder: Path, *lines: dict) -> None:
    """Add to ``metrics.jsonl``."""
    with (folder / "metrics.jsonl").open("a") as file:
        for line in lines:
            file.write(json.dumps({"phase": "sft", "time": 1000.0, **line}) + "\n")


def answer(folder: Path, when: str, *samples: tuple[str, str | None, str]) -> None:
    """Write answers. :param samples: prompt, expected, answer."""
    (folder / "samples").mkdir(exist_ok=True)
    written = [dict(zip(("prompt", "expected", "answer"), one)) for one in samples]
    (folder / "samples" / f"sft-{when}.json").write_text(json.dumps({"values": {}, "samples": written}))
