"""``ftlab plan``: what it says of a run, how it ends, and what a run itself says and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.errors import ConfigError, FtlabError
from ftlab.planning import make_plan
from ftlab.preflight import fit
from ftlab.preflight.memory import device_of, predict
from ftlab.use import plan
from tests.conftest import ROOT
from tests.runs import BARE, interrupted_run, train_run
from tests.runs import make_run as run_of
from tests.test_width import too_wide

QLORA_8 = "plan model=llama2_7b method=qlora hardware.memory_gb=8"


def test_a_question_that_is_asked_every_day_is_answered(each):
    lines = [QLORA_8, f"{QLORA_8} train.micro_batch_size=1 train.gradient_checkpointing=true",
             f"{QLORA_8} train.gradient_checkpointing=true solve=train.micro_batch_size", "plan format=json",
             "plan model=llama2_70b method=qlora hardware.memory_gb=48 data.max_length=512 train.micro_batch_size=1 "
             "train.gradient_checkpointing=true train.optimizer=adamw_8bit",
             "hardware=cpu hardware.memory_gb=0.01 run.name=small"]  # fmt: skip
    ended = each(lines)
    too_much, fits, solved, as_json, tight, refused = (ended[line] for line in lines)
    assert {line: ended[line].heavy for line in lines if ended[line].heavy} == {}, "torch is not imported for it"
    assert {line: ended[line].left for line in lines if ended[line].left} == {}, "nothing is written"
    assert (too_much.returncode, fits.returncode, solved.returncode, as_json.returncode) == (1, 0, 0, 0)
    assert (tight.returncode, "of 48.0 GiB: tight" in tight.stdout) == (0, True)
    assert "trains      39,976,960 of 6,778,392,576 parameters (0.59%)" in too_much.stdout
    assert "of 8.00 GiB: does not fit" in too_much.stdout and "It fits with one of:" in too_much.stdout
    assert "of 8.00 GiB: fits" in fits.stdout
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
    """The whole command, but for starting Python and composing; benchmarks/plans.py has every model, method, device."""
    for line in (("model=llama3_1_405b", "method=full", "hardware=8xh200", "deepspeed=z3"),
                 ("model=qwen3_30b_a3b", "stage=grpo", "hardware=a100_80gb"),
                 ("model=llama2_7b", "method=lora", "hardware=8xa100")):  # fmt: skip
        run = make_run(*line)
        began = time.process_time()
        plan.describe(make_plan(run, line))
        assert time.process_time() - began < 1.0


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_every_shipped_model_is_planned_in_under_two_seconds():
    """The benchmark ends with 1 where one takes longer or is refused."""
    words = ["--hardware", "cpu", "8xh100", "--methods", "qlora", "full", "--commands", "4"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plans.py"), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    models = [path for path in (ROOT / "conf" / "model").glob("*.yaml") if not path.name.startswith("_")]
    assert f"in one process: {4 * len(models)}, median 0." in done.stdout
    assert "whole commands: 4, median " in done.stdout


SHORT = (*BARE, "train.max_steps=4", "train.save_steps=2", "train.logging_steps=1", "train.lr_scheduler=constant")


@pytest.fixture
def same_as_run(tmp_path, capsys) -> Callable[..., dict[str, Any]]:
    """``same_as_run("train.max_steps=4", ...)`` plans a run in a folder, starts it, and compares what they say of what
    is there; returns what the plan found."""

    def files() -> dict[Path, tuple[int, bytes]]:
        paths = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def ended(do: Callable[[], Any]) -> tuple[str, str]:
        refusal = ""
        try:
            do()
        except FtlabError as error:
            refusal = str(error)
        return capsys.readouterr().out, refusal

    def compare(*words: str) -> dict[str, Any]:
        given = (*words, f"run.dir={tmp_path / 'run'}")
        capsys.readouterr()
        before = files()
        planned, refusal = ended(lambda: plan.plan(run_of("task=plan", "task.format=json", *given), given))
        assert files() == before, "a plan writes nothing"
        found = json.loads(planned)
        said, refusal_of_run = ended(lambda: train_run(tmp_path / "run", *words))
        assert refusal == refusal_of_run
        directory = found["directory"]
        if directory["does"] in ("continue", "finished", "nothing"):
            plain = " ".join(said.split())
            assert [line for line in directory["said"] if line not in plain] == []
        assert directory["does"] == "continue" or "continuing from" not in said
        return found

    return compare


@pytest.mark.matrix
def test_a_plan_says_what_the_run_does_with_what_is_there(same_as_run, tmp_path):
    interrupted_run(tmp_path / "run", 2, *SHORT)
    (tmp_path / "run" / "phases" / "01-sft" / "checkpoint-7").mkdir()  # torn: passed over
    went_on = same_as_run(*SHORT)
    assert (went_on["directory"]["does"], went_on["directory"]["step"]) == ("continue", 3)
    assert same_as_run(*SHORT)["directory"]["does"] == "finished"
    longer = same_as_run(*SHORT, "train.max_steps=5")["directory"]
    assert (longer["does"], longer["phase"], longer["step"]) == ("continue", "sft", 4)
    back = same_as_run(*SHORT, "train.max_steps=6", "run.checkpoint=4")["directory"]
    assert (back["does"], back["step"]) == ("continue", 4)


REFUSED = {
    "seed=1": "seed: 42 there, 1 here\nrun.if_exists=new starts beside it",
    "run.if_exists=refuse": "exists. run.if_exists=resume continues it",
    "train.max_steps=3": "it was to take 4 steps, and 3 are no more than that",
}


def test_a_plan_refuses_what_the_run_refuses(same_as_run, tmp_path, make_run):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": f"{'word ' * 40} {i}"}) + "\n" for i in range(16)))
    rows = (*SHORT, "stage=pt", f"data.path={data}", "data.format=text")
    interrupted_run(tmp_path / "run", 2, *rows)
    for word, reason in REFUSED.items():
        found = same_as_run(*rows, word)
        assert found["directory"]["does"] == "refuse" and reason in "\n".join(found["directory"]["said"])
        assert found["phases"][0]["tokens"] is None, "they are another run's"
    text = data.read_text()
    data.write_text(text + text)
    told = "\n".join(same_as_run(*rows)["directory"]["said"])
    assert "rows.jsonl has changed" in told and "Put the data back as it was to continue" in told
    data.write_text(text)
    lines = plan.report_lines(plan.describe(make_plan(make_run(*(line := (*rows, f"run.dir={tmp_path}"))), line)))
    assert f"directory   {tmp_path} refuses this run" in lines, "it is no run directory"


@pytest.mark.matrix
def test_of_a_curriculum_a_plan_says_the_phase(same_as_run, tmp_path):
    words = ("phases=[{name: read, stage: pt}, {name: instruct, stage: sft}]", *SHORT, "data.max_samples=40")
    train_run(tmp_path / "run", *words, "run.phases=[read]")
    assert same_as_run(*words, "run.phases=[read]")["directory"]["does"] == "nothing"
    mended = same_as_run(*words, "phases.instruct.train.learning_rate=1e-5")["directory"]
    assert (mended["does"], mended["said"]) == ("begin", ["phase instruct begins"])


def test_a_run_that_is_there_gives_its_steps_and_tokens(make_run, tmp_path):
    run_dir = interrupted_run(tmp_path / "run", 1, *BARE, "data.max_samples=24")
    line = (*BARE, "data.max_samples=24", f"run.dir={run_dir.path}")
    facts = plan.describe(make_plan(make_run(*line), line))
    ledger = json.loads(run_dir.ledger("sft").read_text())["splits"]["train"]
    assert facts["directory"]["does"] == "continue"
    assert facts["phases"][0]["steps"] == 4 * -(-ledger["packing"]["rows"] // 2)  # epochs, rows of a step
    assert facts["phases"][0]["tokens"] == ledger["tokens"]["trained"] + ledger["tokens"]["masked"] > 0
    new = (*line, "run.if_exists=new")
    assert plan.describe(make_plan(make_run(*new), new))["directory"] is None


WRONG = {
    "plan solve=lora.rank": "Did you mean lora.r?",
    "plan solve=lora.r method=full": "task.solve=lora.r: method=full has no adapter. Use method=lora or qlora",
    "plan hardware.memory_gb=inf": "hardware.memory_gb=inf: must be a finite number",
    "plan format=xml": "task.format=xml: must be one of: table, json.",
    "plan hardware=gpu_24gb hardware.memory_gb=null solve=lora.r": "give hardware.memory_gb=N",
    "plan solve=lora.r hardware.memory_gb=0.1": "no lora.r fits: the smallest needs",
}


SWEEP = "plan -m lora.r=8 hardware.memory_gb=0.1,8"


def test_wrong_questions_and_sweeps_get_answers_that_fit_a_terminal(each, env):
    """Of a sweep a job that does not fit ends none of the others, and each says which it is."""
    env["COLUMNS"] = "80"
    ended = each([*WRONG, SWEEP])
    sweep = ended.pop(SWEEP)
    for line, done in ended.items():
        assert done.returncode == 1 and WRONG[line] in " ".join(done.stderr.split()), done.stderr
        assert not done.stdout and not too_wide(done.stderr) and "Traceback" not in done.stderr
        assert done.heavy == done.left == []
    titles = [line for line in sweep.stdout.splitlines() if line.startswith("ftlab plan")]
    assert titles == [f"ftlab plan lora.r=8 hardware.memory_gb={gb}" for gb in (0.1, 8)]
    assert (sweep.stdout.count(": does not fit"), sweep.stdout.count(": fits")) == (1, 1)
    assert (sweep.returncode, too_wide(sweep.stdout)) == (1, [])
    assert "This run does not fit: " in sweep.stderr
    assert sweep.left == [], "no folder of a sweep"


def test_what_is_solved_for_can_be_typed(make_run):
    """Under a global batch size a micro-batch divides it, and completions of grpo are whole groups."""
    line = ("hardware=cpu", "hardware.memory_gb=0.9", "train.global_batch_size=48")
    run = make_plan(make_run(*line), line).phases[0].config
    found = fit.solve(run, "train.micro_batch_size", device_of(run))
    assert found.value == 16, "24 rows would not fit, and none between divides 48"
    typed = (*line, f"train.micro_batch_size={found.value}")
    again = make_plan(make_run(*typed), typed).phases[0].config
    assert again.train.gradient_accumulation_steps == 3
    assert predict(again).needed == found.needed

    line = ("stage=grpo", "hardware=cpu", "hardware.memory_gb=2", "stage.steps_per_generation=1")
    run = make_run(*line)
    found = fit.solve(run, "train.micro_batch_size", device_of(run))
    assert found.value is not None and found.value % 16 == 0
    with pytest.raises(ConfigError, match="has no adapter"):
        fit.solve(make_run("method=freeze"), "lora.r", device_of(run))
