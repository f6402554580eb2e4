"""More steps after the end: what a longer run would have been, or a refusal that says what to do."""

from __future__ import annotations

import json
import shutil

import pytest

from ftlab.engine.tasks import resume
from ftlab.errors import ConfigError, RunDirError
from ftlab.rundir import extension
from ftlab.rundir.checkpoints import checkpoints, step_of
from ftlab.rundir.directory import RunDir
from tests.runs import BARE, across, final_hash, held_out, interrupted_run, logged, make_run, train_run

# The end at step 6 is evaluated, answered and saved, none of which a run of 12 steps does there.
GIVEN = (
    "train.lr_scheduler=constant_with_warmup", "train.warmup_steps=3", "eval.steps=4", "train.save_steps=4",
    "train.logging_steps=5", "data.max_samples=40", "eval.golden_rows=4", "eval.samples=1", "eval.max_new_tokens=4",
    "tracker=none",
)  # fmt: skip


def lengthened(folder, *lines: str) -> RunDir:
    given = ("task=resume", f"run.dir={folder}", *lines)
    resume(make_run(*given), given)
    return RunDir.open(folder)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[str, ...]:
    return (*GIVEN, held_out(tmp_path_factory.mktemp("few"), "instructions"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, given) -> RunDir:
    return train_run(tmp_path_factory.mktemp("whole") / "r", *given, "train.max_steps=12")


@pytest.fixture(scope="module")
def short(tmp_path_factory, given) -> RunDir:
    return train_run(tmp_path_factory.mktemp("short") / "r", *given, "train.max_steps=6")


@pytest.fixture
def copied(tmp_path, short) -> RunDir:
    """A finished run of six steps, as its folder may be moved."""
    return RunDir.open(shutil.copytree(short.path, tmp_path / "r", symlinks=True))


def test_more_steps_by_resume_are_those_of_a_longer_run(copied, short, whole):
    before = short.manifest()["phases"]["sft"]
    longer = lengthened(copied.path, "train.max_steps=12")
    assert final_hash(longer) == final_hash(whole) != final_hash(short)
    assert logged(longer) == logged(whole)
    manifest = longer.manifest()
    assert (manifest["status"], manifest["phases"]["sft"]["steps"]) == ("finished", 12)
    assert manifest["phases"]["sft"]["after"] == whole.manifest()["phases"]["sft"]["after"]
    assert manifest["extended"] == [{"phase": "sft", **before}]
    assert "train.max_steps=12" in manifest["rerun"] and "train.max_steps=6" not in manifest["rerun"]


def test_more_steps_by_the_same_command_survive_a_stop(copied, given, whole):
    shutil.move(copied.path, copied.path.with_name("here"))
    folder = copied.path.with_name("here")
    interrupted_run(folder, 8, *given, "train.max_steps=12")
    assert final_hash(lengthened(folder)) == final_hash(whole)
    assert logged(RunDir.open(folder)) == logged(whole)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("train.max_steps=5", "it was to take 6 steps, and 5 are no more than that"),
        (
            "train.warmup_steps=null train.max_steps=12",
            "its warm-up took 3 steps, and would take 1 of 12; give train.warmup_steps=3",
        ),
        ("train.max_steps=null train.epochs=1", "it was to take 6 steps, and"),
    ],
)  # fmt: skip
def test_what_is_no_longer_run_is_refused_and_nothing_changes(line, reason, copied):
    before = (copied.run_yaml.read_text(), copied.manifest_json.read_text())
    with pytest.raises(RunDirError, match=reason) as refused:
        lengthened(copied.path, *line.split())
    assert f"model.adapter={copied.path}/phases/01-sft/final" in str(refused.value)
    assert (copied.run_yaml.read_text(), copied.manifest_json.read_text()) == before


def test_a_schedule_that_leads_to_the_last_step_is_refused(copied, given):
    text = copied.run_yaml.read_text()
    copied.run_yaml.write_text(text.replace("lr_scheduler: constant_with_warmup", "lr_scheduler: cosine"))
    with pytest.raises(RunDirError, match=r"train\.lr_scheduler=cosine leads to the last step"):
        lengthened(copied.path, "train.max_steps=12")


