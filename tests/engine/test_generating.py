"""eval.generate_every: the golden prompts answered between steps, once, without a trace in what is trained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ftlab.engine import measuring
from ftlab.rundir.checkpoints import is_whole
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.runs import BARE, final_hash, held_out, logged, metrics, resume_run, train_run

GIVEN = (
    "data.max_samples=48", "eval.golden_rows=24", "eval.samples=2", "eval.max_new_tokens=24", "eval.steps=4",
    "train.max_steps=12", "train.save_steps=4", "train.save_total_limit=null", "train.logging_steps=5",
    "train.learning_rate=5e-3", "train.warmup_ratio=0", "tracker=tensorboard",
)  # fmt: skip


def exact_matches(run: RunDir) -> dict[int, float]:
    """By step; a step that has two lines fails."""
    lines = [line for line in run.read_metrics() if "golden_exact_match" in line]
    assert len({line["step"] for line in lines}) == len(lines)
    return {line["step"]: line["golden_exact_match"] for line in lines}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[str, ...]:
    return (*GIVEN, held_out(tmp_path_factory.mktemp("few"), "instructions"))


@pytest.fixture(scope="module")
def answered(tmp_path_factory, given) -> RunDir:
    return train_run(tmp_path_factory.mktemp("answered") / "r", *given, "eval.generate_every=2")


def test_every_second_step_has_its_exact_match_and_its_answers(answered):
    found = exact_matches(answered)
    assert [*found] == [0, 2, 4, 6, 8, 10, 12]
    assert found[12] > found[0] + 0.1
    for step in (2, 4, 6, 8, 10, 12):
        told = json.loads((answered.samples / f"sft-step-{step}.json").read_text())
        assert told["values"] == {"golden exact match": found[step], "golden prompts": 24, "golden answers": 24}
        assert len(told["samples"]) == 2 and all(sample["prompt"] for sample in told["samples"])


def test_the_last_steps_answers_are_those_after_training(answered):
    last, after = (json.loads((answered.samples / f"sft-{when}.json").read_text()) for when in ("step-12", "after"))
    assert after["samples"] == last["samples"]
    assert after["values"]["golden exact match"] == last["values"]["golden exact match"]
    assert after["values"]["validation loss"] > 0


def test_training_does_not_notice(tmp_path, answered, given):
    alone = train_run(tmp_path / "r", *given)
    assert final_hash(alone) == final_hash(answered)
    between = [line for line in logged(answered) if "golden_exact_match" not in line or line["step"] in (0, 12)]
    assert sorted(map(json.dumps, logged(alone))) == sorted(map(json.dumps, between))


def test_a_continued_run_answers_only_what_was_not_answered(tmp_path, answered, monkeypatch):
    shutil.copytree(answered.path, tmp_path / "r", symlinks=True)
    run = RunDir.open(tmp_path / "r")
    for step in (8, 12):
        shutil.rmtree(run.phase("01-sft") / f"checkpoint-{step}")
    Manifest(run).record(phases={}, status="running")
    asked = []
    generate = measuring.generate_ids
    monkeypatch.setattr(measuring, "generate_ids", lambda *a, **k: asked.append(len(a[2])) or generate(*a, **k))
    again = resume_run(run.path)
    assert asked == [24] * 4  # after steps 6, 8, 10 and 12; that of step 4 was given before the checkpoint
    assert logged(again) == logged(answered) and final_hash(again) == final_hash(answered)


@pytest.mark.matrix
def test_the_best_golden_answers_weights_are_the_final_ones(tmp_path):
    run = train_run(
        tmp_path / "r", *GIVEN, "eval.generate_every=3", "train.keep_best=true", "train.save_total_limit=1",
        "train.best_metric=golden_exact_match", "train.learning_rate=3e-2", "train.lr_scheduler=constant",
    )  # fmt: skip
    found = {step: value for step, value in exact_matches(run).items() if step}
    kept = run.manifest()["phases"]["sft"]["weights_of_step"]
    assert kept == max(found, key=found.__getitem__) < 12 == run.manifest()["phases"]["sft"]["steps"]
    checkpoint = run.phase("01-sft") / f"checkpoint-{kept}"
    assert is_whole(checkpoint)
    final, saved = (load_file(folder / "adapter_model.safetensors") for folder in (run.final, checkpoint))
    assert all(torch.equal(final[name], saved[name]) for name in saved)
    assert run.manifest()["phases"]["sft"]["after"]["golden exact match"] == found[kept]


def test_a_stage_without_answers_says_so(tmp_path):
    run = train_run(tmp_path / "r", "stage=rm", *GIVEN, "train.max_steps=2", "eval.generate_every=1")
    assert "eval.generate_every=1: rm has no prompts to answer" in run.log.read_text()
    assert exact_matches(run) == {}


def test_a_tracker_has_the_answers_of_each_step(answered):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(answered.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("golden/exact_match")] == [0, 2, 4, 6, 8, 10, 12]
    names = [tag for tag in events.Tags()["tensors"] if tag.startswith("samples/sft-step-")]
    assert sorted(names) == [f"samples/sft-step-{step}/text_summary" for step in (10, 12, 2, 4, 6, 8)]


def test_a_run_that_evaluates_at_every_step_has_the_weights_of_one_that_never_does(tmp_path):
    """Loading the validation rows draws from the random state, which dropout draws from too."""
    given = (*BARE[:3], "data.max_samples=24", "train.max_steps=4", "lora.dropout=0.2", "train.save_steps=100")
    never, always = (train_run(tmp_path / every, *given, f"eval.steps={every}") for every in ("100", "1"))
    assert len(metrics(always, "eval_loss")) > len(metrics(never, "eval_loss"))
    assert final_hash(always) == final_hash(never)
