"""experiment=pilot: what a short run says of the whole one."""

from __future__ import annotations

import json

import pytest

from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.engine.pilot import whole_command
from ftlab.errors import ConfigError, DivergedError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.names import PILOT
from tests.runs import held_out, make_run, train_run

SMALL = ("tracker=none", "hardware=cpu", "train.learning_rate=5e-3", "eval.max_new_tokens=16", "eval.samples=2")


def evaluation(run: RunDir) -> dict:
    return json.loads((run.path / PILOT).read_text())


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> str:
    return held_out(tmp_path_factory.mktemp("few"), "instructions", 12)


def test_a_pilot_is_the_run_but_shorter():
    whole, pilot = make_run("train.warmup_steps=500"), make_run("train.warmup_steps=500", "experiment=pilot")
    assert pilot.train.max_steps == 100 and pilot.train.warmup_steps == 10
    assert pilot.eval.golden_rows == 150 and pilot.data.split.golden == "validation"
    assert pilot.pilot.full == {"train.max_steps": None, "eval.metrics": None, "train.warmup_steps": 500}
    assert pilot.with_values(pilot.pilot.full).train == whole.train.model_copy(update={"logging_steps": 1})
    longer = make_run("experiment=pilot", "train.max_steps=7", "eval.steps=200", "eval.metrics=[token_f1]")
    assert longer.train.max_steps == 7, "a run of fewer steps is its own pilot"
    assert longer.eval.steps == 50
    assert longer.eval.metrics == ("token_f1", "stop_rate", "length", "majority")


@pytest.mark.parametrize(("words", "quant"), [
    ("hardware=8xh100", "nf4"),
    ("hardware=cpu", "none"),
    ("hardware=8xh100 method=full", "none"),
    ("hardware=8xh100 lora=pissa", "none"),
    ("hardware=8xh100 quant=int8", "int8"),
    ("hardware=8xh100 pilot.quant=same", "none"),
])  # fmt: skip
def test_4_bit_weights_where_there_is_a_gpu_and_the_run_may_have_them(words, quant):
    pilot = make_run("experiment=pilot", *words.split())
    assert pilot.quant.name == quant
    assert (pilot.pilot.full or {}).get("quant.name") == ("none" if quant == "nf4" else None)
    if quant == "nf4":
        assert pilot.quant == make_run("method=qlora").quant


def test_the_phases_of_a_curriculum_are_pilots_each():
    phases = "phases=[{name: one, stage: sft}, {name: two, stage: sft, train: {max_steps: 30}}]"
    run = read(command_line.read(("experiment=pilot", phases)).overrides)
    assert [entry.config["train"]["max_steps"] for entry in run.phases] == [100, 30]


def test_what_ftlab_writes_is_no_key_to_set():
    with pytest.raises(ConfigError, match=r"pilot.full: is written by ftlab; pilot.steps=N makes a pilot"):
        read(["pilot.full={a: 1}"])


def test_the_command_of_the_whole_run(tmp_path):
    given = ("experiment=[tiny_instruct,pilot]", "run.name=x", "lora.r=4", "pilot.steps=3", "data.path=a b.jsonl")
    plan = train_plan(given)
    assert whole_command(plan) == "ftlab experiment=tiny_instruct lora.r=4 'data.path=a b.jsonl'"
    assert whole_command(train_plan(("experiment=pilot",))) == "ftlab"


def train_plan(given):
    from ftlab.rundir.plan import Phase, Plan

    phase = Phase(name="sft", folder="01-sft", config=make_run(), source=None, start="continue")
    return Plan(title="x", overrides=given, phases=(phase,))


