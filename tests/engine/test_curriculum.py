"""A run of several phases: what one hands to the next, and that stopping between them changes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from ftlab.errors import ConfigError, NotReadyError, RunDirError
from ftlab.policy import lineage as policy
from tests.runs import BARE, FEW, final_hash, interrupted_run, logged, metrics, resume_run, train_run

SMALL = (
    "train.max_steps=3", "train.logging_steps=1", "data.max_samples=40", "eval.golden_rows=2", "eval.samples=1",
    "eval.max_new_tokens=4", "eval.steps=3", "tracker=none",
)  # fmt: skip
# For what is only trained.
UNMEASURED = (*SMALL, *BARE)
THREE = ("phases=[{name: read, stage: pt}, {name: instruct, stage: sft}, {name: prefer, stage: dpo}]", *UNMEASURED)


def test_three_phases_in_one_go_or_one_at_a_time(tmp_path):
    """The adapter that trains is one; the reference of the preference phase is the policy as that phase found it."""
    whole = train_run(tmp_path / "whole", *THREE)
    assert whole.manifest()["status"] == "finished"
    assert list(whole.manifest()["phases"]) == ["read", "instruct", "prefer"]
    lines = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    assert abs(next(line["rewards/margins"] for line in lines if "rewards/margins" in line)) <= 1e-6
    steps = [(line["phase"], line["step"], line["global_step"]) for line in lines if "loss" in line]
    assert steps == [(name, s, 3 * i + s) for i, name in enumerate(("read", "instruct", "prefer")) for s in (1, 2, 3)]
    seen = [line["total_tokens"] for line in lines if "loss" in line]
    assert seen == sorted(seen)
    assert seen[-1] == sum(phase["tokens"] for phase in whole.manifest()["phases"].values())
    assert whole.final.resolve() == (whole.path / "phases" / "03-prefer" / "final").resolve()

    for chosen in ("[read]", "[instruct,prefer]"):
        parts = train_run(tmp_path / "parts", *THREE, f"run.phases={chosen}")
        assert parts.manifest()["status"] == ("stopped" if chosen == "[read]" else "finished")
    assert final_hash(parts) == final_hash(whole)
    assert metrics(parts, "loss") == metrics(whole, "loss")


def test_a_phase_goes_on_where_the_one_before_ended(tmp_path):
    run = train_run(tmp_path / "run", *SMALL, FEW, "phases=[{name: a, stage: sft}, {name: b, stage: sft}]")
    validation = [json.loads((run.samples / f"{name}.json").read_text())["values"] for name in ("a-after", "b-before")]
    assert validation[0]["validation loss"] == validation[1]["validation loss"]


def test_a_merged_start_is_the_same_policy_with_a_new_adapter(tmp_path):
    given = ("phases=[{name: a, stage: sft}, {name: b, stage: sft, start: merge, lora.r: 4}]", *SMALL, FEW)
    run = train_run(tmp_path / "run", *given)
    before, after = (json.loads((run.samples / f"{name}.json").read_text()) for name in ("a-after", "b-before"))
    assert before["values"]["validation loss"] == pytest.approx(after["values"]["validation loss"], abs=1e-5)
    folder = run.path / "phases" / "02-b"
    adapter = load_file(folder / "final" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in adapter.items() if "lora_A" in name} == {4}
    from peft import AutoPeftModelForCausalLM

    served = AutoPeftModelForCausalLM.from_pretrained(folder / "final")
    assert torch.isfinite(served(input_ids=torch.tensor([[5, 6, 7]])).logits).all()


def test_a_phase_may_start_from_another_run(tmp_path):
    first = train_run(tmp_path / "first", *SMALL, FEW, "eval.golden_rows=0", "eval.samples=0")
    entry = f"phases=[{{name: again, stage: sft, from: '{first.path}'}}]"
    second = train_run(tmp_path / "second", entry, *SMALL, FEW)
    ended = json.loads((first.samples / "sft-after.json").read_text())["values"]["validation loss"]
    began = json.loads((second.samples / "again-before.json").read_text())["values"]["validation loss"]
    assert ended == began


def test_a_reward_model_of_the_same_run_rewards(tmp_path):
    numbers = ("phases.reinforce.stage.rollout_batch_size=8", "phases.reinforce.stage.mini_batch_size=4",
               "phases.reinforce.stage.max_new_tokens=8", "phases.reinforce.data.split.validation=none",
               "phases.reinforce.data.split.golden=none")  # fmt: skip
    run = train_run(
        tmp_path / "run", "phase=rlhf", *SMALL, "train.max_steps=2", "eval.golden_rows=0", "eval.samples=0", *numbers
    )
    assert list(run.manifest()["phases"]) == ["instruct", "judge", "reinforce"]
    policy = load_file(run.path / "phases" / "01-instruct" / "final" / "adapter_model.safetensors")
    judge = load_file(run.path / "phases" / "02-judge" / "final" / "adapter_model.safetensors")
    assert any("score" in name for name in judge)
    assert not any("score" in name for name in policy)


def test_a_phase_whose_start_is_not_there_yet(tmp_path):
    with pytest.raises(ConfigError, match=r"phase instruct starts from read, which is neither chosen nor finished"):
        train_run(tmp_path / "run", *THREE, "run.phases=[instruct]")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("start", ["continue", pytest.param("merge", marks=pytest.mark.matrix)])
def test_a_phase_runs_with_the_template_and_attention_that_run_yaml_says(start, tmp_path):
    """Only the weights are those of the phase before, however it wrote its text."""
    entries = "{name: a, stage: sft, model.template: chatml}, {name: b, stage: sft, model.template: alpaca, "
    entries += f"model.attention: eager, start: {start}}}"
    run = train_run(tmp_path / "run", f"phases=[{entries}]", *UNMEASURED, "train.max_steps=1")
    plan = run.plan()
    assert [phase.config.model.template for phase in plan.phases] == ["chatml", "alpaca"]
    served = [(run.phase(folder) / "final" / "chat_template.jinja").read_text() for folder in ("01-a", "02-b")]
    assert "<|im_start|>" in served[0] and "### Response:" in served[1] and "<|im_start|>" not in served[1]
    config = policy.starting_config(run, plan, plan.phases[1])
    assert (config.model.template, config.model.attention) == ("alpaca", "eager")
    assert policy.starting_config(run, plan, plan.phases[0]).model == plan.phases[0].config.model


def test_random_weights_are_merged_as_they_were_trained_on(tmp_path):
    entries = "{name: a, stage: sft}, {name: b, stage: sft, start: merge}"
    run = train_run(tmp_path / "run", "model.init=random", f"phases=[{entries}]", *SMALL)
    ended, began = (
        json.loads((run.samples / f"{name}.json").read_text())["values"] for name in ("a-after", "b-before")
    )
    assert began["validation loss"] == pytest.approx(ended["validation loss"], abs=1e-5)


def test_what_a_phase_lacks_is_said_with_its_name_before_anything_runs(tmp_path):
    with pytest.raises(NotReadyError, match=r"Phase b: This run cannot start here:\n  - .*nowhere\.json"):
        train_run(
            tmp_path / "run",
            "phases=[{name: a, stage: sft}, {name: b, data.path: nowhere.json, data.format: alpaca}]", *SMALL,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_what_was_trained_may_not_change_and_what_was_not_may(tmp_path):
    given = ("phases=[{name: a, stage: sft}, {name: b, stage: sft, start: merge}]", *UNMEASURED, "train.max_steps=2")
    run = train_run(tmp_path / "run", *given, "run.phases=[a]")
    with pytest.raises(RunDirError, match=r"phases\.a\.train\.weight_decay: 0\.0 there, 0\.5 here"):
        train_run(tmp_path / "run", *given, "phases.a.train.weight_decay=0.5")
    with pytest.raises(RunDirError, match=r"  - phases: a, b there"):
        train_run(tmp_path / "run", "phases=[{name: b, stage: sft}, {name: a, stage: sft, from: none}]", *given[1:])
    wide = ("phases.b.lora.target_modules=[no_such]",)
    with pytest.raises(NotReadyError, match="no_such"):
        train_run(tmp_path / "run", *given, *wide)
    assert not (run.phase("02-b") / "base").exists(), "it is refused before anything is made"
    mended = train_run(tmp_path / "run", *given, "phases.b.start=continue", "phases.b.data.max_samples=30")
    assert mended.manifest()["status"] == "finished"
    assert not (mended.phase("02-b") / "base").exists()
    alone = train_run(tmp_path / "alone", *given, "phases.b.start=continue", "phases.b.data.max_samples=30")
    assert final_hash(mended) == final_hash(alone)
    assert logged(mended) == logged(alone)


def test_resume_goes_on_with_the_phases_that_were_not_chosen(tmp_path):
    """Also where a later one was trained first, by itself: final is the last phase's."""
    given = (*UNMEASURED, "train.max_steps=1", "phases=[{name: a, stage: sft}, {name: b, stage: sft, from: none}]")
    run = train_run(tmp_path / "r", *given, "run.phases=[b]")
    said = " ".join(run.log.read_text().split())
    assert f"Phases left: a. Continue with: ftlab resume {run.path}" in said and "Stopped after" in said
    assert run.final.resolve() == (run.phase("02-b") / "final").resolve()
    again = resume_run(run.path)
    assert [*again.manifest()["phases"]] == ["b", "a"] and again.manifest()["status"] == "finished"
    assert again.final.resolve() == (run.phase("02-b") / "final").resolve()


