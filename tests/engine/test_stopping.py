"""train.early_stopping: when a run stops, what it keeps, and that a continued run does the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from ftlab.base.numbers import readable
from ftlab.engine.stopping import Best, find_best
from ftlab.errors import ConfigError, RunDirError
from ftlab.rundir.checkpoints import is_whole
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.runs import FEW, final_hash, metrics, resume_run, train_run

# A rate at which the training loss falls and the validation loss of a handful of rows soon rises.
GIVEN = (
    "model=tiny_instruct", "data.max_samples=24", "data.split.fraction=0.3", "data.split.golden=none",
    "eval.samples=0", "train.learning_rate=1e-2", "train.lr_scheduler=constant", "train.warmup_ratio=0",
    "train.max_steps=30", "eval.steps=2", "train.save_steps=100", "train.logging_steps=2", "tracker=none",
    "train.early_stopping=3", "train.save_total_limit=1", FEW,
)  # fmt: skip


def history(*values: float, metric: str = "loss") -> list[dict[str, float]]:
    logged = [{f"eval_{metric}": value, "step": 5 * (i + 1)} for i, value in enumerate(values)]
    return [{"eval_loss": 0.0, f"eval_{metric}": 99.0, "step": 0}, {"loss": 0.1, "step": 1}, *logged]


@pytest.mark.parametrize(
    ("values", "metric", "expected"),
    [
        ((3.0, 2.0, 1.0), "loss", Best(15, 1.0, 0)),
        ((3.0, 2.0, 2.0, 2.5), "loss", Best(10, 2.0, 2)),
        ((0.1, 0.5, 0.4), "accuracy", Best(10, 0.5, 1)),
        ((5.0, 9.0), "perplexity", Best(5, 5.0, 1)),
        ((float("nan"), 2.0, float("nan")), "loss", Best(10, 2.0, 1)),
        ((2.0, float("nan")), "rewards/margins", Best(5, 2.0, 1)),
    ],
)
def test_the_first_best_and_what_came_after_it(values, metric, expected):
    assert find_best(history(*values, metric=metric), metric) == expected


def test_no_evaluation_has_no_best():
    assert find_best(history(), "loss") is None


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("stopped") / "r", *GIVEN)


def evaluations(run: RunDir) -> dict[int, float]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and line["step"]}


def test_it_stops_three_evaluations_after_the_best_and_says_so(stopped):
    found = evaluations(stopped)
    best_step = min(found, key=found.__getitem__)
    result = stopped.manifest()["phases"]["sft"]
    assert result["steps"] == best_step + 6 < 30
    assert result["weights_of_step"] == best_step
    assert max(found) == result["steps"]
    said = " ".join(stopped.log.read_text().split())
    assert (
        f"stopped early at step {best_step + 6} of 30: no better validation loss in 3 evaluations; the best was "
        f"{readable(found[best_step])} at step {best_step}" in said
    )
    kept = f"the weights of step {best_step} are kept, the best by validation loss ({readable(found[best_step])})"
    assert f"{kept}, of {best_step + 6} steps" in said


def test_the_final_weights_and_measures_are_the_bests_whose_checkpoint_stays(stopped):
    result = stopped.manifest()["phases"]["sft"]
    kept = stopped.phase("01-sft") / f"checkpoint-{result['weights_of_step']}"
    assert is_whole(kept)
    final, saved = (load_file(folder / "adapter_model.safetensors") for folder in (stopped.final, kept))
    assert final.keys() == saved.keys() and all(torch.equal(final[name], saved[name]) for name in final)
    assert result["after"]["validation loss"] == min(evaluations(stopped).values())


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.matrix)])
def test_a_run_stopped_on_the_way_stops_at_the_same_step_with_the_same_weights(method, tmp_path):
    """From a checkpoint that lies between the best evaluation and the stop, so that the count has to be known."""
    given = (*GIVEN, f"method={method}", "train.save_steps=1", "train.save_total_limit=null")
    given += ("train.learning_rate=1e-3",) if method == "full" else ()
    run = train_run(tmp_path / "r", *given)
    result, weights, losses = run.manifest()["phases"]["sft"], final_hash(run), metrics(run, "eval_loss")
    assert result["weights_of_step"] < result["steps"] < 30
    for checkpoint in run.phase("01-sft").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > result["steps"] - 3:
            shutil.rmtree(checkpoint)
    Manifest(run).record(phases={}, status="interrupted")
    again = resume_run(run.path)
    assert again.manifest()["phases"]["sft"] == result
    assert final_hash(again) == weights
    assert metrics(again, "eval_loss") == losses


@pytest.fixture(scope="module")
def all_kept(tmp_path_factory) -> RunDir:
    """With a checkpoint of every evaluation, that at which it stopped too."""
    folder = tmp_path_factory.mktemp("all_kept") / "r"
    return train_run(folder, *GIVEN, "train.save_steps=2", "train.save_total_limit=null")


@pytest.mark.matrix
def test_killed_after_it_had_stopped_it_takes_no_other_step(all_kept):
    result, weights, logged = all_kept.manifest()["phases"]["sft"], final_hash(all_kept), metrics(all_kept, "loss")
    assert (all_kept.phase("01-sft") / f"checkpoint-{result['steps']}").is_dir()
    Manifest(all_kept).record(phases={}, status="running")
    again = resume_run(all_kept.path)
    assert again.manifest()["phases"]["sft"] == result
    assert (final_hash(again), metrics(again, "loss")) == (weights, logged)


def test_a_best_checkpoint_that_was_removed_is_named(tmp_path, all_kept):
    shutil.copytree(all_kept.path, tmp_path / "r", symlinks=True)
    run = RunDir.open(tmp_path / "r")
    best_step = run.manifest()["phases"]["sft"]["weights_of_step"]
    shutil.rmtree(run.phase("01-sft") / f"checkpoint-{best_step}")
    Manifest(run).record(phases={}, status="running")
    with pytest.raises(
        RunDirError, match=rf"checkpoint-{best_step}, whose weights train\.\w+ keeps as the best, is gone"
    ):
        resume_run(run.path)


@pytest.mark.matrix
def test_a_measure_that_is_better_higher(tmp_path):
    run = train_run(
        tmp_path / "r", "stage=dpo", *(g for g in GIVEN if not g.startswith("model")), "train.max_steps=8",
        "eval.steps=4",
        "train.best_metric=rewards/margins", "train.learning_rate=1e-4", "data.max_samples=48",
    )  # fmt: skip
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    margins = {line["step"]: line["eval_rewards/margins"] for line in lines if "eval_loss" in line and line["step"]}
    kept = run.manifest()["phases"]["dpo"]["weights_of_step"]
    assert margins[kept] == max(margins.values()) > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.early_stopping=2 data.split.validation=none",
         "train.early_stopping=2: compares evaluations, and data.split.validation=none leaves nothing to evaluate on"),
        ("train.early_stopping=2 train.best_metric=accuracy",
         "train.best_metric=accuracy: stage=sft measures loss, perplexity, golden_exact_match"),
        ("train.early_stopping=2 train.best_metric=accuracy stage=rm", None),
        ("train.keep_best=true train.best_metric=golden_exact_match stage=rm",
         "train.best_metric=golden_exact_match: stage=rm measures loss, accuracy, score/chosen, score/rejected, "
         "score/margin"),
        ("train.keep_best=true train.best_metric=golden_exact_match",
         "eval.generate_every=null: train.keep_best compares the answers to the golden prompts; say how many steps lie "
         "between them"),
        ("train.keep_best=true train.best_metric=golden_exact_match eval.generate_every=5 data.split.golden=none",
         "train.keep_best=true: compares evaluations, and data.split.golden=none leaves nothing to evaluate on"),
        ("train.early_stopping=2 train.max_steps=5",
         "eval.steps=50: more than train.max_steps=5: there is no evaluation to compare"),
        ("train.early_stopping=0", "train.early_stopping=0: must be greater than 0"),
    ],
)  # fmt: skip
def test_what_could_never_stop_is_refused(line, said, mistakes):
    assert mistakes(line) == ([said] if said else [])


def test_data_without_a_validation_split_is_refused(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"instruction": f"Say {i}.", "output": str(i)}) for i in range(20)))
    given = (f"data.path={data}", "data.format=alpaca", "data.split.fraction=0", "data.split.golden=none")
    with pytest.raises(
        ConfigError, match=r"train\.early_stopping=3: compares evaluations by loss, and this data has no"
    ):
        train_run(tmp_path / "r", "train.early_stopping=3", *given)
