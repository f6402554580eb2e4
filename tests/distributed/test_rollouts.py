"""Answers that several processes write for one run, and learn from: the same as one process does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.distributed.test_ranks import (
    BASE,
    GRPO,
    PPO,
    check_equal,
    lines,
    start,  # noqa: F401
    train,  # noqa: F401
)
from tests.wrappers import WITHOUT_KL


@pytest.fixture(scope="session")
def one_process(tmp_path_factory) -> Callable[..., Path]:
    """``one_process(train, "stage=ppo", ...)``: the folder of that run of one process, which is trained once."""
    folder, known = tmp_path_factory.mktemp("one"), dict[tuple[str, ...], Path]()

    def run(trained: Callable[..., Any], *words: str) -> Path:
        if words not in known:
            path = folder / str(len(known))
            trained(*words, f"run.dir={path}")
            known[words] = path
        return known[words]

    return run


def need_deepspeed(wrapper: str) -> None:
    if wrapper != "none":
        pytest.importorskip("deepspeed", reason="pip install 'ftlab[deepspeed]'")


def check_weights(one: Path, other: Path, tolerance: float = 2e-4) -> None:
    """All of the weights are saved, and none is as it began: of a step's sign Adam makes as much as of its size."""
    (left, right) = (next(folder.glob("*.safetensors")) for folder in (one, other))
    with safe_open(left, "pt") as a, safe_open(right, "pt") as b:
        assert sorted(a.keys()) == sorted(b.keys())
        for name in a.keys():  # noqa: SIM118
            torch.testing.assert_close(a.get_tensor(name), b.get_tensor(name), rtol=0, atol=tolerance)


@pytest.mark.distributed
@pytest.mark.parametrize("wrapper", ["none", "z1", "z2", "z2_offload"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_ten_steps_of_ppo(tmp_path, train, one_process, method, wrapper):  # noqa: F811
    """Sampled, judged and measured by both, over two rollouts that do not go round: the same answers and losses."""
    need_deepspeed(wrapper)
    words = [*BASE, *PPO, f"method={method}", "train.max_steps=10", "train.micro_batch_size=2", "eval.samples=3"]
    words += ["data.split.validation=auto", "eval.steps=5"]
    one, two = one_process(train, *words), tmp_path / "outputs/two"
    train(*words, "run.name=two", "hardware.devices=2", f"deepspeed={wrapper}")
    steps = [line for line in lines(one) if "loss" in line]
    assert len(steps) == 10 and all(line["critic_grad_norm"] > 0 for line in steps)
    assert len({line["reward"] for line in steps}) == 2 and any("eval_reward" in line for line in lines(one))
    check_equal(one, two, 1e-5)
    check_weights(one / "final", two / "final")
    assert answers_of(one) == answers_of(two) and len(answers_of(one)) == 6


@pytest.mark.distributed
@pytest.mark.parametrize("wrapper", ["none", "z1", "z2", "z2_offload"])
def test_policy_and_critic_are_clipped_apart(tmp_path, train, one_process, wrapper):  # noqa: F811
    """An optimizer that takes the size of a gradient as it is shows what it was clipped to; Adam would not."""
    need_deepspeed(wrapper)
    words = [*BASE, *PPO, "train.optimizer=sgd", "train.learning_rate=0.1", "train.max_grad_norm=0.1"]
    words += ["train.warmup_steps=0", "train.max_steps=4"]
    one, two = one_process(train, *words), tmp_path / "outputs/two"
    train(*words, "run.name=two", "hardware.devices=2", f"deepspeed={wrapper}")
    norms = [line[name] for line in lines(one) if "loss" in line for name in ("grad_norm", "critic_grad_norm")]
    assert len(norms) == 8 and min(norms) > 0.1, "all of them are clipped"
    check_equal(one, two, 1e-5)
    check_weights(one / "final", two / "final", 1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("wrapper", ["z1", "z2_offload"])
def test_a_rollout_that_is_stopped_takes_no_step(tmp_path, train, one_process, wrapper):  # noqa: F811
    """Where there are no gradients there is no momentum either, nor any decay of weights."""
    need_deepspeed(wrapper)
    words = [*BASE, *PPO, "stage.early_stop_kl=1e-9", "train.weight_decay=0.1", "train.max_steps=8"]
    one, two = one_process(train, *words), tmp_path / "outputs/two"
    train(*words, "run.name=two", "hardware.devices=2", f"deepspeed={wrapper}")
    norms = [line["grad_norm"] for line in lines(one) if "loss" in line]
    assert norms.count(0) > 2 and norms[-1] > 0, "the second rollout goes on"
    check_equal(one, two, 1e-5)
    check_weights(one / "final", two / "final")


def answers_of(run_dir: Path) -> list[str]:
    """What is kept of ppo's rollouts."""
    found = (run_dir / "samples/01-ppo-rollouts.jsonl").read_text().splitlines()
    return [json.loads(line)["answer"] for line in found]


# Ten steps of one generation each, under every wrapper, are in docs/compatibility.md.
GRPO_CELLS = [("none", method, generation) for method in ("full", "lora", "qlora") for generation in GRPO]
GRPO_CELLS += [("z2", "lora", "several steps")]


@pytest.mark.distributed
@pytest.mark.parametrize(("wrapper", "method", "generation"), GRPO_CELLS)
def test_ten_steps_of_grpo(tmp_path, train, one_process, wrapper, method, generation):  # noqa: F811
    """TRL's measures are means over micro-batches of all ranks: one process has to have as many rows in it."""
    need_deepspeed(wrapper)
    words = [*BASE, "stage=grpo", f"method={method}", *GRPO[generation], "train.max_steps=10", "eval.steps=5"]
    words += ["stage.rewards=['length:9']", "stage.max_new_tokens=8", "train.learning_rate=1e-4"]
    words += ["train.gradient_accumulation_steps=2", "data.split.validation=auto"]
    words += WITHOUT_KL if method == "full" else ()
    one, two = one_process(train, *words, "train.micro_batch_size=8"), tmp_path / "outputs/two"
    train(*words, "run.name=two", "train.micro_batch_size=4", "hardware.devices=2", f"deepspeed={wrapper}")
    assert len([line for line in lines(one) if "loss" in line]) == 10
    check_equal(one, two, 1e-5)
