"""What a finished run leaves behind, looked at as its user would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.config.paths import shipped
from ftlab.measure.generate import generate
from ftlab.rundir import RunDir, is_whole, sha256
from tests.runs import FAST, final_hash, metrics, resume_run, train_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return train_run(tmp_path_factory.mktemp("run") / "r", *FAST, "train.save_steps=2", "eval.steps=3", "seed=7")


def test_run_yaml_holds_every_value(run_dir):
    plan = yaml.safe_load(run_dir.run_yaml.read_text())
    config = plan["phases"][0]["config"]
    assert (config["seed"], config["train"]["learning_rate"], config["lora"]["r"]) == (7, 0.001, 16)
    assert "${" not in run_dir.run_yaml.read_text()


def test_manifest_says_what_was_done_and_how_to_do_it_again(run_dir):
    manifest = run_dir.manifest()
    assert manifest["status"] == "finished"
    assert manifest["rerun"].startswith("ftlab eval.golden_rows=4")
    assert manifest["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in manifest["packages"]["torch"]
    result = manifest["phases"]["sft"]
    assert result["steps"] == 6
    assert result["parameters"]["trainable"] < result["parameters"]["total"]
    assert result["sha256"]["adapter_model.safetensors"] == sha256(run_dir.final / "adapter_model.safetensors")


def test_metrics_have_every_step_once_and_in_order(run_dir):
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 3, 6]
    assert [line["step"] for line in lines if "golden_exact_match" in line] == [0, 6]
    tokens = [line["tokens"] for line in lines if "loss" in line]
    assert tokens == sorted(set(tokens))


def test_tensorboard_has_the_losses_of_metrics_jsonl(run_dir):
    events = EventAccumulator(str(run_dir.tensorboard)).Reload()
    seen = {event.step: event.value for event in events.Scalars("train/loss")}
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    assert list(seen.values()) == pytest.approx(metrics(run_dir, "loss"), rel=1e-6)


def test_ledger_adds_up_and_names_its_files_by_hash(run_dir):
    ledger = json.loads(run_dir.ledger("sft").read_text())
    train = ledger["splits"]["train"]
    assert train["rows"]["in"] == train["rows"]["kept"] + train["rows"]["dropped"]
    tokens = train["tokens"]
    assert tokens["in"] == tokens["trained"] + tokens["masked"] + tokens["cut"]
    assert tokens["trained"] > 0
    file = shipped("dataset/instructions/train.jsonl")
    assert ledger["sha256"][file] == sha256(Path(file))
    assert ledger["files"]["train"] == [file]


def test_only_the_newest_checkpoints_stay_and_each_is_whole(run_dir):
    kept = sorted(path.name for path in run_dir.phase("01-sft").glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6"]
    assert all(is_whole(run_dir.phase("01-sft") / name) for name in kept)


def test_final_weights_answer_as_the_samples_say_with_what_was_saved_beside_them(run_dir):
    """Only the final folder and the base: template, tokenizer and stop tokens travel with it."""
    tokenizer = AutoTokenizer.from_pretrained(run_dir.final)
    base = AutoModelForCausalLM.from_pretrained(shipped("models/tiny"), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run_dir.final)
    after = json.loads((run_dir.samples / "sft-after.json").read_text())
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": s["prompt"]}], add_generation_prompt=True, tokenize=False
        )
        for s in after["samples"]
    ]
    generation = json.loads((run_dir.final / "generation_config.json").read_text())
    stop = generation["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in stop
    assert generation["pad_token_id"] not in stop
    answers = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=4, stop=stop)
    assert answers == [s["answer"] for s in after["samples"]]


def test_before_and_after_were_measured_on_the_same_prompts(run_dir):
    before, after = (json.loads((run_dir.samples / f"sft-{when}.json").read_text()) for when in ("before", "after"))
    assert [s["prompt"] for s in before["samples"]] == [s["prompt"] for s in after["samples"]]
    assert after["values"]["validation loss"] < before["values"]["validation loss"]


def test_a_finished_run_is_not_run_again(run_dir, capsys):
    written = run_dir.metrics.read_text()
    resume_run(run_dir.path)
    assert "is finished already" in capsys.readouterr().out
    assert run_dir.metrics.read_text() == written


def test_log_keeps_what_was_said(run_dir):
    log = run_dir.log.read_text()
    assert "parameters train" in log
    assert "packed samples do not see each other" in log
    assert "\x1b[" not in log


def test_a_sweep_makes_a_run_directory_for_each_config(tmp_path):
    """Each can be run again alone, by the command in its manifest, and would give the same weights."""
    command = [sys.executable, "-m", "ftlab", "-m", "seed=1,2", "eval.golden_rows=0", "eval.samples=0",
               "train.max_steps=1", f"hydra.sweep.dir={tmp_path}"]  # fmt: skip
    assert subprocess.run(command, capture_output=True).returncode == 0
    first, second = (RunDir.open(tmp_path / name) for name in ("0", "1"))
    assert first.manifest()["rerun"].startswith("ftlab seed=1 ")
    assert second.manifest()["rerun"].startswith("ftlab seed=2 ")
    assert metrics(first, "eval_loss")[0] == metrics(second, "eval_loss")[0]
    assert final_hash(first) != final_hash(second)
