"""``ftlab plan``: what it says of a run, how it ends, and what a run itself says and refuses."""

from __future__ import annotations

import json
import time

import pytest

from ftlab.planning import make_plan
from ftlab.use import plan

QLORA_8 = "plan model=llama2_7b method=qlora hardware.memory_gb=8"


def test_a_question_that_is_asked_every_day_is_answered(each):
    lines = [QLORA_8, f"{QLORA_8} train.micro_batch_size=1 train.gradient_checkpointing=true",
             f"{QLORA_8} train.gradient_checkpointing=true solve=train.micro_batch_size", "plan format=json",
             "hardware=cpu hardware.memory_gb=0.01 run.name=small"]  # fmt: skip
    ended = each(lines)
    too_much, fits, solved, as_json, refused = (ended[line] for line in lines)
    assert {line: ended[line].heavy for line in lines if ended[line].heavy} == {}, "torch is not imported for it"
    assert {line: ended[line].left for line in lines if ended[line].left} == {}, "nothing is written"
    assert (too_much.returncode, fits.returncode, solved.returncode, as_json.returncode) == (1, 0, 0, 0)
    assert "trains      39,976,960 of 6,778,392,576 parameters (0.59%)" in too_much.stdout
    assert "of 8.00 GiB: does not fit" in too_much.stdout and "It fits with one of:" in too_much.stdout
    assert "of 8.00 GiB: fits" in fits.stdout or "of 8.00 GiB: tight" in fits.stdout
    assert "model.path=meta-llama/Llama-2-7b-hf is not in the cache" in fits.stdout
    assert solved.stdout.startswith("train.micro_batch_size=1  ")
    facts = json.loads(as_json.stdout)
    assert (facts["verdict"], facts["missing"]) == ("fits", [])
    phase = facts["phases"][0]
    assert sum(phase["memory"]["bytes"].values()) + phase["memory"]["outside"] == pytest.approx(
        phase["memory"]["needed"], abs=20
    )
    assert refused.returncode == 1
    assert "This run needs about" in refused.stderr and "hardware.memory_gb=0.01" in refused.stderr


def test_devices_that_training_refuses_are_planned_for(make_run):
    run = make_run("model=llama2_70b", "method=lora", "hardware=8xh100", "deepspeed=z3", "train.micro_batch_size=1",
                   "train.gradient_checkpointing=true")  # fmt: skip
    facts = plan.describe(make_plan(run, []))
    assert (facts["verdict"], facts["phases"][0]["device"]["count"]) == ("fits", 8)
    assert any("asks for an accelerator" in line for line in facts["missing"])


def test_every_phase_of_a_curriculum_has_its_own_figures(make_run):
    line = ("phase=rlhf", "hardware=cpu")
    facts = plan.describe(make_plan(make_run(*line), line))
    assert [phase["stage"] for phase in facts["phases"]] == ["sft", "rm", "ppo"]
    assert len({phase["memory"]["needed"] for phase in facts["phases"]}) == 3
    assert {"critic", "reference", "reward model"} <= facts["phases"][2]["memory"]["bytes"].keys()


def test_it_takes_under_two_seconds(make_run):
    """The whole command, but for starting Python."""
    for line in (("model=llama3_1_405b", "method=full", "hardware=8xh200", "deepspeed=z3"),
                 ("model=qwen3_30b_a3b", "stage=grpo", "hardware=a100_80gb")):  # fmt: skip
        run = make_run(*line)
        began = time.process_time()
        plan.describe(make_plan(run, line))
        assert time.process_time() - began < 1.0
