"""Memory that runs out in one of several processes: all of them go on in smaller micro-batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from tests.distributed.test_ranks import BASE, check_equal, start, train  # noqa: F401
from tests.runs import logged

LAUNCH = """
import sys, time
from pathlib import Path
from ftlab.engine.launch import launch
from ftlab.rundir.claim import hold
from ftlab.rundir.directory import RunDir

run_dir = RunDir.open(Path(sys.argv[1]))
with hold(run_dir):
    launch(run_dir, None, time.monotonic(), "tests.distributed.little_memory")
"""
# The third step is the last of an epoch: eleven rows, of which the second process has four and a filler.
WORDS = (
    *BASE, "hardware.devices=2", "data.num_samples=43", "data.packing=false", "train.max_steps=5",
    "train.micro_batch_size=4", "train.gradient_accumulation_steps=2", "train.save_steps=2", "model.attention=sdpa",
)  # fmt: skip


def prepared(source: Path, folder: Path) -> Path:
    """The directory of the same run, without anything that it did."""
    folder.mkdir()
    (folder / "run.yaml").write_text((source / "run.yaml").read_text())
    return folder


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["sft", "kto"])
def test_all_halve_at_the_step_in_which_one_runs_out_of_memory(tmp_path, start, train, stage):  # noqa: F811
    words = [*WORDS, *(["stage=kto", "data=labels"] if stage == "kto" else [])]
    train(*words, "run.name=whole")
    whole = tmp_path / "outputs/whole"
    folder = prepared(whole, tmp_path / "outputs/halved")
    (tmp_path / "launch.py").write_text(LAUNCH)
    process = start("outputs/halved", module="launch")
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, ""), out + err
    told = "out of memory in step 3 on rank 1: micro_batch_size 4 -> 2, accumulation 2 -> 4 from there on"
    assert told in " ".join(out.split())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished" and len(manifest["starts"]) == 1
    assert manifest["batch_sizes"] == {stage: [{"step": 3, "micro_batch_size": 2}]}
    check_equal(whole, folder, 1e-5)
    # Whoever goes on knows it, and comes to the same.
    again = prepared(whole, tmp_path / "outputs/again")
    (again / "manifest.json").write_text(json.dumps({"batch_sizes": manifest["batch_sizes"], "status": "stopped"}))
    train("resume", "outputs/again")
    assert logged(RunDir.open(again)) == logged(RunDir.open(folder))
