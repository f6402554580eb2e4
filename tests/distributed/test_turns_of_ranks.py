"""Configs of several processes in turns with others, and with each other: each is what it is alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ftlab.rundir.directory import RunDir
from tests.runs import final_hash, logged

WORDS = (
    "hardware=cpu", "hardware.precision=fp32", "train.logging_steps=1", "tracker=none", "eval.golden_rows=0",
    "eval.samples=0", "data.num_samples=120", "data.split.validation=none", "data.split.golden=none",
    "train.max_steps=6", "lora.dropout=0.1", "train.save_steps=100",
)  # fmt: skip


@pytest.mark.distributed
@pytest.mark.parametrize("wrapper", ["none", "z2"])
def test_each_is_what_it_is_alone(wrapper, env, tmp_path):
    def ftlab(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ftlab", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)

    words = (*WORDS, f"deepspeed={wrapper}")
    sweep = ftlab("-m", "hardware.devices=1,2", "seed=1,2", *words, "hydra/launcher=shards", "hydra.launcher.shards=2",
                  "hydra.sweep.dir=s")  # fmt: skip
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    launched = 4 if wrapper == "z2" else 2
    assert f"; {launched} in processes of their own, which begin anew with each turn" in sweep.stdout
    assert "job 3 of 4: hardware.devices=2 seed=1: step 3 of 6" in sweep.stdout
    for number, (devices, seed) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)]):
        alone = ftlab(f"hardware.devices={devices}", f"seed={seed}", *words, f"run.dir=alone-{number}")
        assert alone.returncode == 0, alone.stdout + alone.stderr
        ours, theirs = RunDir.open(tmp_path / "s" / str(number)), RunDir.open(tmp_path / f"alone-{number}")
        assert logged(ours) == logged(theirs), number
        assert final_hash(ours) == final_hash(theirs), number
