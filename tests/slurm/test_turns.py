"""On a real Slurm: configs of a sweep that take turns in one job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from ftlab.rundir.submission import SubmissionFiles
from tests.runs import BARE, train_run
from tests.slurm.test_slurm import GRPO, LONG, REWARDS, check_same, requeue, steps, usr2

TURNS = ("hydra.launcher.configs_per_job=2", "hydra.launcher.shards=4")
SWEPT = "hydra.sweep.dir=swept"

pytestmark = pytest.mark.slurm


def runs_of(folder: Path, count: int) -> list[RunDir]:
    return [RunDir(folder / "swept" / str(number)) for number in range(count)]


def job_of(run_dir: RunDir) -> str:
    submission = SubmissionFiles(run_dir.path).read()
    assert submission is not None
    return submission.job


@pytest.mark.parametrize("how", [usr2, requeue])
def test_configs_of_a_preempted_job_end_as_they_end_alone(command, tmp_path, how):
    """The first of two jobs is told to stop when both of its runs have begun."""
    words = (*BARE, "train.max_steps=32", "train.logging_steps=1", "train.save_steps=25", "data.max_samples=200",
             "lora.dropout=0.1")  # fmt: skip
    started = command("-m", *words, "lora.r=4,8", "seed=1,2", *TURNS, SWEPT)
    runs = runs_of(tmp_path, 4)
    started.until(lambda: steps(runs[1].path) >= 3, 300)
    how(started, job_of(runs[0]))
    assert started.end(900) == 0, started.output
    assert "an array of 2, for 4 configs in turns" in started.output
    assert "0 pending, 0 running, 4 done" in started.output
    jobs = [job_of(run) for run in runs]
    assert jobs[0] == jobs[1] != jobs[2] == jobs[3]
    starts = [len(run.manifest()["starts"]) for run in runs]
    assert starts == [2, 2, 1, 1]
    for number, differs in enumerate([("lora.r=4", "seed=1"), ("lora.r=4", "seed=2")]):
        check_same(runs[number], train_run(tmp_path / f"alone-{number}", *words, *differs))
    records = [json.loads((tmp_path / "swept" / f"job-{number}.json").read_text()) for number in range(4)]
    assert [(record["directory"], record["error"]) for record in records] == [(str(n), None) for n in range(4)]
    again = command("-m", *words, "lora.r=4,8", "seed=1,2", *TURNS, SWEPT)
    assert again.end() == 0
    assert again.output.count("finished already") == 4 and "Submitted" not in again.output


def test_a_config_that_fails_is_one_failure_and_one_that_is_killed_takes_its_job_along(command, tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    words = ",".join(f"[rewards.py:{name}]" for name in ("leaves", "good", "is_killed", "good"))
    started = command("-m", *GRPO, f"stage.rewards={words}", *TURNS, SWEPT)
    assert started.end(600) == 1, started.output
    ends = [run.manifest().get("status") for run in runs_of(tmp_path, 4)]
    assert ends[1] == "finished" and ends.count("finished") == 1
    told = " ".join(started.output.split())
    reasons = {number: told.partition(f" job {number} failed: ")[2][:200] for number in (1, 3, 4)}
    assert "SystemExit: 3" in reasons[1]
    for number in (3, 4):
        assert "was killed by SIGKILL" in reasons[number]
    errors = [json.loads((tmp_path / "swept" / f"job-{n}.json").read_text())["error"] for n in range(4)]
    assert [error is None for error in errors] == [False, True, False, False]


def test_a_job_of_several_configs_is_left_seen_and_cancelled(command, tmp_path):
    words = ("-m", *LONG, "train.max_steps=600", "lora.r=4,8", "seed=1,2", *TURNS, SWEPT)
    started = command(*words)
    runs = runs_of(tmp_path, 4)
    started.until(lambda: steps(runs[0].path) >= 2, 300)
    started.interrupt()
    assert started.end() == 130
    assert "No longer waiting; 2 jobs stay in the queue" in started.output
    again = command(*words)
    again.until(lambda: again.output.count("is in the queue already") == 4)
    status = command("slurm", "status", "swept")
    assert status.end() == 0
    assert [status.output.count(job_of(run)) for run in runs] == [2] * 4
    as_json = command("slurm", "status", "swept", "format=json")
    assert as_json.end() == 0
    listed = json.loads(as_json.output)["jobs"]
    assert [one["job"] for one in listed] == [job_of(run) for run in runs]
    assert [Path(one["folder"]).name for one in listed] == [run.path.name for run in runs]
    cancelled = command("slurm", "cancel", "swept")
    assert cancelled.end() == 0
    assert f"Cancelled {job_of(runs[0])} {job_of(runs[2])}." in cancelled.output
    assert again.end() == 1
    assert again.output.count("was cancelled") >= 4
    assert "Submitted" not in again.output
