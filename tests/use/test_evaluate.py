"""``ftlab evaluate``: what it measures, keeps and compares, and what it refuses."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ftlab.base.numbers import readable
from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.errors import ConfigError, DataError, NotReadyError, RunDirError
from ftlab.measure import generate
from ftlab.measure.scores import MetricError
from ftlab.policy.from_run import Policy, load_policy
from ftlab.rundir.directory import RunDir
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.use.evaluate.command import evaluate
from tests.runs import BARE, held_out, interrupted_run, train_run

GIVEN = (
    "model=tiny_instruct", "data.max_samples=200", "train.max_steps=4", "train.learning_rate=1e-3", "tracker=none",
    "eval.golden_rows=0", "eval.samples=0", "eval.max_new_tokens=8", "eval.steps=2", "train.save_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("evaluate") / "run", *GIVEN)


@pytest.fixture
def run(here, trained) -> Path:
    """The run, in the current folder."""
    shutil.copytree(trained.path, here / "run", symlinks=True)
    return Path("run")


def evaluated(*argv: str) -> None:
    """``ftlab evaluate ...``"""
    given = command_line.read(["evaluate", *argv])
    evaluate(read(given.overrides), given.overrides)


def found(folder: str | Path) -> tuple[dict, list[dict]]:
    """``evaluation.json`` and the lines of ``predictions.jsonl``."""
    files = EvaluationDir(Path(folder))
    return json.loads(files.json.read_text()), [json.loads(line) for line in files.predictions.read_text().splitlines()]


def without_losses(lines: list[dict]) -> list[dict]:
    """Sums whose last digit is another where rows run beside others."""
    return [{key: value for key, value in line.items() if key != "nll"} for line in lines]


# ------------------------------------------------------------------------------------------------------ what it finds


def test_its_loss_is_that_of_the_run_and_of_a_loop_by_hand(run, trained, capsys):
    evaluated("run", "split=validation", "generate=false")
    values, lines = found("run/evaluations/instructions-validation")
    after = trained.manifest()["phases"]["sft"]["after"]
    assert values["metrics"]["loss"]["value"] == pytest.approx(after["validation loss"], abs=1e-5)
    policy = load_policy(run)
    total, count = 0.0, 0
    for line in (Path(__file__).parents[2] / "dataset/instructions/validation.jsonl").read_text().splitlines():
        row = json.loads(line)
        asked = "\n".join(filter(None, [row["instruction"], row["input"]]))
        prompt = policy.template.prompt([{"role": "user", "content": asked}], None)
        ids = policy.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = [*policy.tokenizer(row["output"], add_special_tokens=False)["input_ids"], policy.stop[0]]
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*ids, *answer]])).logits[0].double().log_softmax(-1)
        for place, token in enumerate(answer, len(ids)):
            total -= float(logits[place - 1, token])
            count += 1
    assert values["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert sum(line["nll"] for line in lines) == pytest.approx(total, rel=1e-5)
    assert sum(line["learned_tokens"] for line in lines) == count
    assert values["metrics"]["loss"]["rows"] == len(lines) == 150
    printed = capsys.readouterr().out
    assert "run (final) on 150 validation rows of instructions" in printed
    assert readable(values["metrics"]["perplexity"]["value"]) in printed
    assert EvaluationDir(Path("run/evaluations/instructions-validation")).table.read_text() in printed


def test_answers_are_the_same_however_many_are_written_at_once(run):
    for size in (1, 16):
        evaluated("run", "split=golden", "limit=40", f"eval.batch_size={size}", f"out=by-{size}")
    (one, alone), (many, together) = found("by-1"), found("by-16")
    assert without_losses(alone) == without_losses(together) and len(alone) == 40
    assert one["metrics"]["exact_match"] == many["metrics"]["exact_match"]
    assert one["metrics"]["loss"]["value"] == pytest.approx(many["metrics"]["loss"]["value"], rel=1e-6)
    right = [line["prediction"].strip() == line["reference"].strip() for line in alone]
    assert one["metrics"]["exact_match"]["value"] == sum(right) / 40
    assert [line["scores"]["exact_match"] for line in alone] == list(map(float, right))
    assert one["metrics"]["length"]["value"] == sum(line["tokens"] for line in alone) / 40
    assert len({line["prediction"] for line in alone}) > 5


def test_drawn_answers_are_the_same_however_many_are_written_at_once_and_however_often(run):
    for size in (3, 16):
        evaluated("run", "split=golden", "limit=24", "temperature=1", f"eval.batch_size={size}", f"out=by-{size}")
    evaluated("run", "split=golden", "limit=24", "temperature=1", "seed=5", "out=other")
    predictions = [[line["prediction"] for line in found(name)[1]] for name in ("by-3", "by-16", "other")]
    assert predictions[0] == predictions[1] != predictions[2]


def test_an_evaluation_that_was_stopped_goes_on(run, monkeypatch):
    evaluated("run", "split=golden", "limit=40", "eval.batch_size=8", "out=whole")
    add, added = EvaluationDir.add, []

    def stops(self, lines):
        if len(added) == 4:
            raise KeyboardInterrupt
        added.append(lines)
        add(self, lines)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EvaluationDir, "add", stops)
        evaluated("run", "split=golden", "limit=40", "eval.batch_size=8")
    folder = Path("run/evaluations/instructions-golden")
    assert json.loads((folder / "evaluation.json").read_text())["status"] == "running"
    with (folder / "predictions.jsonl").open("a") as file:
        file.write('{"row": 39, "predic')  # what a crash leaves
    kept = sum(
        "prediction" in json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()[:-1]
    )
    assert 0 < kept < 40
    asked = []
    batches = generate.answer_batches
    monkeypatch.setattr(
        generate, "answer_batches", lambda *given, **more: asked.append(len(given[1])) or batches(*given, **more)
    )
    evaluated("run", "split=golden", "limit=40", "eval.batch_size=8")
    assert asked == [40 - kept]
    whole, again = found("whole"), found(folder)
    assert without_losses(again[1]) == without_losses(whole[1])
    assert again[0]["metrics"]["bleu"] == whole[0]["metrics"]["bleu"]


@pytest.mark.kill
def test_an_evaluation_that_is_killed_at_random_moments_goes_on(run, env):
    """In a process of its own, until it comes to its end: each start finds what those before it have kept."""
    words = ["evaluate", "run", "split=golden", "limit=200", "eval.batch_size=2"]
    evaluated(*words[1:], "out=whole")
    folder, draw = Path("run/evaluations/instructions-golden"), random.Random(0)
    kept = [0]

    def answered() -> int:
        path = folder / "predictions.jsonl"
        return path.read_bytes().count(b'"prediction"') if path.exists() else 0

    for more in (1, 20, 40, 60):
        process = subprocess.Popen([sys.executable, "-m", "ftlab", *words], env=env, stdout=subprocess.DEVNULL)
        while answered() < kept[-1] + more and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() / 10)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was at work"
        kept.append(answered())
    assert kept == sorted(kept) and 0 < kept[1] < kept[-1] < 200
    done = subprocess.run([sys.executable, "-m", "ftlab", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole, again = found("whole"), found(folder)
    assert without_losses(again[1]) == without_losses(whole[1]), "every row once, with the same answer"
    assert again[0]["metrics"]["exact_match"] == whole[0]["metrics"]["exact_match"]


def test_other_metrics_of_the_same_answers_need_no_model(run, monkeypatch):
    Path("my.py").write_text(
        "def capital(predictions, input):\n    return [float('Country' in one) for one in input]\n"
    )
    evaluated("run", "split=golden", "limit=12")
    monkeypatch.setattr(Policy, "load", lambda *_: pytest.fail("nothing has to be answered"))
    evaluated("run", "split=golden", "limit=12", "eval.metrics=[exact_match,my.py:capital]")
    values, lines = found("run/evaluations/instructions-golden")
    assert [*values["metrics"]] == ["loss", "perplexity", "exact_match", "capital"]
    countries = [float("Country" in line["prompt"][-1]["content"]) for line in lines]
    assert sum(countries) > 0 and [line["scores"]["capital"] for line in lines] == countries


def test_a_metric_that_fails_loses_nothing(run):
    Path("my.py").write_text("def bad(predictions):\n    return [len(one) / 0 for one in predictions]\n")
    with pytest.raises(MetricError, match=r"my\.py:bad failed: ZeroDivisionError: division by zero .*line 2\)"):
        evaluated("run", "split=golden", "limit=4", "eval.metrics=[my.py:bad,exact_match]")
    values, lines = found("run/evaluations/instructions-golden")
    assert "ZeroDivisionError" in values["failures"]["bad"] and values["status"] == "finished"
    assert "exact_match" in values["metrics"] and len(lines) == 4


# -------------------------------------------------------------------------------------------------- beside what else


def test_the_base_is_what_the_run_began_with(here, capsys):
    given = (held_out(here, "instructions", 24), "data.max_samples=64", *GIVEN[4:])
    train_run(here / "run", "model=tiny", "train.max_steps=8", "train.learning_rate=1e-2", *given)
    capsys.readouterr()
    evaluated("run", "split=validation", "limit=20", "compare=base", "format=json")
    told = json.loads(capsys.readouterr().out)
    base, _ = found("run/evaluations/instructions-validation-base")
    loss = told["compare"]["base"]["loss"]
    assert (loss["value"], loss["other"]) == (told["metrics"]["loss"]["value"], base["metrics"]["loss"]["value"])
    assert loss["difference"] == pytest.approx(loss["value"] - loss["other"])
    assert loss["low"] < loss["difference"] < loss["high"] < 0 and loss["p_value"] < 0.001
    assert (loss["verdict"], base["model"], loss["rows"]) == ("better", "base", 20)
    assert told == found("run/evaluations/instructions-validation")[0]
    # Before training the run measured the same.
    assert base["identity"]["weights"] is None
    evaluated("run", "split=validation", "compare=base", "generate=false")
    before = RunDir.open(here / "run").manifest()["phases"]["sft"]["before"]["validation loss"]
    other = found("run/evaluations/instructions-validation-base-2")[0]["metrics"]["loss"]["value"]
    assert other == pytest.approx(before, abs=1e-5)


def test_two_runs_on_the_same_rows(run, here, capsys):
    shutil.copytree(run, here / "twin", symlinks=True)
    evaluated("run", "split=golden", "limit=20", "compare=[twin,base]", "format=json")
    told = json.loads(capsys.readouterr().out)["compare"]
    assert [*told] == ["twin", "base"]
    for one in told["twin"].values():
        assert (one["difference"], one["p_value"], one["verdict"]) == (0.0, 1.0, "no difference shown")
    assert found("twin/evaluations/instructions-golden")[1] == found("run/evaluations/instructions-golden")[1]


# ------------------------------------------------------------------------------------------------------- which weights


def test_a_checkpoint_is_the_one_that_is_named(run, trained):
    evaluated("run", "run.checkpoint=2", "split=validation", "generate=false")
    values, _ = found("run/evaluations/instructions-validation-step-2")
    logged = {line["step"]: line["eval_loss"] for line in trained.read_metrics() if "eval_loss" in line}
    assert values["metrics"]["loss"]["value"] == pytest.approx(logged[2], abs=1e-5) != logged[4]
    assert values["model"] == "checkpoint-2"
    with pytest.raises(
        RunDirError, match=r"run\.checkpoint=3: .*run has no whole checkpoint of that step\. It has: 4, 2"
    ):
        evaluated("run", "run.checkpoint=3")


def test_a_run_that_is_not_finished_is_measured_by_its_best_checkpoint(here, capsys):
    interrupted_run(here / "run", 3, *GIVEN)
    evaluated("run", "limit=8", "generate=false")
    printed = capsys.readouterr().out
    assert "phase sft is not finished: this is its checkpoint of step" in printed and "the best by eval_loss" in printed


def test_a_run_without_weights_is_refused(run):
    shutil.rmtree("run/phases")
    with pytest.raises(RunDirError, match="run has no weights yet: no phase is finished"):
        evaluated("run")


def test_other_data_is_asked_whole(run):
    rows = [{"prompt": f"What is {i} plus 1?", "answer": str(i + 1)} for i in range(9)]
    Path("asked.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    evaluated("run", "data.path=asked.jsonl", "data.format=prompts")
    values, lines = found("run/evaluations/asked-train")
    assert (values["rows"], values["answers"]) == (9, 9) and "loss" not in values["metrics"]
    assert values["metrics"]["numeric_answer"]["rows"] == 9 and lines[3]["reference"] == "4"


def test_pairs_have_a_preference_accuracy(run):
    evaluated("run", "data=preferences", "limit=30", "generate=false")
    values, lines = found("run/evaluations/preferences-validation")
    prefers = [line["nll"] < line["nll_rejected"] for line in lines]
    assert values["metrics"]["preference_accuracy"]["value"] == sum(prefers) / 30
    assert values["metrics"]["preference_accuracy"]["rows"] == 30


def test_rows_without_references_have_no_metrics_that_compare(run):
    Path("asked.jsonl").write_text('{"prompt": "Why?"}\n{"prompt": "Who is it?"}\n')
    evaluated("run", "data.path=asked.jsonl", "data.format=prompts")
    values, lines = found("run/evaluations/asked-train")
    assert [*values["metrics"]] == ["stop_rate", "length", "majority"]
    assert [line["reference"] for line in lines] == [None, None]
    with pytest.raises(DataError, match=r"no row has a reference, and eval\.metrics=exact_match compares with it"):
        evaluated("run", "data.path=asked.jsonl", "data.format=prompts", "eval.metrics=[exact_match]")


# ----------------------------------------------------------------------------------------------------- what it refuses


def test_a_prompt_longer_than_the_context_is_told_or_left_out_and_counted(run):
    rows = [{"prompt": "word " * 3000, "answer": "x"}, {"prompt": "Why?", "answer": "y"}]
    Path("asked.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given = ("run", "data.path=asked.jsonl", "data.format=prompts")
    with pytest.raises(
        DataError, match=r"asked\.jsonl:1: this prompt has .* more than the 2,048 of the model's context"
    ):
        evaluated(*given)
    evaluated(*given, "too_long=skip")
    values, lines = found("run/evaluations/asked-train")
    assert (values["answers"], values["left_out"]) == (1, {"prompt longer than the context": 1})
    assert [line.get("prediction") is None for line in lines] == [True, False]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "ftlab evaluate needs a run directory"),
        (("run", "lora.r=4"), "lora.r: is the run's own"),
        (("run", "eval.metrics=[exactmatch]"), "there is no such metric"),
        (("run", "split=test"), "this data has no such rows. It has: validation, golden, train."),
        (("run", "phase=dpo"), r"no such phase. .*run has: sft"),
        (("run", "data.path=nowhere.jsonl", "data.format=alpaca"), "nowhere.jsonl does not exist"),
        (("run", "compare=other"), "other is no run directory"),
        (("nowhere",), "nowhere is no run directory"),
    ],
)
def test_what_cannot_be_evaluated_is_told(run, argv, said):
    with pytest.raises((ConfigError, DataError, RunDirError), match=said):
        evaluated(*argv)


def test_a_base_that_is_gone_and_an_adapter_of_another_base_are_told(here):
    from tests.conftest import ROOT

    shutil.copytree(ROOT / "models" / "tiny", here / "model")
    small = ("data.max_samples=16", "data.max_length=128", "train.gradient_accumulation_steps=1", "train.max_steps=1")
    train_run(here / "run", "model=local", f"model.path={here / 'model'}", *small, *BARE, "data.name=instructions")
    config = json.loads((here / "model" / "config.json").read_text())
    shutil.move("model", "elsewhere")
    with pytest.raises(NotReadyError, match=r"model\.path=.*model"):
        evaluated("run", "limit=4", "split=train")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained("elsewhere", hidden_size=64, num_attention_heads=2, num_key_value_heads=2)
    shutil.copytree("elsewhere", "model")
    AutoModelForCausalLM.from_config(config).save_pretrained("model")
    with pytest.raises(NotReadyError, match="cannot be loaded onto this model: size mismatch"):
        evaluated("run", "limit=4", "split=train")


def test_another_evaluation_in_the_same_folder_is_not_overwritten(run):
    evaluated("run", "split=golden", "limit=4", "out=mine")
    with pytest.raises(RunDirError, match="mine holds another evaluation"):
        evaluated("run", "split=golden", "limit=5", "out=mine")
    assert len(found("mine")[1]) == 4
