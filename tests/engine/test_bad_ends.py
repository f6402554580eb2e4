"""Jobs of a sweep that raise, call sys.exit, or are killed with their process: the others' results are there."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import SweepDir
from tests.runs import BARE, final_hash, logged, train_run
from tests.sweeps import ENDS

SHORT = (
    *BARE, "train.max_steps=4", "train.logging_steps=1", "data.max_samples=24", "hardware=cpu", "stage=grpo",
    "stage.num_generations=2", "stage.max_new_tokens=4", "train.micro_batch_size=2",
)  # fmt: skip
WAYS = {
    "basic": (),
    "shards": ("hydra/launcher=shards",),
    "optuna": ("hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "sweep.objective=loss"),
    "optuna in turns": (
        "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "sweep.objective=loss", "hydra/launcher=shards",
        "hydra.sweeper.n_jobs=2",
    ),
}  # fmt: skip


def named(folder: Path) -> dict[str, int]:
    """The number of the job of each reward."""
    records = SweepDir(folder).records().values()
    return {name: job.number for name in ("good", "leaves", "raises", "killed") for job in records
            if f"rewards.py:{name}]" in " ".join(job.overrides).replace(chr(92), "")}  # fmt: skip


@pytest.mark.kill
@pytest.mark.parametrize("way", WAYS)
def test_a_config_that_kills_its_process_has_one_of_its_own_where_it_is_asked_for(way, ftlab, tmp_path, monkeypatch):
    """Where the configs share a process it ends with it, again and again, and it is told what to do."""
    (tmp_path / "rewards.py").write_text(ENDS)
    rewards = ",".join(f"[rewards.py:{name}]" for name in ("raises", "leaves", "killed", "good"))
    given = ("-m", f"stage.rewards={rewards}", *SHORT, "hydra.sweep.dir=sweep")
    for _ in range(2):
        done = ftlab(*given, *WAYS[way], timeout=400)
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    number = named(tmp_path / "sweep")["killed"] + 1
    told = next(line for line in done.stdout.splitlines() if line.startswith("The process was killed while job"))
    assert f" {number}" in told and "add hydra/launcher=gpus: each has one of its own then" in told

    own = ("hydra/launcher=gpus", "hydra.launcher.devices=2")
    done = ftlab(*given, *(word for word in WAYS[way] if not word.startswith("hydra/launcher")), *own, timeout=400)
    assert done.returncode == 1, done.stdout + done.stderr
    folder = SweepDir(tmp_path / "sweep")
    records, numbers = folder.records(), named(folder.path)
    assert len(records) == len(numbers) == 4, done.stdout + done.stderr
    errors = {name: records[number].error for name, number in numbers.items()}
    assert errors["good"] is None and "no such answer" in errors["raises"]
    assert errors["killed"] == "its process was killed by SIGKILL" and "SystemExit: 3" in errors["leaves"]
    monkeypatch.chdir(tmp_path)
    alone = train_run(tmp_path / "alone", *SHORT, "stage.rewards=[rewards.py:good]")
    good = RunDir.open(folder.run_dir(records[numbers["good"]]))
    assert logged(good) == logged(alone) and final_hash(good) == final_hash(alone)


@pytest.mark.matrix
def test_one_after_the_other_a_job_that_raises_and_one_that_exits_are_two_failures(ftlab, tmp_path):
    (tmp_path / "rewards.py").write_text(ENDS)
    rewards = ",".join(f"[rewards.py:{name}]" for name in ("raises", "leaves", "good"))
    done = ftlab("-m", f"stage.rewards={rewards}", *SHORT, "hydra.sweep.dir=sweep", timeout=400)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [job.error for job in SweepDir(tmp_path / "sweep").records().values()]
    assert "no such answer" in errors[0] and "SystemExit: 3" in errors[1] and errors[2] is None
    assert RunDir.open(tmp_path / "sweep" / "2").manifest()["status"] == "finished"
