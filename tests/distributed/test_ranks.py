"""Several processes that train one run: the same losses as one has, written once, and told once where one fails. Every
stage under every wrapper: test_wrappers.py."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.planning import make_plan
from tests.runs import create_run, make_run, train_run

BASE = (
    "hardware=cpu", "train.logging_steps=1", "train.learning_rate=1e-3", "lora.dropout=0", "tracker=none",
    "eval.golden_rows=0", "eval.samples=0", "data.num_samples=120", "data.split.validation=none",
)  # fmt: skip


@pytest.fixture
def start(tmp_path, env) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start("train.max_steps=4", ...)``: a run that has begun, in an empty folder."""
    begun = []

    def begin(*words: str, module: str = "ftlab", **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words], cwd=tmp_path, env={**env, **more}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def train(start) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``train("train.max_steps=4", ...)``: a run that has ended well."""

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        process = start(*words, **more)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
        return subprocess.CompletedProcess(words, 0, out, err)

    return run


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def check_equal(one: Path, other: Path, tolerance: float) -> None:
    """Every loss, gradient norm and measure of two runs, step by step."""
    left, right = lines(one), lines(other)
    assert [line["step"] for line in left] == [line["step"] for line in right]
    for a, b in zip(left, right):
        assert a.keys() == b.keys()
        for name in a.keys() - {"time", "seconds", "tokens_per_second", "epoch"}:  # a filler is part of an epoch
            if isinstance(a[name], float):
                assert math.isclose(a[name], b[name], rel_tol=tolerance, abs_tol=tolerance), (a["step"], name)
            else:
                assert a[name] == b[name], (a["step"], name)


def test_two_ranks_train_as_one_process_does(tmp_path, train):
    """Over the end of an epoch, where there are fewer rows than a step takes: the odd rank has a filler."""
    words = (*BASE, "data.num_samples=43", "data.packing=false", "train.max_steps=4", "train.micro_batch_size=4")
    temporary = {*Path(tempfile.gettempdir()).glob("torchelastic_*")}
    one = train_run(tmp_path / "one", *words, "train.gradient_accumulation_steps=4")
    done = train(*words, "run.name=two", "train.gradient_accumulation_steps=2", "hardware.devices=2")
    check_equal(one.path, tmp_path / "outputs/two", 1e-5)
    assert "Finished after" in done.stdout and done.stdout.count("tiny: ") == 1  # one of them speaks
    assert done.stderr == ""
    assert {*Path(tempfile.gettempdir()).glob("torchelastic_*")} == temporary, "nothing of it is left anywhere else"


PPO = (
    "stage=ppo", "stage.rewards=['length:9']", "stage.max_new_tokens=12", "stage.rollout_batch_size=21",
    "stage.mini_batch_size=7", "stage.ppo_epochs=2", "stage.kl_target=0.5",
    "train.learning_rate=1e-4", "data.max_length=64",
)  # fmt: skip


GRPO = {
    "one step": ("stage.num_generations=4",),
    "a group over both ranks": ("stage.num_generations=16",),
    "several steps": ("stage.num_generations=4", "stage.steps_per_generation=4", "stage.num_iterations=2"),
}


@pytest.mark.distributed
def test_golden_answers_are_shared_out(tmp_path, train):
    words = (*BASE, "train.max_steps=2", "eval.golden_rows=5", "eval.samples=4", "eval.max_new_tokens=8")
    train(*words, "run.name=one")
    done = train(*words, "run.name=two", "hardware.devices=2")
    assert "answering golden prompts before training  3/3" in done.stdout, "three by the first and two by the second"
    for name in ("sft-before.json", "sft-after.json"):
        one, two = (json.loads((tmp_path / "outputs" / run / "samples" / name).read_text()) for run in ("one", "two"))
        assert one == two and one["values"]["golden prompts"] == 5 and len(one["samples"]) == 4


def ranks_of(launcher: int) -> list[int]:
    """The processes below a launcher, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            variables = path.with_name("environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((variable for variable in variables if variable.startswith(b"RANK=")), None)
        if parent == launcher and rank is not None:
            found[int(rank[5:])] = int(path.parent.name)
    return [found[rank] for rank in sorted(found)]


def wait_for(is_there: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not is_there():
        assert process.poll() is None, "".join(process.communicate())
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)


LONG = (*BASE, "hardware.devices=2", "train.max_steps=30", "train.save_steps=5", "lora.dropout=0.1", "run.name=a")


def weights(run_dir: Path) -> bytes:
    return next((run_dir / "final").glob("*.safetensors")).read_bytes()


KILLED = {
    "sft": LONG,
    "ppo": (*BASE, *PPO, "hardware.devices=2", "train.max_steps=16", "train.save_steps=5", "run.name=a"),
    "grpo": (*BASE, "stage=grpo", *GRPO["several steps"], "train.micro_batch_size=4", "stage.max_new_tokens=8",
             "train.gradient_accumulation_steps=1", "stage.rewards=['length:9']", "hardware.devices=2",
             "train.max_steps=16", "train.save_steps=5", "run.name=a"),
}  # fmt: skip


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stage", "rank", "more"),
    [
        ("sft", 0, ()), ("sft", 1, ()), ("sft", 1, ("deepspeed=z2",)), ("sft", 0, ("deepspeed=z3",)),
        ("sft", 1, ("deepspeed=z3", "method=full")), ("sft", 1, ("deepspeed=z3_offload", "method=qlora")),
        ("sft", 0, ("hardware.fsdp=true",)), ("sft", 1, ("hardware.fsdp=true", "method=full")),
        ("sft", 1, ("hardware.fsdp=true", "method=qlora")),
        ("ppo", 0, ()), ("ppo", 1, ("method=full",)), ("grpo", 1, ()),
        ("ppo", 1, ("deepspeed=z2",)), ("ppo", 0, ("deepspeed=z1", "method=full")), ("grpo", 1, ("deepspeed=z2",)),
        ("ppo", 1, ("deepspeed=z2_offload", "method=qlora")),
    ],
)  # fmt: skip
def test_a_rank_that_is_killed(tmp_path, train, start, stage, rank, more):
    """One message says which; the same command goes on to the weights of a run that nobody has disturbed."""
    words, first = KILLED[stage], 10
    if "deepspeed" in str(more):
        pytest.importorskip("deepspeed", reason="pip install 'ftlab[deepspeed]'")
        shorter = {"train.save_steps=5": "train.save_steps=3"}
        shorter |= dict.fromkeys(("train.max_steps=30", "train.max_steps=16"), "train.max_steps=9")
        words, first = tuple(shorter.get(word, word) for word in words), 3
    words = (*words, *more)
    run_dir = tmp_path / "outputs/a"
    process = start(*words)
    wait_for((run_dir / f"phases/01-{stage}/checkpoint-{first}/checkpoint.json").exists, process)
    begun = time.monotonic()
    os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - begun < 30
    assert err.startswith(f"Rank {rank} of 2 was ended by SIGKILL; the others were stopped."), err
    assert "Traceback" not in out + err and len(err.splitlines()) <= 3
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["status"] == "failed" and "SIGKILL" in manifest["error"]
    train(*words)
    train(*(word for word in words if not word.startswith("run.")), "run.name=b")
    assert weights(run_dir) == weights(tmp_path / "outputs/b")
    assert same_lines(lines(run_dir), lines(tmp_path / "outputs/b"))