def test_a_run_without_checkpoints_is_refused(copied):
    for checkpoint in checkpoints(copied.phase("01-sft")):
        shutil.rmtree(checkpoint)
    with pytest.raises(RunDirError, match="no checkpoint is left"):
        lengthened(copied.path, "train.max_steps=12")


def test_other_keys_are_no_matter_of_resume(copied):
    with pytest.raises(ConfigError, match=r"ftlab resume DIR train\.max_steps=N"):
        lengthened(copied.path, "train.max_steps=12", "train.learning_rate=1")


def test_evaluations_that_choose_the_weights_keep_their_places():
    train = make_run("train.keep_best=true", "train.lr_scheduler=constant").train
    at_end = extension._Progress(step=6, epoch=1.0, total=6)
    assert "evaluations choose its weights" in (extension._dependence(train, train, 4, at_end, 12) or "")
    assert extension._dependence(train, train, 3, at_end, 12) is None
    assert extension._dependence(make_run("train.lr_scheduler=constant").train, train, 4, at_end, 12) is None


# ------------------------------------------------------------------------------------------------------ every epoch


def test_a_checkpoint_after_each_epoch(tmp_path):
    given = (*BARE, "data.max_samples=60", "train.epochs=3", "train.save_steps=epoch", "train.save_total_limit=null",
             "train.warmup_steps=2", "train.logging_steps=1")  # fmt: skip
    run_dir = train_run(tmp_path / "r", *given)
    steps = [step_of(path) for path in reversed(checkpoints(run_dir.phase("01-sft")))]
    states = [
        json.loads((run_dir.phase("01-sft") / f"checkpoint-{step}/trainer_state.json").read_text()) for step in steps
    ]
    assert [state["epoch"] for state in states] == [1.0, 2.0, 3.0]
    lines = [line for line in run_dir.read_metrics() if "learning_rate" in line]
    assert lines[-1]["step"] == steps[-1]
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == 0.0 and rates[1] == max(rates) / 2 and rates[2] == max(rates), "a warm-up of two steps"
    stopped = interrupted_run(tmp_path / "s", steps[0] + 1, *given)
    shutil.rmtree(checkpoints(stopped.phase("01-sft"))[0])  # what a kill -9 would not have left
    assert [step_of(path) for path in checkpoints(stopped.phase("01-sft"))] == steps[:1]
    again = lengthened(tmp_path / "s")
    assert final_hash(again) == final_hash(run_dir)
    assert logged(again) == logged(run_dir)


def test_a_run_that_only_warms_up_says_so(tmp_path):
    run_dir = train_run(tmp_path / "r", *BARE, "train.max_steps=1", "data.max_samples=20")
    assert "all 1 steps are warm-up, so none has train.learning_rate=" in run_dir.log.read_text()


@pytest.mark.parametrize(
    ("stage", "scheduler"),
    across(
        ["dpo", "kto", "ppo", "grpo"], ["constant", "inverse_sqrt"], lambda stage, scheduler: False
    ),
)  # fmt: skip
def test_every_stage_and_schedule_without_an_end(stage, scheduler, tmp_path):
    data = {"dpo": "preferences", "kto": "labels", "ppo": "prompts", "grpo": "prompts"}[stage]
    given = (f"stage={stage}", f"data={data}", f"train.lr_scheduler={scheduler}", "train.warmup_steps=2", *BARE,
             "data.max_samples=24", "train.logging_steps=1")  # fmt: skip
    whole = train_run(tmp_path / "whole", *given, "train.max_steps=6")
    train_run(tmp_path / "r", *given, "train.max_steps=3")
    longer = train_run(tmp_path / "r", *given, "train.max_steps=6")
    assert final_hash(longer) == final_hash(whole)
    assert logged(longer) == logged(whole)
