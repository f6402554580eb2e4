"""Every key that may change between two starts of a run, changed: the weights stay, and the end is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ftlab.rundir.identity import identity
from tests.runs import FAST, final_hash, interrupted_run, make_run, resume_run, train_run

# Two values of each, for one start and for the other.
CHANGES: dict[str, tuple[Any, Any]] = {
    "data.cache": ("null", "CACHE"),
    "data.workers": (1, 2),
    "eval.batch_size": (3, 8),
    "eval.generate_every": ("null", 3),
    "eval.golden_rows": (0, 3),
    "eval.max_new_tokens": (2, 4),
    "eval.metrics": ("[]", "[token_f1]"),
    "eval.samples": (0, 2),
    "eval.steps": (3, 4),
    "hardware.compute_capability": ("null", 9.0),
    "hardware.devices": ("auto", 1),
    "hardware.fits_by": ("[]", "[train.optimizer]"),
    "hardware.hang_minutes": (30, "null"),
    "hardware.host_memory_gb": ("null", 16),
    "hardware.memory_gb": ("null", 16),
    "hardware.name": ("cpu", "auto"),
    "run.if_exists": ("refuse", "resume"),
    "tracker.also": ("[]", "[tensorboard]"),
    "tracker.name": ("none", "tensorboard"),
    "tracker.project": ("one", "other"),
    "train.logging_steps": (1, 2),
    "train.loss_spike": ("null", 50),
    "train.on_oom": ("halve", "stop"),
    "train.save_steps": (2, 3),
    "train.save_total_limit": ("null", 2),
}
NOT_CHANGED = {
    "task.name": "another task starts no training",
    "task.words": "training has none",
    "run.name": "another run directory",
    "run.dir": "another run directory",
    "run.phases": "names of a curriculum: tests/engine/test_curriculum.py",
    "run.checkpoint": "changes where the run goes on: tests/engine/test_run_directory.py",
    "sweep.name": "a single run has none",
    "sweep.objective": "a single run is compared with none",
    "sweep.direction": "a single run is compared with none",
    "hardware.nodes": "other processes, which a launcher starts",
    "train.activation_offload": "needs a GPU to do anything: tests/stages/test_checkpointing.py",
}


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_key_that_may_change_is_changed_here_or_has_a_reason():
    run = make_run()
    operational = {*flat(run.model_dump(mode="json"))} - {key for key, _ in identity(run)}
    assert operational == {*CHANGES} | {*NOT_CHANGED}


@pytest.fixture
def given(tmp_path) -> tuple[str, ...]:
    """A run that takes long enough to be stopped, on few rows."""
    rows = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(40)]
    for name, of in (("train", rows), ("validation", rows[:4]), ("golden", rows[:4])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))
    files = [f"data.split.{name}={tmp_path}/{name}.jsonl" for name in ("validation", "golden")]
    of_steps = ("train.max_steps=16", "train.micro_batch_size=1", "data.max_length=64", "lora.dropout=0.1")
    return (*FAST, *of_steps, f"data.path={tmp_path}/train.jsonl", "data.format=alpaca", *files)


@pytest.mark.matrix
def test_any_of_them_may_change_between_two_starts(given, tmp_path, capsys):
    """A measure that only one side has is shown with a dash."""
    starts: list[list[str]] = []
    for index in (0, 1):
        values = {key: str(pair[index]).replace("CACHE", str(tmp_path / "cache")) for key, pair in CHANGES.items()}
        starts.append([f"{key}={value}" for key, value in values.items() if key != "run.if_exists"])
    one, other = starts
    whole = final_hash(train_run(tmp_path / "whole", *given, *one, "run.if_exists=refuse"))

    interrupted_run(tmp_path / "up", 6, *given, *one, "run.if_exists=refuse")
    capsys.readouterr()
    up = train_run(tmp_path / "up", *given, *other, "run.if_exists=resume")
    said = " ".join(capsys.readouterr().out.split())
    assert final_hash(up) == whole
    result = up.manifest()["phases"]["sft"]
    assert "golden exact match" not in result["before"] and result["after"]["golden prompts"] == 3
    shown = f"golden exact match (3 prompts) │ - │ {result['after']['golden exact match']:.3f} │"
    assert shown in said
    answers = json.loads(up.samples_file("sft", "after").read_text())["samples"]
    assert len(answers) == 2 and answers[0]["prompt"].split()[0] in said
    resume_run(up.path)
    assert shown in " ".join(capsys.readouterr().out.split()), "it is told again"

    interrupted_run(tmp_path / "down", 6, *given, *other)
    capsys.readouterr()
    down = train_run(tmp_path / "down", *given, *one, "run.if_exists=resume")
    said = " ".join(capsys.readouterr().out.split())
    assert final_hash(down) == whole
    result = down.manifest()["phases"]["sft"]
    assert "golden exact match" not in result["after"]
    assert f"golden exact match (3 prompts) │ {result['before']['golden exact match']:.3f} │ - │" in said


def test_other_numbers_of_prompts_are_told(given, tmp_path, capsys):
    interrupted_run(tmp_path / "r", 6, *given, "tracker=none", "eval.golden_rows=2")
    train_run(tmp_path / "r", *given, "tracker=none", "eval.golden_rows=3")
    assert "golden exact match (2 prompts before, 3 after)" in " ".join(capsys.readouterr().out.split())