def same_lines(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    times = {"time", "seconds", "tokens_per_second"}
    return [{k: v for k, v in line.items() if k not in times} for line in left] == [
        {k: v for k, v in line.items() if k not in times} for line in right
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path, train, start, number):
    run_dir = tmp_path / "outputs/a"
    process = start(*LONG)
    wait_for((run_dir / "phases/01-sft/checkpoint-5/checkpoint.json").exists, process)
    # A person's Ctrl-C reaches the launcher, a scheduler's signal whichever process it knows.
    os.kill(process.pid if number == signal.SIGINT else ranks_of(process.pid)[1], number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), out + err
    assert err.startswith("Interrupted. Continue with: ftlab resume ") and "Traceback" not in err
    assert json.loads((run_dir / "manifest.json").read_text())["status"] == "interrupted"
    train("resume", "outputs/a")
    train(*(word for word in LONG if not word.startswith("run.")), "run.name=b")
    assert weights(run_dir) == weights(tmp_path / "outputs/b")


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_nothing_but_gradients_is_summed_between_logged_steps(tmp_path, train, stage):
    """But for kto, whose loss needs the pairs of all processes: once for each micro-batch."""
    words = (*BASE, f"stage={stage}", "train.max_steps=5", "train.logging_steps=10", "hardware.devices=2",
             "train.gradient_accumulation_steps=2", "train.micro_batch_size=2", "data.packing=false",
             *(["data=labels"] if stage == "kto" else []),
             *(["data=preferences"] if stage == "dpo" else []))  # fmt: skip
    given = (*words, f"run.dir={tmp_path}/run")
    create_run(make_plan(make_run(*given), given))
    started = ("--nproc-per-node", "2", "-m", "tests.distributed.counting", "run")
    train(*started, module="torch.distributed.run")
    for rank in range(2):
        found = json.loads((tmp_path / f"collectives-{rank}.json").read_text())
        # Of three steps, two micro-batches each.
        assert found == ({"all_gather": 6} if stage == "kto" else {})


@pytest.mark.distributed
def test_by_hand_with_torchrun(tmp_path, train, start):
    """What ftlab launches, whoever knows torchrun can start too, and the data is prepared once."""
    words = (*BASE, "train.max_steps=4", "hardware.devices=2", "data.cache=null")
    train(*words, "run.name=a")
    source, run_dir = tmp_path / "outputs/a", tmp_path / "outputs/b"
    run_dir.mkdir()
    (run_dir / "run.yaml").write_text((source / "run.yaml").read_text())
    started = ("--nproc-per-node", "2", "-m", "ftlab.engine.worker", "outputs/b")
    done = train(*started, module="torch.distributed.run")
    assert weights(source) == weights(run_dir)
    assert done.stdout.count("preparing train  120/120") == 1
    assert not (run_dir / "ranks/cache").exists()


@pytest.mark.distributed
def test_by_hand_with_nothing_but_the_variables(tmp_path, train, start):
    """As Slurm starts a task for each process: they meet at a store in the first, which must be the last to go."""
    words = (*BASE, "train.max_steps=2", "hardware.devices=2")
    train(*words, "run.name=a")
    source, run_dir = tmp_path / "outputs/a", tmp_path / "outputs/b"
    run_dir.mkdir()
    (run_dir / "run.yaml").write_text((source / "run.yaml").read_text())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks = [
        start("outputs/b", module="ftlab.engine.worker", **place, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")
    ]
    for process in ranks:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
    assert weights(source) == weights(run_dir)


@pytest.mark.distributed
def test_another_number_of_processes_than_planned(tmp_path, train, start):
    train(*BASE, "train.max_steps=1", "run.name=a")
    run_dir = tmp_path / "outputs/b"
    run_dir.mkdir()
    (run_dir / "run.yaml").write_text((tmp_path / "outputs/a/run.yaml").read_text())
    process = start("--nproc-per-node", "2", "-m", "ftlab.engine.worker", "outputs/b", module="torch.distributed.run")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "outputs/b is planned for 1 process (hardware.devices of phase sft), and 2 are here." in err


@pytest.mark.distributed
def test_a_rank_that_sleeps_for_ever(tmp_path, start):
    run_dir = tmp_path / "outputs/a"
    process = start(*LONG, "hardware.hang_minutes=0.1")
    wait_for((run_dir / "phases/01-sft/checkpoint-5/checkpoint.json").exists, process)
    os.kill(ranks_of(process.pid)[1], signal.SIGSTOP)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "(hardware.hang_minutes=0.1): the run hangs. The others wait for rank 1" in err, out + err
    assert "_inner_training_loop" in (run_dir / "ranks/rank-0-stacks.txt").read_text()
    assert "hangs" in json.loads((run_dir / "manifest.json").read_text())["error"]
