"""On a real Slurm: runs and sweeps, jobs that end badly, and preempted ones whose weights are those of undisturbed
runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from tests.conftest import ROOT
from tests.runs import BARE, final_hash, logged, train_run

TINY = (*BARE, "train.max_steps=2", "train.logging_steps=1", "data.max_samples=16")
# Half a minute of steps, with a checkpoint now and then, and evaluations that take a while.
LONG = (
    "train.max_steps=60", "train.logging_steps=1", "train.save_steps=25", "eval.steps=20", "eval.golden_rows=0",
    "eval.samples=0", "tracker=none", "data.split.golden=none",
)  # fmt: skip
PHASES = (
    "phases=[{name: read, stage: pt}, {name: instruct, stage: sft}]", *BARE, "train.max_steps=20",
    "train.logging_steps=1", "data.max_samples=80",
)  # fmt: skip


def test_a_run_is_trained_by_a_job(command):
    """A short one, for every machine that can start a Slurm."""
    started = command(*TINY, "run.dir=run")
    assert started.end() == 0, started.output
    assert RunDir.open(started.folder / "run").manifest()["status"] == "finished"
    assert "run: finished" in started.output


@pytest.mark.slurm
def test_a_sweep_has_the_losses_that_it_has_without_a_cluster(command, tmp_path):
    started = command("-m", *TINY, "lora.r=4,8", "train.learning_rate=1e-3,1e-4", "hydra.sweep.dir=swept")
    assert started.end() == 0, started.output
    assert "0 pending, 0 running, 4 done" in started.output
    alone = train_run(tmp_path / "alone", *TINY, "lora.r=8", "train.learning_rate=1e-4")
    assert final_hash(RunDir.open(tmp_path / "swept" / "3")) == final_hash(alone)
    again = command("-m", *TINY, "lora.r=4,8", "train.learning_rate=1e-3,1e-4", "hydra.sweep.dir=swept")
    assert again.end() == 0
    assert again.output.count("finished already") == 4 and "Submitted" not in again.output


@pytest.mark.slurm
def test_a_search_submits_its_proposals_together_and_learns_from_what_they_came_to(command, tmp_path):
    rate = "train.learning_rate=tag(log, interval(1e-5, 1e-2))"
    given = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", *TINY, rate,
             "sweep.objective=loss", "hydra.sweep.dir=swept")  # fmt: skip
    started = command(*given)
    assert started.end(900) == 0, started.output
    assert started.output.count("an array of 2") == 2 and "Best by loss: job " in started.output
    states = [json.loads(line) for line in (tmp_path / "swept" / "study.jsonl").read_text().splitlines()]
    told = [line["values"] for line in states if line["op_code"] == 6]
    losses = [
        [line["loss"] for line in logged(RunDir.open(tmp_path / "swept" / str(n))) if "loss" in line] for n in range(4)
    ]
    assert told == [[loss[-1]] for loss in losses]
    again = command(*given)
    assert again.end() == 0 and "4 of 4 jobs are finished" in again.output and "Submitted" not in again.output


REWARDS = """
import os, signal, sys

def good(completions, **kwargs):
    return [float(len(set(text))) for text in completions]

def raises(completions, **kwargs):
    raise ArithmeticError("no reward today")

def leaves(completions, **kwargs):
    sys.exit(3)

