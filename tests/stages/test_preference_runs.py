"""rm, dpo, orpo and kto as whole runs: what changes, what is saved, what a stopped run goes on to."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.runs import BARE, final_hash, held_out, metrics, resume_run, train_run

SHORT = (
    "train.max_steps=6", "train.save_steps=3", "train.logging_steps=3", "eval.steps=3", "data.max_samples=64",
    "eval.golden_rows=0", "eval.samples=0", "data.split.golden=none", "tracker=none",
)  # fmt: skip


@pytest.fixture(
    scope="module", params=["dpo", "kto", *(pytest.param(stage, marks=pytest.mark.matrix) for stage in ("rm", "orpo"))]
)
def finished(request, tmp_path_factory):
    stage = request.param
    folder = tmp_path_factory.mktemp(stage)
    held = held_out(folder, "labels" if stage == "kto" else "preferences", 16)
    return stage, train_run(folder / "run", f"stage={stage}", *SHORT, held)


def test_a_stopped_run_goes_on_to_the_same_weights_and_metrics(finished, tmp_path):
    _, whole = finished
    folder = tmp_path / "run"
    shutil.copytree(whole.path, folder, symlinks=True)
    (phase,) = (folder / "phases").iterdir()
    shutil.rmtree(phase / "checkpoint-6")
    shutil.rmtree(phase / "final")
    (folder / "final").unlink()
    stopped = RunDir.open(folder)
    Manifest(stopped).record(phases={}, status="interrupted")
    went_on = resume_run(folder)
    assert final_hash(went_on) == final_hash(whole)
    for key in ("loss", "eval_loss"):
        assert metrics(went_on, key) == metrics(whole, key)


def test_only_the_adapter_changed_and_it_loads(finished):
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel

    stage, run = finished
    cls = AutoPeftModelForSequenceClassification if stage == "rm" else AutoPeftModelForCausalLM
    more = {"num_labels": 1} if stage == "rm" else {}
    model = cls.from_pretrained(run.path / "final", dtype=torch.float32, **more)
    assert isinstance(model, PeftModel)
    ids = torch.arange(5, 25)[None]
    assert torch.isfinite(model(input_ids=ids).logits).all()
    config = json.loads((run.path / "final" / "adapter_config.json").read_text())
    assert set(config["modules_to_save"] or ()) == ({"score", "classifier"} if stage == "rm" else set())
    assert config["r"] == 16, "the shape of the adapter that the run started from"


def test_the_measures_of_the_stage_are_in_the_table(finished):
    stage, run = finished
    (result,) = run.manifest()["phases"].values()
    measure = {"rm": "accuracy", "dpo": "rewards/margins", "orpo": "log_odds", "kto": "rewards/accuracies"}[stage]
    assert f"validation {measure}" in result["before"] and f"validation {measure}" in result["after"]
    if stage in ("dpo", "kto"):
        assert abs(result["before"]["validation rewards/chosen"]) <= 1e-6


def test_kto_trains_one_row_at_a_time(tmp_path):
    run = train_run(tmp_path / "run", "stage=kto", *SHORT, *BARE, "train.micro_batch_size=1", "data.packing=false")
    assert all(norm > 0 for norm in metrics(run, "grad_norm"))
