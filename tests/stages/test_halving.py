"""Memory that runs out: the step is taken again in halves, with the same rows, and the run remembers it."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import OutOfMemoryError
from ftlab.rundir.checkpoints import checkpoints, is_whole, step_of
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.manifest import Manifest
from tests.conftest import ROOT
from tests.runs import BARE, final_hash, logged, metrics, resume_run, train_run

SHORT = (
    # By segments a micro-batch is one row of all, and a layer does not see how many they were.
    "model=tiny", "model.attention=sdpa", *BARE, "data.max_samples=64", "data.max_length=64",
    "train.micro_batch_size=4",
    "train.gradient_accumulation_steps=2", "train.max_steps=6", "train.save_steps=2", "train.save_total_limit=null",
    "train.logging_steps=1", "train.learning_rate=1e-3", "hardware.precision=fp32", "lora.dropout=0",
)  # fmt: skip
DROPOUT = ("lora.dropout=0.1",)


class LittleMemory(PhaseHooks):
    """A device that cannot take more than so many rows from a step on.

    :param backward: whether it runs out in the backward, which then has left gradients of the last layers.
    :param after: so many forwards of the run, of which it takes any. :param learns: False where it is forwards without
        gradients that run out, of ppo's rollouts.
    :ivar rows: of each forward of the training, by step.
    """

    def __init__(self, step: int, rows: int, backward: bool = True, after: int = 0, learns: bool = True):
        self._step, self._most, self._backward, self._after, self._learns = step, rows, backward, after, learns
        self.rows: list[tuple[int, int]] = []

    def trainer_built(self, phase: Any, trainer: Any) -> None:
        def run_out(gradient: Any = None) -> None:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")

        def watch(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if torch.is_grad_enabled() != self._learns:
                return
            step, rows = trainer.state.global_step + 1, output.shape[0]
            self.rows.append((step, rows))
            if step >= self._step and rows > self._most and len(self.rows) > self._after:
                output.register_hook(run_out) if self._backward else run_out()

        layers = trainer.model.get_base_model().model.layers
        layers[0].register_forward_hook(watch, with_kwargs=True)


def run(folder: Path, *overrides: str, memory: LittleMemory | None = None) -> RunDir:
    return train_run(folder, *SHORT, *overrides, hooks=memory)


@contextmanager
def limited_memory() -> Iterator[None]:
    """A limit that nothing reaches."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 45, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def continued(whole: RunDir, folder: Path, left: int) -> RunDir:
    """A copy of a run, stopped behind the checkpoint of step ``left`` and gone on with."""
    shutil.copytree(whole.path, folder, symlinks=True)
    (folder / "final").unlink()
    (phase,) = (folder / "phases").iterdir()
    shutil.rmtree(phase / "final")
    for later in [each for each in checkpoints(phase) if step_of(each) > left]:
        shutil.rmtree(later)
    Manifest(RunDir.open(folder)).record(phases={}, status="running")
    return resume_run(folder)


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> tuple[RunDir, LittleMemory]:
    """Runs out in the backward of step 3, having room for two rows from there on."""
    memory = LittleMemory(3, 2)
    return run(tmp_path_factory.mktemp("halved") / "r", *DROPOUT, memory=memory), memory


def test_a_step_is_taken_again_in_halves_from_there_on(halved):
    run_dir, memory = halved
    assert run_dir.manifest()["status"] == "finished"
    assert run_dir.manifest()["batch_sizes"] == {"sft": [{"step": 3, "micro_batch_size": 2}]}
    assert [rows for step, rows in memory.rows if step < 3] == [4] * 4
    # The third step's first micro-batch does not fit; then every step has its 8 rows in twos, an epoch's last its 7.
    assert [rows for step, rows in memory.rows if step >= 3] == [4] + [2] * 4 + [2, 2, 2, 1] + [2] * 8
    said = " ".join(run_dir.log.read_text(encoding="utf-8").split())
    assert "out of memory in step 3: micro_batch_size 4 -> 2, accumulation 2 -> 4 from here on" in said


@pytest.mark.parametrize(
    "stage",
    ["sft"] + [pytest.param(each, marks=pytest.mark.matrix) for each in ("kto", "pt", "rm", "dpo", "orpo")],
)
def test_losses_gradients_and_tokens_are_those_of_whole_micro_batches(tmp_path, stage):
    # In the second micro-batch of step 2, when the first has left its gradients, loss and measures.
    given = (f"stage={stage}", "train.max_steps=4", "train.save_steps=9")
    memory = LittleMemory(2, 2, after=3)
    runs = [run(tmp_path / "whole", *given), run(tmp_path / "halved", *given, memory=memory)]
    assert "batch_sizes" in runs[1].manifest()
    for key in ("loss", "grad_norm"):
        whole, halves = (metrics(one, key) for one in runs)
        assert len(whole) == 4 and halves == pytest.approx(whole, rel=1e-6)
    assert metrics(runs[0], "tokens") == metrics(runs[1], "tokens")


@pytest.mark.parametrize("left", [2, pytest.param(4, marks=pytest.mark.matrix)])
def test_a_run_that_goes_on_is_that_of_the_same_halving_to_the_bit(tmp_path, halved, left):
    """From before it and from after it, without anything that runs out again."""
    finished = continued(halved[0], tmp_path / "r", left)
    assert final_hash(finished) == final_hash(halved[0])
    assert logged(finished) == logged(halved[0])


PPO = (
    "stage=ppo", "stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.max_new_tokens=6",
    "stage.ppo_epochs=1", "train.gradient_accumulation_steps=1", "train.max_steps=4",
)  # fmt: skip