@pytest.mark.matrix
def test_going_back_to_a_checkpoint_is_for_the_phase_at_which_the_run_stands(tmp_path):
    """Neither the phases after it nor a later start look for a checkpoint of that step."""
    given = (
        "phases=[{name: a, stage: sft, train.max_steps: 9}, {name: b, stage: sft, train.max_steps: 2}]",
        "data.max_samples=24", "data.split.validation=none", "eval.golden_rows=0", "eval.samples=0", "tracker=none",
        "train.save_steps=3", "train.save_total_limit=null", "train.logging_steps=1", "train.micro_batch_size=1",
    )  # fmt: skip
    whole = train_run(tmp_path / "whole", *given, "run.phases=[a]")
    with pytest.raises(RunDirError, match=r"run\.checkpoint=3: .*02-b has no whole checkpoint of that step"):
        train_run(whole.path, *given, "run.checkpoint=3")
    assert resume_run(whole.path).manifest()["status"] == "finished"

    run = interrupted_run(tmp_path / "r", 6, *given)
    with pytest.raises(RunDirError, match=r"run\.checkpoint=9: .*01-a has no whole checkpoint of that step"):
        train_run(run.path, *given, "run.checkpoint=9")
    again = train_run(run.path, *given, "run.checkpoint=3")
    assert again.manifest()["status"] == "finished" and [*again.manifest()["phases"]] == ["a", "b"]
    assert logged(again) == logged(whole) and final_hash(again) == final_hash(whole)
