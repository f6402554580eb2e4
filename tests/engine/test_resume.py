"""Stopped anywhere and continued: the same weights, to the bit, as never stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ftlab.engine.tasks import resume
from ftlab.errors import ConfigError, DivergedError, NotReadyError, RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.runs import final_hash, logged, make_run, metrics, resume_run, train_run

LONG = (
    "eval.golden_rows=0", "eval.samples=0", "data.split.golden=none", "tracker=none", "train.logging_steps=3",
    "train.max_steps=14", "train.save_steps=4", "eval.steps=5", "lora.dropout=0.1",
    "train.gradient_accumulation_steps=2", "train.micro_batch_size=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("whole") / "r", *LONG)


def has_logged(folder: Path, step: int) -> bool:
    """Whether ``metrics.jsonl`` has the loss of that step."""
    file = folder / "metrics.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.is_file() else ()
    return any("loss" in line and line["step"] >= step for line in lines)


def interrupt_after(folder: Path, step: int, *overrides: str, by: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Start a real process, send it a signal once ``metrics.jsonl`` has that step, and wait for its end."""
    command = [sys.executable, "-m", "ftlab", *overrides, f"run.dir={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        if has_logged(folder, step):
            process.send_signal(by)
            break
        time.sleep(0.01)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_ctrl_c_saves_says_how_to_go_on_and_changes_nothing(tmp_path, whole, ftlab_here):
    folder, is_over = tmp_path / "r", threading.Event()

    def press() -> None:
        while not is_over.wait(0.01):
            if has_logged(folder, 6):
                os.kill(os.getpid(), signal.SIGINT)
                return

    key = threading.Thread(target=press)
    key.start()
    stopped = ftlab_here(*LONG, f"run.dir={folder}")
    is_over.set()
    key.join()
    assert stopped.returncode == 130
    assert f"Continue with: ftlab resume {folder}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    run_dir = RunDir.open(folder)
    assert run_dir.manifest()["status"] == "interrupted"
    assert not run_dir.final.exists()
    finished = resume_run(folder)
    assert finished.manifest()["status"] == "finished"
    assert final_hash(finished) == final_hash(whole)
    assert logged(finished) == logged(whole)


@pytest.mark.kill
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_is_told_to_try_again(tmp_path, whole, by):
    folder = tmp_path / "r"
    stopped = interrupt_after(folder, 3, *LONG, "train.save_steps=100", by=by)
    assert stopped.returncode == 75
    assert f"Continue with: ftlab resume {folder}" in stopped.stderr
    steps = sorted(int(p.name.split("-")[1]) for p in RunDir.open(folder).phase("01-sft").glob("checkpoint-*"))
    assert len(steps) == 1 and 3 <= steps[0] < 14, "it saved at the next step, not at the next multiple of save_steps"
    finished = resume_run(folder)
    assert final_hash(finished) == final_hash(whole)
    assert logged(finished) == logged(whole)


def test_a_torn_checkpoint_is_passed_over_and_said(tmp_path, whole, capsys):
    folder = tmp_path / "r"
    shutil.copytree(whole.path, folder, symlinks=True)
    (folder / "final").unlink()
    shutil.rmtree(RunDir.open(folder).phase("01-sft") / "final")
    Manifest(RunDir.open(folder)).record(phases={}, status="running")
    newest = max(RunDir(folder).phase("01-sft").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    weights = newest / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    finished = resume_run(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newest} is torn" in said
    assert final_hash(finished) == final_hash(whole)
    assert logged(finished) == logged(whole)


def test_the_same_command_continues_and_another_config_is_refused(tmp_path, whole):
    with pytest.raises(RunDirError) as caught:
        train_run(whole.path, *LONG, "lora.r=8")
    assert "lora.r: 16 there, 8 here" in str(caught.value)
    assert "run.if_exists=new" in str(caught.value)
    beside = train_run(tmp_path / "x", *LONG, "train.max_steps=1")
    assert metrics(beside, "loss") == metrics(whole, "loss")[:1]


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.matrix)])
def test_stopped_after_the_last_step_takes_no_other(tmp_path, method):
    """Killed between the last checkpoint and the end: the weights, steps and metrics are those of the whole run."""
    run_dir = train_run(tmp_path / "r", *LONG, "train.lr_scheduler=constant", "train.max_steps=4", f"method={method}")
    weights, whole, result = final_hash(run_dir), logged(run_dir), run_dir.manifest()["phases"]["sft"]
    Manifest(run_dir).record(phases={}, status="running")
    again = resume_run(run_dir.path)
    assert final_hash(again) == weights
    assert again.manifest()["phases"]["sft"] == result
    assert logged(again) == whole


def test_a_checkpoint_that_is_not_there_is_refused_and_nothing_is_cut(tmp_path, whole):
    run_dir = RunDir(shutil.copytree(whole.path, tmp_path / "r", symlinks=True))
    lines = run_dir.metrics.read_text()
    Manifest(run_dir).record(phases={}, status="interrupted")
    with pytest.raises(RunDirError, match=r"run\.checkpoint=3: .* It has: 14, 12\."):
        train_run(run_dir.path, *LONG, "run.checkpoint=3")
    assert run_dir.metrics.read_text() == lines


def test_resume_refuses_what_it_would_ignore(tmp_path, whole):
    with pytest.raises(ConfigError, match=r"lora\.r=3: ftlab resume takes everything from the run's own"):
        resume(make_run("task=resume", f"run.dir={whole.path}"), ["task=resume", "lora.r=3"])


def test_two_processes_do_not_share_a_run_directory(tmp_path, whole):
    Manifest(whole).record(status="running")
    with (whole.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirError, match="Another process is at work in"):
            resume_run(whole.path)
    Manifest(whole).record(status="finished")


def test_a_run_that_never_began_leaves_nothing_and_its_name_free(tmp_path):
    with pytest.raises(NotReadyError, match="q_prj"):
        train_run(tmp_path / "r", *LONG, "lora.target_modules=[q_prj]")
    assert not (tmp_path / "r").exists()
    train_run(tmp_path / "r", *LONG, "lora.target_modules=[q_proj]", "train.max_steps=1")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(DivergedError, match=r"The loss is nan at step \d: the run has diverged"):
        train_run(tmp_path / "r", *LONG, "train.learning_rate=1e30", "train.lr_scheduler=constant")
    assert RunDir.open(tmp_path / "r").manifest()["status"] == "failed"


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(40)]
    data.write_text("\n".join(map(json.dumps, rows)))
    given = (f"data.path={data}", "data.format=alpaca", *LONG)
    run = train_run(tmp_path / "r", *given, "train.max_steps=4")
    Manifest(run).record(phases={}, status="interrupted")
    data.write_text("\n".join(map(json.dumps, rows[1:])))
    with pytest.raises(RunDirError, match=r"rows\.jsonl has changed since .* began"):
        resume_run(tmp_path / "r")


def test_the_same_seed_gives_the_same_weights(tmp_path, whole):
    assert final_hash(train_run(tmp_path / "again", *LONG)) == final_hash(whole)
    other = train_run(tmp_path / "other", *LONG, "seed=43", "train.max_steps=1")
    assert metrics(other, "loss") != metrics(whole, "loss")[:1]
