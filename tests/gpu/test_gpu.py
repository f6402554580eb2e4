"""What needs GPUs: NCCL, bf16, memory of a device. ``make test-gpu`` runs all of it and says what it left out."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.preflight.memory import predict
from tests.runs import make_run

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
BASE = (
    "hardware=auto", "train.logging_steps=1", "train.learning_rate=1e-4", "lora.dropout=0", "tracker=none",
    "eval.golden_rows=4", "eval.samples=4", "data.num_samples=120", "data.split.validation=none", "train.max_steps=10",
    "train.micro_batch_size=2",
)  # fmt: skip
WRAPPERS = {"ddp": "hardware.fsdp=false", "fsdp": "hardware.fsdp=true"}
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # relative; bf16 has 8 bits, and other orders of summing


@pytest.fixture(autouse=True)
def _devices(request) -> None:
    """Skips a test that wants more GPUs than there are: ``@pytest.mark.gpu(2)``; one where it does not say."""
    import torch

    wanted = (*request.node.get_closest_marker("gpu").args, 1)[0]
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < wanted:
        pytest.skip(f"needs {wanted} CUDA GPU{'s' * (wanted > 1)}, and PyTorch sees {found} here")


@pytest.fixture
def train(tmp_path, env) -> Callable[..., str]:
    """``train("train.max_steps=4", ...)``: what a run said that has ended well."""

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ftlab", *words], cwd=tmp_path, env=env, text=True, capture_output=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("stage", ["sft", "pt", "rm", "dpo", "kto", "orpo"])
def test_nothing_waits_for_the_device_between_logged_steps(stage, tmp_path):
    import torch
    from transformers import TrainerCallback

    from tests.stages.trainers import a_trainer, begin

    class Strict(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (1, 4):
                torch.cuda.set_sync_debug_mode("error" if state.global_step == 1 else "default")

    words = ("model=tiny", "train.max_steps=5", "train.logging_steps=10", "data.max_samples=40", "data.cache=null")
    trainer, _ = a_trainer(tmp_path, f"stage={stage}", *words, "data.split.validation=none", "hardware=auto")
    trainer.add_callback(Strict())
    try:
        begin(trainer)
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def check_equal(one: Path, other: Path, tolerance: float) -> None:
    for a, b in zip(steps(one), steps(other), strict=True):
        for name in {"loss", "grad_norm"} & a.keys():
            assert b[name] == pytest.approx(a[name], rel=tolerance), (a["step"], name)


@pytest.mark.gpu(2)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_gpus_over_nccl_train_as_one_does(tmp_path, train, wrapper, method, precision):
    words = (*BASE, f"method={method}", f"hardware.precision={precision}")
    train(*words, "train.gradient_accumulation_steps=4", "hardware.devices=1", "run.name=one")
    two = ("train.gradient_accumulation_steps=2", "hardware.devices=2", WRAPPERS[wrapper])
    said = train(*words, *two, "run.name=two")
    check_equal(tmp_path / "outputs/one", tmp_path / "outputs/two", TOLERANCE[precision])
    assert "Finished after" in said


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_layers_of_liger_train_as_the_models_own(tmp_path, train, method, precision):
    pytest.importorskip("liger_kernel")
    words = (*BASE, f"method={method}", f"hardware.precision={precision}", "hardware.devices=1")
    train(*words, "run.name=one")
    said = train(*words, "model.kernels=auto", "run.name=two")
    check_equal(tmp_path / "outputs/one", tmp_path / "outputs/two", TOLERANCE[precision])
    assert "layers: Liger's RMSNorm, RoPE and SwiGLU" in said


@pytest.mark.gpu(2)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_layers_of_liger_in_several_processes(tmp_path, train, wrapper):
    pytest.importorskip("liger_kernel")
    words = (*BASE, "method=full", "hardware.precision=fp32", "hardware.devices=2", WRAPPERS[wrapper])
    train(*words, "run.name=one")
    said = train(*words, "model.kernels=liger", "run.name=two")
    check_equal(tmp_path / "outputs/one", tmp_path / "outputs/two", TOLERANCE["fp32"])
    assert "layers: Liger's RMSNorm, RoPE and SwiGLU" in said


@pytest.mark.gpu(2)
@pytest.mark.parametrize("wrapper", ["ddp", "z2"])
def test_a_first_scale_of_fp16_that_is_too_large_is_no_divergence(tmp_path, train, wrapper):
    """Steps whose gradients overflow are left out, with half the scale for the next, until they fit."""
    words = (*BASE, "hardware.precision=fp16", "hardware.devices=2", "train.max_steps=30")
    said = train(*words, f"deepspeed={'none' if wrapper == 'ddp' else wrapper}", "run.name=a")
    assert "Finished after" in said
    assert all(math.isfinite(line["loss"]) for line in steps(tmp_path / "outputs/a") if "loss" in line)


@pytest.mark.gpu(2)
@pytest.mark.parametrize("stage", ["dpo", "kto", "rm"])
def test_preferences_in_shards(tmp_path, train, stage):
    data = {"kto": "labels"}.get(stage, "preferences")
    words = (*BASE, f"stage={stage}", f"data={data}", "hardware.precision=fp32")
    train(*words, "train.micro_batch_size=4", "train.gradient_accumulation_steps=1", "run.name=one")
    train(*words, "train.gradient_accumulation_steps=1", "hardware.devices=2", WRAPPERS["fsdp"], "run.name=two")
    check_equal(tmp_path / "outputs/one", tmp_path / "outputs/two", TOLERANCE["fp32"])


@pytest.mark.gpu(2)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, train, env, wrapper):
    """Attention without atomic sums, which no two passes of other kernels have in the same order."""
    words = (*BASE, "model.attention=eager", "train.max_steps=30", "train.save_steps=5", "hardware.devices=2",
             WRAPPERS[wrapper])  # fmt: skip
    run_dir = tmp_path / "outputs/a"
    process = subprocess.Popen([sys.executable, "-m", "ftlab", *words, "run.name=a"], cwd=tmp_path, env=env)
    until = time.monotonic() + 300
    while not (run_dir / "phases/01-sft/checkpoint-10/checkpoint.json").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    train(*words, "run.name=a")
    train(*words, "run.name=b")
    left, right = (next((tmp_path / "outputs" / name / "final").glob("*.safetensors")) for name in "ab")
    assert left.read_bytes() == right.read_bytes()


@pytest.mark.gpu(2)
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_device_holds_about_what_is_predicted_of_its_share(tmp_path, env, method):
    """As ``torch.cuda.max_memory_allocated`` has it, on a model large enough for it to count."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from memory import make_model, overrides_of

    model = make_model(tmp_path / "300M", "300M")
    words = [*overrides_of(tmp_path, model, method, "sft", 512, "gpu"), "hardware.devices=2", "hardware.fsdp=true"]
    code = """
import json, os, sys, torch
from ftlab.engine import worker
rank = int(os.environ["RANK"])
try:
    worker.main()
finally:
    with open(f"peak-{rank}.json", "w") as file:
        json.dump(torch.cuda.max_memory_allocated(), file)
"""
    subprocess.run([sys.executable, "-m", "ftlab", *words, "run.dir=a"], cwd=tmp_path, env=env, check=True, timeout=600)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/run.yaml").write_text((tmp_path / "a/run.yaml").read_text())
    (tmp_path / "measure.py").write_text(code)
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "measure.py", "b"]
    subprocess.run(launched, cwd=tmp_path, env=env, check=True, timeout=600)
    peak = max(json.loads(path.read_text()) for path in tmp_path.glob("peak-*.json"))
    assert predict(make_run(*words)).total == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("way", ["true", "selective"])