@pytest.mark.matrix
def test_ppo_learns_the_same_of_fewer_answers_at_once(tmp_path):
    memory = LittleMemory(3, 2)
    whole, halves = run(tmp_path / "whole", *PPO), run(tmp_path / "halved", *PPO, memory=memory)
    assert {change["step"] for change in halves.manifest()["batch_sizes"]["ppo"]} == {3}
    for key in ("loss", "grad_norm", "reward", "kl", "value_loss"):
        assert len(metrics(whole, key)) == 4 and metrics(halves, key) == pytest.approx(metrics(whole, key), rel=1e-5)


@pytest.mark.matrix
def test_a_rollout_in_smaller_batches_is_made_again_to_the_bit(tmp_path):
    first = run(tmp_path / "r", *PPO, memory=LittleMemory(3, 4, backward=False, learns=False))
    changes = first.manifest()["batch_sizes"]["ppo"]
    assert [change for change in changes if "generation_batch_size" in change] == [
        {"step": 3, "generation_batch_size": 8}, {"step": 3, "generation_batch_size": 4},
    ]  # fmt: skip
    again = continued(first, tmp_path / "again", 2)
    assert final_hash(again) == final_hash(first)
    assert logged(again) == logged(first)


REAL = '''
import resource, sys
from pathlib import Path
from transformers import TrainerCallback
from ftlab.engine.hooks import PhaseHooks
from tests.runs import train_run

class Limit(PhaseHooks):
    def model_loaded(self, phase):
        status = Path("/proc/self/status").read_text()
        used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData")) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + (int(sys.argv[1]) << 20), resource.RLIM_INFINITY))

    def trainer_built(self, phase, trainer):
        trainer.add_callback(Lift())

class Lift(TrainerCallback):
    """Saving maps files into memory, and the heap is as large as it was allowed to be."""

    def on_train_end(self, *_, **__):
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

train_run(Path(sys.argv[2]), *sys.argv[3:], hooks=Limit() if int(sys.argv[1]) else None)
'''


@pytest.mark.matrix
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_an_allocator_that_really_fails_halves_before_the_first_step(tmp_path):
    given = (
        "model=tiny", *BARE, "data.max_length=512", "train.micro_batch_size=16", "train.max_steps=1",
        "train.gradient_accumulation_steps=1", "train.logging_steps=1", "hardware.precision=fp32", "lora.dropout=0",
    )  # fmt: skip
    runs = []
    for name, megabytes in (("plain", "0"), ("limited", "400")):
        command = [sys.executable, "-c", REAL, megabytes, str(tmp_path / name), *given]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        runs.append(RunDir.open(tmp_path / name))
    changes = runs[1].manifest()["batch_sizes"]["sft"]
    # The trial and the first step may find other fragments of the limited heap: the step may halve once more.
    assert changes[0] == {"step": 0, "micro_batch_size": 8} and changes[-1]["step"] <= 1
    said = " ".join(runs[1].log.read_text(encoding="utf-8").split())
    assert "out of memory in the first step: micro_batch_size 16 -> 8, accumulation 1 -> 2" in said
    for key in ("loss", "grad_norm"):
        assert metrics(runs[1], key) == pytest.approx(metrics(runs[0], key), rel=1e-6)


@pytest.mark.matrix
def test_one_row_that_does_not_fit_is_told_with_what_would(tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(OutOfMemoryError) as caught:
        run(folder, *DROPOUT, memory=LittleMemory(5, 0, backward=False))
    told = str(caught.value)
    assert "Out of memory in step 5 (Tried to allocate 2.00 GiB.). micro_batch_size is 1 already" in told
    for way in ("train.gradient_checkpointing=selective", "data.max_length=32", "method=qlora", "run.if_exists=new"):
        assert way in told
    run_dir = RunDir.open(folder)
    assert run_dir.manifest()["status"] == "failed"
    sizes = [change["micro_batch_size"] for change in run_dir.manifest()["batch_sizes"]["sft"]]
    assert sizes == [2, 1]
    assert is_whole(checkpoints(run_dir.phase("01-sft"))[0])


def test_on_oom_stop_names_the_halves_and_tries_none(tmp_path):
    with pytest.raises(OutOfMemoryError, match=r"micro_batch_size=2 train.gradient_accumulation_steps=4"):
        run(tmp_path / "r", "train.on_oom=stop", memory=LittleMemory(1, 2, backward=False))


@pytest.mark.matrix
def test_the_longest_batch_is_tried_first_and_leaves_no_trace(tmp_path, halved):
    """Where memory is limited, which is told from the process's limits."""
    with limited_memory():
        tried = run(tmp_path / "r", *DROPOUT)
    assert "tried before all else: the longest micro-batch, 4 of" in tried.log.read_text(encoding="utf-8")
    assert "tried before" not in halved[0].log.read_text(encoding="utf-8")
    first = [one.phase("01-sft") / "checkpoint-2" / "adapter_model.safetensors" for one in (tried, halved[0])]
    assert sha256(first[0]) == sha256(first[1])
    assert logged(tried)[:2] == logged(halved[0])[:2]


@pytest.mark.matrix
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_nor_where_activations_are_computed_again_or_a_reference_is(tmp_path, stage):
    given = (f"stage={stage}", *DROPOUT, "train.max_steps=2", "train.gradient_checkpointing=true")
    with limited_memory():
        tried = run(tmp_path / "tried", *given)
    plain = run(tmp_path / "plain", *given)
    assert "tried before all else" in tried.log.read_text(encoding="utf-8")
    assert final_hash(tried) == final_hash(plain)
    assert logged(tried) == logged(plain)