def test_a_good_pilot_tells_what_the_whole_run_takes(tmp_path, rows, capsys):
    given = (*SMALL, rows, "data.max_samples=160", "train.epochs=2")
    pilot = train_run(tmp_path / "pilot", "experiment=pilot", "pilot.steps=10", "eval.golden_rows=8", *given)
    said = capsys.readouterr().out
    found = evaluation(pilot)
    [phase] = found["phases"]
    by_name = {check["name"]: check for check in phase["checks"]}
    assert by_name["loss"]["judgement"] == by_name["finite"]["judgement"] == "good"
    assert by_name["loss"]["validation_after"] < by_name["loss"]["validation_before"]
    assert {"stop", "answers"} <= by_name.keys()
    assert phase["pilot"] == {
        "steps": 10,
        "instead_of": {"train.max_steps": None, "eval.steps": 50, "eval.metrics": None},
    }
    whole = train_run(tmp_path / "whole", *given)
    taken = whole.manifest()["phases"]["sft"]["steps"]
    assert 0 < phase["whole"]["share"] < 1
    train = json.loads(pilot.ledger("sft").read_text())["splits"]["train"]["rows"]
    assert phase["whole"]["share"] == pytest.approx(160 / train["in"])
    assert phase["whole"]["steps"] == pytest.approx(taken / phase["whole"]["share"], rel=0.1)
    assert phase["whole"]["low"] <= phase["whole"]["seconds"] <= phase["whole"]["high"]
    assert "sft: the pilot says" in said and "Verdict: " in said
    assert f"The whole of it: {phase['whole']['steps']:,} steps in about" in said
    assert found["command"] in said


@pytest.mark.matrix
def test_steps_and_time_of_the_whole_run_are_those_it_takes(tmp_path, rows):
    """Of all its rows, those that the pilot read too."""
    given = (*SMALL, rows, "data.path=" + str(few(tmp_path)), "data.format=alpaca", "train.epochs=4",
             "data.split.golden=none", "eval.samples=0")  # fmt: skip
    pilot = train_run(tmp_path / "pilot", "pilot.steps=12", "train.logging_steps=1", *given)
    whole = train_run(tmp_path / "whole", *given)
    [phase] = evaluation(pilot)["phases"]
    taken = whole.manifest()
    assert phase["whole"]["steps"] == taken["phases"]["sft"]["steps"]
    assert phase["whole"]["share"] == 1
    assert phase["whole"]["seconds"] == pytest.approx(taken["seconds"], rel=0.7)


def few(folder):
    from tests.conftest import ROOT

    path = folder / "few.jsonl"
    rows = (ROOT / "dataset/instructions/train.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:200]))
    return path


def test_a_run_that_diverges_is_told_by_its_pilot_too(tmp_path, rows):
    with pytest.raises(DivergedError):
        train_run(tmp_path / "r", "experiment=pilot", "pilot.steps=9", *SMALL, rows, "train.learning_rate=1e30",
                  "train.warmup_ratio=0", "train.max_grad_norm=0", "data.max_samples=100")  # fmt: skip
    found = evaluation(RunDir.open(tmp_path / "r"))
    assert found["verdict"] == "do not start"
    [check] = found["phases"][0]["checks"]
    assert check["judgement"] == "bad" and "step" in check["reason"]


NOTHING_HELD_OUT = ("eval.golden_rows=0", "data.split.golden=none", "data.split.validation=none")
RL = ("stage=grpo", "stage.num_generations=2", "stage.max_new_tokens=4", "train.micro_batch_size=4", *SMALL)


def test_rewards_that_are_all_equal_end_a_pilot_of_grpo_in_its_first_steps(tmp_path, capsys):
    run = train_run(tmp_path / "r", "experiment=pilot", "pilot.steps=30", *RL, "stage.rewards=['format:nowhere']",
                    "data.max_samples=24", "data.split.validation=none")  # fmt: skip
    found = evaluation(run)
    assert found["verdict"] == "do not start"
    assert run.manifest()["phases"]["grpo"]["steps"] == 5
    told = "the reward format:nowhere is 0 for every answer in all 5 logged steps"
    assert any(check["reason"].startswith(told) for check in found["phases"][0]["checks"])
    assert f"step 5: {told}" in " ".join(capsys.readouterr().out.split())


def test_a_whole_run_is_warned_and_goes_on(tmp_path, capsys):
    train_run(tmp_path / "r", *RL, "stage.rewards=['format:nowhere']", "data.max_samples=24", "train.max_steps=7",
              "train.logging_steps=1", *NOTHING_HELD_OUT)  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("is 0 for every answer") == 1 and "step 7: last logged loss" in said
    assert not (tmp_path / "r" / PILOT).exists()