def test_activations_that_were_in_the_hosts_memory_are_the_same(tmp_path, train, way):
    words = ("stage=sft", "model=tiny", "train.max_steps=6", "train.logging_steps=1", "hardware=auto")
    for name, more in {"here": (), "there": ("train.activation_offload=true",)}.items():
        train(*words, f"train.gradient_checkpointing={way}", f"run.dir={name}", *more)
    check_equal(tmp_path / "here", tmp_path / "there", 0)


@pytest.mark.parametrize("scaling", ["tensorwise", "rowwise", "rowwise_with_gw_hp"])
def test_products_in_fp8_are_those_in_bf16_but_for_rounding(tmp_path, train, scaling):
    """Not emulated, and on micro-batches whose number of tokens is no multiple of 16."""
    import torch

    pytest.importorskip("torchao")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    words = (*BASE, "method=full", "hardware.precision=bf16")
    train(*words, "run.dir=exact")
    train(*words, f"train.fp8={scaling}", "run.dir=rounded")
    check_equal(tmp_path / "exact", tmp_path / "rounded", 0.05)
    assert json.loads((tmp_path / "rounded" / "manifest.json").read_text())["fp8"]["sft"]["is_emulated"] is False


def test_predicted_and_measured_peaks_of_one_gpu_are_within_5_percent():
    command = [sys.executable, str(ROOT / "benchmarks/memory.py"), "--device", "gpu", "--sizes", "100M", "300M"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def ballast() -> Iterator[Callable[[float], None]]:
    """``ballast(bytes)``: takes so much of the first GPU that only these are free."""
    import torch

    held = []

    def leave(free: float) -> None:
        torch.cuda.init()
        available, _ = torch.cuda.mem_get_info(0)
        held.append(torch.empty(int(available - free), dtype=torch.uint8, device="cuda:0"))

    yield leave
    held.clear()
    torch.cuda.empty_cache()


def test_a_step_that_memory_is_too_small_for_is_taken_in_halves(tmp_path, train, ballast):
    """With losses as they are where there is room."""
    words = (*BASE, "data.max_length=1024", "train.micro_batch_size=32", "train.gradient_accumulation_steps=1",
             "hardware.devices=1", "train.max_steps=4")  # fmt: skip
    train(*words, "run.name=room")
    whole = predict(make_run(*words, "hardware=gpu_16gb")).total
    ballast(0.75 * whole + 2**30)  # a context takes about half a GiB
    said = train(*words, "run.name=tight")
    assert "micro_batch_size 32 -> 16" in said
    check_equal(tmp_path / "outputs/room", tmp_path / "outputs/tight", TOLERANCE["bf16"])
