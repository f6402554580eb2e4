"""``python -m ftlab``: the model learns, measurably and honestly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from tests.runs import train_run


def main_job(folder: Path, *overrides: str) -> dict[str, dict[str, float]]:
    """The command as a newcomer types it, in an empty folder; what it measured before and after."""
    command = [sys.executable, "-m", "ftlab", *overrides, f"run.dir={folder}"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "golden exact match (200 prompts)" in done.stdout
    result = RunDir.open(folder).manifest()["phases"]["sft"]
    return {"before": result["before"], "after": result["after"]}


def test_a_quarter_of_the_main_job_teaches_the_tiny_model_much_of_it(tmp_path):
    run = train_run(tmp_path / "r", "train.epochs=1", "eval.golden_rows=60", "eval.samples=0", "tracker=none")
    result = run.manifest()["phases"]["sft"]
    assert result["before"]["golden exact match"] <= 0.08
    assert result["after"]["golden exact match"] >= 0.2
    assert result["after"]["validation loss"] < 0.5 * result["before"]["validation loss"]


@pytest.mark.slow
def test_the_main_job_teaches_the_tiny_model_its_instructions(tmp_path):
    found = main_job(tmp_path / "r")
    assert found["before"]["golden exact match"] <= 0.08
    assert found["after"]["golden exact match"] >= 0.7
    assert found["after"]["validation loss"] < 0.5 * found["before"]["validation loss"]


@pytest.mark.slow
def test_three_seeds_reach_four_fifths_on_average(tmp_path):
    matches = [main_job(tmp_path / seed, f"seed={seed}")["after"]["golden exact match"] for seed in "123"]
    assert sum(matches) / 3 >= 0.8


@pytest.mark.slow
def test_qlora_teaches_it_too(tmp_path):
    found = main_job(tmp_path / "r", "method=qlora")
    assert found["after"]["golden exact match"] >= 0.7
