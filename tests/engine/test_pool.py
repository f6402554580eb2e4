"""The configs of a sweep in processes of their own, as many at once as there are devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ftlab.distributed.world import environment_of_devices
from ftlab.rundir.directory import RunDir
from tests.runs import BARE, final_hash, logged, train_run
from tests.sweeps import ENDS

SHORT = (*BARE, "train.max_steps=4", "train.logging_steps=1", "data.max_samples=24", "hardware=cpu")


@pytest.mark.matrix
def test_one_that_raises_exits_or_is_killed_is_one_failure(ftlab, tmp_path, monkeypatch):
    """The others end as if it had not been there, and the exit code says that one failed."""
    (tmp_path / "rewards.py").write_text(ENDS)
    base = (*SHORT, "stage=grpo", "stage.num_generations=2", "stage.max_new_tokens=4", "train.micro_batch_size=2")
    rewards = ",".join(f"[rewards.py:{name}]" for name in ("raises", "leaves", "killed", "good"))
    done = ftlab("-m", f"stage.rewards={rewards}", *base, "hydra/launcher=gpus", "hydra.launcher.devices=2",
                 "hydra.sweep.dir=sweep")  # fmt: skip
    errors = done.stderr.replace("\\:", ":")  # as Hydra writes it
    assert done.returncode == 1 and "Traceback" not in errors, done.stdout + errors
    assert "4 configs, 2 at a time" in done.stdout
    title = "job {} of 4: stage.rewards=[rewards.py:{}]"
    assert f"{title.format(1, 'raises')} failed:\nThe reward rewards.py:raises failed on " in errors
    assert f"{title.format(2, 'leaves')} failed:\nSystemExit: 3" in errors
    assert f"{title.format(3, 'killed')} failed:\nits process was killed by SIGKILL" in errors
    assert f"{title.format(4, 'good')}: finished" in done.stdout.replace("\\:", ":")
    assert "job 3 failed: its process was killed by SIGKILL" in done.stdout
    monkeypatch.chdir(tmp_path)
    alone = train_run(tmp_path / "alone", *base, "stage.rewards=[rewards.py:good]")
    pooled = RunDir.open(tmp_path / "sweep" / "3")
    assert logged(pooled) == logged(alone) and final_hash(pooled) == final_hash(alone)


@pytest.mark.matrix
def test_more_configs_than_devices_take_turns_on_each(ftlab, tmp_path):
    words = ("lora.r=4,8", "seed=1,2", *SHORT)
    more = ("hydra/launcher=gpus", "hydra.launcher.devices=2", "hydra.launcher.shards=2", "hydra.sweep.dir=sweep")
    done = ftlab("-m", *words, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    for number, chosen in enumerate([("lora.r=4", "seed=1"), ("lora.r=4", "seed=2"), ("lora.r=8", "seed=1"),
                                     ("lora.r=8", "seed=2")]):  # fmt: skip
        alone = train_run(tmp_path / f"alone-{number}", *chosen, *SHORT)
        pooled = RunDir.open(tmp_path / "sweep" / str(number))
        assert logged(pooled) == logged(alone) and final_hash(pooled) == final_hash(alone)


@pytest.mark.matrix
def test_a_config_of_several_processes_takes_as_many_devices(ftlab, tmp_path):
    words = ("seed=1,2", *SHORT, "hardware.devices=2", "train.micro_batch_size=2")
    done = ftlab("-m", *words, "hydra/launcher=gpus", "hydra.launcher.devices=2", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert said.index("job 1 of 2: seed=1: finished") < said.index("job 2 of 2: seed=2: running on the CPU")
    refused = ftlab("-m", *words, "hydra/launcher=gpus", "hydra.launcher.devices=1", "hydra.sweep.dir=other")
    assert refused.returncode == 1 and "hardware.devices=2: a config may have 1 here" in refused.stderr


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_what_is_at_work_and_the_same_command_goes_on(number, tmp_path, env):
    words = ["seed=1,2,3", *BARE, "train.max_steps=60", "train.save_steps=5", "data.max_samples=100", "hardware=cpu",
             "train.logging_steps=1"]  # fmt: skip
    command = [sys.executable, "-m", "ftlab", "-m", *words, "hydra/launcher=gpus", "hydra.launcher.devices=2",
               "hydra.sweep.dir=sweep"]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, **pipes)
    until = time.monotonic() + 120
    while not all((tmp_path / "sweep" / name / "metrics.jsonl").exists() for name in "01"):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else 75), said
    assert "Go on with the same command, or with: ftlab resume sweep" in said[1]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for seed in (1, 2, 3):
        alone = train_run(tmp_path / f"alone-{seed}", f"seed={seed}", *words[1:])
        assert final_hash(RunDir.open(tmp_path / "sweep" / str(seed - 1))) == final_hash(alone)


def test_each_process_sees_its_own_devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment_of_devices((2, 3), 4, on_cpu=False) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert environment_of_devices((1,), 2, on_cpu=False) == {"CUDA_VISIBLE_DEVICES": "7"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment_of_devices((0,), 2, on_cpu=True) == {"OMP_NUM_THREADS": "3"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    assert environment_of_devices((0,), 2, on_cpu=True) == {"OMP_NUM_THREADS": str(max(cores // 2, 1))}
