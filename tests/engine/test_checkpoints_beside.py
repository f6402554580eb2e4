"""Checkpoints that are written while training goes on: what they hold is the step's, and who reads them waits."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from transformers import TrainerCallback

from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import RunDirError
from ftlab.preflight.memory import checkpoint_copy_bytes, predict
from ftlab.rundir.checkpoints import checkpoints, is_whole, seal
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.stages.trainer import checkpoints as written
from ftlab.stages.trainer.checkpoint_content import Content, copied
from tests.runs import final_hash, logged, resume_run, train_run

TINY = (
    "eval.golden_rows=0", "eval.samples=0", "data.split.golden=none", "data.split.validation=none", "tracker=none",
    "train.logging_steps=2", "train.max_steps=6", "train.save_steps=3", "lora.dropout=0.1", "data.max_samples=24",
    "data.max_length=64", "train.micro_batch_size=1", "train.gradient_accumulation_steps=1",
)  # fmt: skip


class Steps(PhaseHooks):
    """Calls a function with the number of each step that has ended."""

    def __init__(self, ended: Callable[[int], Any]):
        self._ended = ended

    def trainer_built(self, phase: Any, trainer: Any) -> None:
        ended = self._ended

        class Tell(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                ended(state.global_step)

        trainer.add_callback(Tell())


@pytest.fixture
def copies(monkeypatch) -> list[Content]:
    """Every copy that is made of what a checkpoint holds."""
    made: list[Content] = []
    copy = Content.copied

    def copying(content: Content) -> Content:
        made.append(copy(content))
        return made[-1]

    monkeypatch.setattr(Content, "copied", copying)
    return made


@pytest.fixture
def held(tmp_path, monkeypatch, copies) -> RunDir:
    """A run of which the checkpoint of step 3 was sealed when step 5 had been taken."""
    may_end, open_at = threading.Event(), dict[int, bool]()
    folder = tmp_path / "r"

    def seal_late(own: Any) -> None:
        if own.name == "checkpoint-3":
            assert may_end.wait(60)
        seal(own)

    def ended(step: int) -> None:
        open_at[step] = not is_whole(folder / "phases/01-sft/checkpoint-3")
        if step == 5:
            may_end.set()

    monkeypatch.setattr(written, "seal", seal_late)
    run_dir = train_run(folder, *TINY, hooks=Steps(ended))
    assert open_at == {1: True, 2: True, 3: True, 4: True, 5: True, 6: open_at[6]}, "training went on"
    return run_dir


def test_a_checkpoint_is_what_the_run_was_at_its_step(held, copies):
    """Weights, optimizer, schedule, random states, counters and lines: what is trained from there on is the same."""
    whole, lines = final_hash(held), logged(held)
    assert all(map(is_whole, checkpoints(held.phase("01-sft"))))
    (config,) = (phase.config for phase in held.plan().phases)
    # The last step is followed by none that could go on beside it.
    assert [copy.nbytes for copy in copies] == [pytest.approx(checkpoint_copy_bytes(config, predict(config)), rel=0.05)]
    shutil.rmtree(held.phase("01-sft") / "checkpoint-6")
    shutil.rmtree(held.phase("01-sft") / "final")
    held.final.unlink()
    Manifest(held).record(phases={}, status="running")
    again = resume_run(held.path)
    assert final_hash(again) == whole
    assert logged(again) == lines


KILLED = """
import os, signal, sys, threading
from torch.optim.optimizer import register_optimizer_step_post_hook
from ftlab.main import main
from ftlab.stages.trainer import checkpoints

seal, steps = checkpoints.seal, []
checkpoints.seal = lambda own: threading.Event().wait() if own.name == "checkpoint-4" else seal(own)

def kill(*_):
    steps.append(None)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

register_optimizer_step_post_hook(kill)
sys.argv = ["ftlab", *sys.argv[1:]]
main()
"""


@pytest.mark.kill
def test_a_run_that_is_killed_while_a_checkpoint_is_written_goes_on_from_the_one_before(tmp_path, capsys):
    """Its next step had been taken, and the checkpoint was not sealed."""
    given = (*TINY, "train.save_steps=2")
    whole = train_run(tmp_path / "whole", *given)
    words = [sys.executable, "-c", KILLED, *given, f"run.dir={tmp_path / 'r'}"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == -signal.SIGKILL
    phase = RunDir.open(tmp_path / "r").phase("01-sft")
    assert {path.name: is_whole(path) for path in checkpoints(phase)} == {"checkpoint-4": False, "checkpoint-2": True}
    capsys.readouterr()
    again = resume_run(tmp_path / "r")
    said = " ".join(capsys.readouterr().out.split())
    assert f"{phase}/checkpoint-4 is torn" in said and f"continuing from {phase}/checkpoint-2" in said
    assert final_hash(again) == final_hash(whole)
    assert logged(again) == logged(whole)


def test_a_disk_that_fills_up_beside_training_ends_it_in_words(tmp_path):
    """The step after the checkpoint had been taken; what was whole stays, and nothing is left of the other."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes an administrator")
    ended: list[int] = []
    try:
        with pytest.raises(RunDirError) as caught:
            train_run(disk / "r", *TINY, "train.save_steps=2", "train.max_steps=30", "train.save_total_limit=null",
                      hooks=Steps(ended.append))  # fmt: skip
        said, kept = str(caught.value), checkpoints(RunDir.open(disk / "r").phase("01-sft"))
        failed = 2 * (len(kept) + 1)
        assert f"is full: checkpoint-{failed} could not be written" in said
        assert f"The last good checkpoint is {kept[0]}" in said
        assert kept and all(map(is_whole, kept))
        assert ended[-1] > failed
        assert RunDir.open(disk / "r").manifest()["status"] == "failed"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_training_waits_where_there_is_no_memory_for_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(written, "spare_memory", lambda: 256.0 * 2**20)
    run_dir = train_run(tmp_path / "r", *TINY, "train.max_steps=3", "train.save_steps=1")
    told = "training waits while checkpoints are written: there is no memory for a copy of 2 MB"
    assert run_dir.log.read_text().count(told) == 1
    assert all(map(is_whole, checkpoints(run_dir.phase("01-sft"))))


def test_a_copy_is_of_tensors_and_of_what_holds_them():
    import torch

    of_step = {"state": {0: {"sum": torch.ones(2)}}, "rates": [0.1], "draws": ("MT", torch.arange(3))}
    copy = copied(of_step)
    of_step["state"][0]["sum"] += 1
    of_step["rates"].append(0.2)
    assert copy["state"][0]["sum"].tolist() == [1, 1] and copy["rates"] == [0.1]
    assert copy["draws"][0] == "MT" and copy["draws"][1].tolist() == [0, 1, 2]