def is_killed(completions, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
"""
GRPO = (
    "stage=grpo", "data=prompts", "train.max_steps=1", "stage.num_generations=2", "stage.max_new_tokens=4",
    "train.micro_batch_size=2", "train.gradient_accumulation_steps=1", *BARE,
)  # fmt: skip


@pytest.mark.slurm
def test_jobs_that_end_badly_are_failed_results_and_the_others_are_returned(command, tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS)
    words = ",".join(f"[rewards.py:{name}]" for name in ("good", "raises", "leaves", "is_killed"))
    started = command("-m", *GRPO, f"stage.rewards={words}", "seed=1,2", "hydra.sweep.dir=swept")
    assert started.end() == 1, started.output
    ends = [RunDir(tmp_path / "swept" / str(number)).manifest().get("status") for number in range(8)]
    assert ends[:2] == ["finished", "finished"]
    assert "finished" not in ends[2:]
    told = " ".join(started.output.split())
    for number, reason in ((3, "no reward today"), (4, "no reward today"), (5, "3"), (7, "was killed by SIGKILL")):
        assert f"job {number} failed: " in told
        assert reason in told.partition(f" job {number} failed: ")[2][:500]
    assert re.search(r"job 7 of 8: .{1,80}: failed Job \S+ was killed by SIGKILL Log: \S*\.slurm/", told)


# ------------------------------------------------------------------------------------------------------- preemption


def steps(run: Path) -> int:
    return sum("loss" in line for line in RunDir(run).read_metrics()) if RunDir(run).metrics.is_file() else 0


def evaluations(run: Path) -> int:
    return sum("eval_loss" in line for line in RunDir(run).read_metrics())


def in_a_step(run: Path) -> bool:
    return steps(run) >= 30


def in_an_evaluation(run: Path) -> bool:
    """After a step that is evaluated, and before what it measured is there."""
    before = steps(run) >= 20
    return before and evaluations(run) < 2


def between_phases(run: Path) -> bool:
    return "read" in RunDir(run).manifest().get("phases", {})


def usr2(command, job: str) -> None:
    command.cluster.call("scancel", "--signal=USR2", job)


def term(command, job: str) -> None:
    command.cluster.call("scancel", "--signal=TERM", job)


def requeue(command, job: str) -> None:
    command.cluster.call("scontrol", "requeue", job)


@pytest.mark.slurm
@pytest.mark.parametrize("how", [usr2, term, requeue])
@pytest.mark.parametrize("when", [in_a_step, in_an_evaluation, between_phases])
def test_a_preempted_run_ends_as_an_undisturbed_one(command, tmp_path, when, how):
    words = PHASES if when is between_phases else LONG
    started = command(*words, "run.dir=run")
    run = tmp_path / "run"
    started.until(lambda: (run / "run.yaml").exists() and when(run))
    how(started, started.submission().job)
    assert started.end() == 0, started.output
    run_dir = RunDir.open(run)
    assert len(run_dir.manifest()["starts"]) == 2
    whole = train_run(tmp_path / "whole", *words)
    assert final_hash(run_dir) == final_hash(whole)
    assert logged(run_dir) == logged(whole)


@pytest.mark.slurm
def test_a_run_goes_on_after_its_time_limit(command, tmp_path):
    words = (*LONG, "train.max_steps=1500", "eval.steps=500")
    started = command(*words, "run.dir=run", "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    assert started.end(600) == 0, started.output
    run_dir = RunDir.open(tmp_path / "run")
    assert len(run_dir.manifest()["starts"]) > 1
    whole = train_run(tmp_path / "whole", *words)
    assert final_hash(run_dir) == final_hash(whole)
    assert logged(run_dir) == logged(whole)


@pytest.mark.slurm
def test_a_run_that_is_stopped_too_often_is_given_up_and_can_be_gone_on_with(command, tmp_path):
    started = command(*LONG, "run.dir=run", "hydra.launcher.max_num_timeout=0")
    run = tmp_path / "run"
    started.until(lambda: in_a_step(run))
    usr2(started, started.submission().job)
    assert started.end() == 1
    assert "told to stop once more than hydra.launcher.max_num_timeout allows" in " ".join(started.output.split())
    again = command("resume", "run")
    assert again.end() == 0, again.output
    assert RunDir.open(run).manifest()["status"] == "finished"


@pytest.mark.slurm
def test_a_run_that_is_stopped_before_it_can_listen_is_queued_again(command, tmp_path):
    started = command(*TINY, "run.dir=run")
    started.until(lambda: "run: running" in started.output)
    usr2(started, started.submission().job)
    assert started.end() == 0, started.output
    assert RunDir.open(tmp_path / "run").manifest()["status"] == "finished"


# --------------------------------------------------------------------------------------------------- several processes

# Two processes of a run: started by one task, as a task each, or on two nodes. The nodes of this cluster are names of
# one machine, which nobody can look up.
RANKS = ("hardware=cpu", "hardware.devices=2")
LAYOUTS = {
    "launched": RANKS,
    "tasks": (*RANKS, "hydra.launcher.tasks_per_node=2"),
    "nodes": ("hardware=cpu", "hardware.nodes=2", "hydra.launcher.setup=['export MASTER_ADDR=127.0.0.1']"),
}
OF_RANKS = (*LONG, "train.max_steps=40", "train.gradient_accumulation_steps=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[..., RunDir]:
    """``undisturbed("train.max_steps=4", ...)``: that run by two processes of this machine, trained once."""
    folder, known = tmp_path_factory.mktemp("local"), dict[tuple[str, ...], RunDir]()

    def run(*words: str) -> RunDir:
        if words not in known:
            place = folder / str(len(known))
            place.mkdir()
            paths = os.pathsep.join([str(ROOT), str(ROOT / "launchers")])
            done = subprocess.run(
                [sys.executable, "-m", "ftlab", *words, *RANKS, "run.dir=run"], cwd=place,
                capture_output=True, text=True,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            known[words] = RunDir.open(place / "run")
        return known[words]

    return run


def check_same(ours: RunDir, theirs: RunDir) -> None:
    assert final_hash(ours) == final_hash(theirs)
    assert logged(ours) == logged(theirs)


@pytest.mark.slurm
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_of_a_job_are_two_of_this_machine(command, tmp_path, undisturbed, layout):
    words = (*TINY, "train.max_steps=4")
    started = command(*words, *LAYOUTS[layout], "run.dir=run")
    assert started.end() == 0, started.output
    check_same(RunDir.open(tmp_path / "run"), undisturbed(*words))


@pytest.mark.slurm
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", [usr2, requeue])
def test_preempted_processes_agree_on_a_step(command, tmp_path, undisturbed, how, layout):
    started = command(*OF_RANKS, *LAYOUTS[layout], "run.dir=run")
    run = tmp_path / "run"
    started.until(lambda: (run / "run.yaml").exists() and steps(run) >= 10, 300)
    how(started, started.submission().job)
    assert started.end() == 0, started.output
    run_dir = RunDir.open(run)
    assert len(run_dir.manifest()["starts"]) == 2
    check_same(run_dir, undisturbed(*OF_RANKS))


@pytest.mark.slurm
@pytest.mark.parametrize("layout", ["launched", "nodes"])
def test_processes_go_on_after_the_time_limit(command, tmp_path, undisturbed, layout):
    words = (*OF_RANKS, "train.max_steps=160", "eval.steps=80")
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=25")
    started = command(*words, *LAYOUTS[layout], *limit, "run.dir=run")
    assert started.end(900) == 0, started.output
    run_dir = RunDir.open(tmp_path / "run")
    assert len(run_dir.manifest()["starts"]) > 1
    check_same(run_dir, undisturbed(*words))


@pytest.mark.slurm
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_process_of_a_job_that_fails_fails_it_and_is_named(command, tmp_path, layout):
    started = command(*OF_RANKS, *LAYOUTS[layout], "run.dir=run")
    run = tmp_path / "run"
    started.until(lambda: (run / "run.yaml").exists() and steps(run) >= 2, 300)
    os.kill(second_process(run), signal.SIGKILL)
    assert started.end() == 1, started.output
    told = " ".join(started.output.split())
    if layout == "tasks":
        assert "another process of this run has ended" in told
        assert "task 1: Killed" in Path(started.submission().stderr).read_text()  # as srun has seen it
    else:
        line = "Rank 1 of 2 was ended by SIGKILL; the others were stopped."
        assert line in told
        assert Path(started.submission().stderr).read_text().count(line) == 1


def second_process(run: Path) -> int:
    """The id of rank 1 of a run."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = ((path / name).read_bytes().decode().split("\0") for name in ("cmdline", "environ"))
            is_of_run = "ftlab.engine.worker" in words and (path / "cwd").resolve() == run.parent.resolve()
        except OSError:
            continue
        if is_of_run and ("RANK=1" in variables or not {"RANK=0", "SLURM_PROCID=0"} & {*variables}):
            return int(path.name)
    raise AssertionError("it is not there")


# --------------------------------------------------------------------------------------------- leaving and cancelling


@pytest.mark.slurm
def test_who_no_longer_waits_finds_the_jobs_again_and_may_cancel_them(command, tmp_path):
    words = ("-m", *LONG, "train.max_steps=600", "lora.r=4,8", "hydra.sweep.dir=swept")
    started = command(*words)
    started.until(lambda: steps(tmp_path / "swept" / "0") >= 2)
    started.interrupt()
    assert started.end() == 130
    assert "ftlab slurm cancel swept" in started.output
    again = command(*words)
    again.until(lambda: "is in the queue already" in again.output)
    status = command("slurm", "status", "swept")
    assert status.end() == 0
    assert "RUNNING" in status.output
    assert command("slurm", "cancel", "swept").end() == 0
    assert again.end() == 1
    assert "was cancelled" in again.output
    assert "Submitted" not in again.output


@pytest.mark.slurm
def test_on_a_terminal_ctrl_c_asks_and_the_jobs_may_be_cancelled(command, tmp_path):
    ours, theirs = os.openpty()
    started = command(*LONG, "train.max_steps=600", "run.dir=run", terminal=theirs)
    started.until(lambda: steps(tmp_path / "run") >= 2)
    started.interrupt()
    os.write(ours, b"c\n")
    assert started.end() == 1
    os.close(theirs)
    told = b""
    with suppress(OSError):  # the end of a terminal that nobody writes to any more
        while more := os.read(ours, 1 << 16):
            told += more
    os.close(ours)
    said = " ".join(told.decode().split())
    assert "1 job in the queue. Detach and leave them there [D], cancel them [c], or go on waiting [w]?" in said
    assert "Cancelled 1 job." in said and "was cancelled" in said
    assert started.cluster.call("squeue", "-h", "-j", started.submission().job) == ""


@pytest.mark.slurm
def test_what_sbatch_refuses_is_told_once_in_its_own_words(command):
    started = command("-m", *TINY, "lora.r=4,8", "hydra.launcher.partition=nowhere", "hydra.sweep.dir=swept")
    assert started.end() == 1
    assert started.output.count("invalid partition specified: nowhere") == 1
    assert "Traceback" not in started.output and "HYDRA_FULL_ERROR" not in started.output


@pytest.mark.slurm
def test_a_run_without_a_name_that_sbatch_refuses_leaves_no_run_directory(command, tmp_path):
    started = command(*TINY, "hydra.launcher.partition=nowhere")
    assert started.end() == 1
    assert started.output.count("invalid partition specified: nowhere") == 1
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [".slurm"]


@pytest.mark.slurm
def test_a_script_of_the_users_own(command, tmp_path):
    (tmp_path / "own.sh").write_text(
        "#!/bin/bash\n#SBATCH --time=7\necho before > before.txt\n@COMMAND@\necho $code > after.txt\n"
    )
    started = command(*TINY, "run.dir=run", "hydra.launcher.template=own.sh")
    assert started.end() == 0, started.output
    assert [(tmp_path / name).read_text() for name in ("before.txt", "after.txt")] == ["before\n", "0\n"]
    assert "TimeLimit=00:07:00" in started.cluster.call("scontrol", "show", "job", started.submission().job)
