"""What the terminal says of a training: the same numbers as metrics.jsonl, of the same steps."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from ftlab.base.numbers import readable
from ftlab.engine.metrics_log import evaluation_line
from ftlab.rundir.directory import RunDir
from tests.runs import held_out, train_run


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[RunDir, str]:
    """A run of eight steps behind a pipe, and what it printed."""
    folder, out = tmp_path_factory.mktemp("told"), io.StringIO()
    with contextlib.redirect_stdout(out):
        run_dir = train_run(
            folder / "r", "train.max_steps=8", "train.logging_steps=3", "eval.steps=4", "eval.generate_every=4",
            "eval.golden_rows=4", "eval.samples=1", "eval.max_new_tokens=8", "data.max_samples=64", "tracker=none",
            held_out(folder, "instructions"),
        )  # fmt: skip
    return run_dir, out.getvalue()


def test_a_progress_line_shows_the_loss_of_its_own_step(told):
    run_dir, out = told
    logged = {line["step"]: line["loss"] for line in run_dir.read_metrics() if "loss" in line}
    assert [*logged] == [1, 3, 6]
    shown = {int(step): loss for step, loss in re.findall(r"training  (\d+)/8  loss ([\d.,]+)", out)}
    expected = {1: 1, 2: 1, 3: 3, 4: 3, 5: 3, 6: 6, 7: 6, 8: 6}
    assert shown and shown == {step: readable(logged[expected[step]]) for step in shown}
    assert {3, 6} <= shown.keys()


def test_the_last_loss_shown_is_the_last_one_logged(told):
    run_dir, out = told
    last = [line for line in run_dir.read_metrics() if "loss" in line][-1]
    assert re.findall(r"step (\d+): last logged loss ([\d.,]+)", out) == [(str(last["step"]), readable(last["loss"]))]


def test_every_evaluation_has_one_line(told):
    run_dir, out = told
    for step, beginning in ((0, "before training"), (4, "step 4"), (8, "step 8")):
        values: dict[str, float] = {}
        for line in run_dir.read_metrics():
            values |= {key: line[key] for key in line if line["step"] == step}
        lines = re.findall(rf"^{beginning}: (validation .*)$", out, re.MULTILINE)
        assert lines == [
            f"validation loss {readable(values['eval_loss'])}, perplexity {readable(values['eval_perplexity'])}, "
            f"golden exact match {values['golden_exact_match']:.3f}"
        ]


def test_the_line_has_what_the_stage_is_about():
    logged = {
        "eval_loss": 0.5,
        "eval_rewards/margins": 0.25,
        "eval_preference_accuracy": 1.0,
        "eval_logps/chosen": -9.0,
    }
    assert evaluation_line(logged) == "validation loss 0.5000, preference_accuracy 1.0000, rewards/margins 0.2500"
    assert evaluation_line({"loss": 1.0}) == ""
