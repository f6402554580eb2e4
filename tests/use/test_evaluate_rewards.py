"""Reward models: a run of stage=rm judged by pairs, and what it makes of another run's answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.errors import ConfigError, DataError
from ftlab.rundir.directory import RunDir
from tests.runs import BARE, held_out, train_run
from tests.use.test_evaluate import evaluated, found

SMALL = ("data.max_samples=32", "data.max_length=128", "train.gradient_accumulation_steps=1", "train.max_steps=3")


@pytest.fixture
def rewards(here) -> RunDir:
    return train_run(here / "rm", "stage=rm", "data=preferences", *BARE[:3], held_out(here, "preferences", 12), *SMALL)


def test_a_reward_model_is_judged_by_pairs_as_its_run_was_and_judges_answers(rewards, here):
    evaluated("rm", "split=validation")
    values, lines = found("rm/evaluations/preferences-validation")
    after = rewards.manifest()["phases"]["rm"]["after"]
    metrics = {name: one["value"] for name, one in values["metrics"].items()}
    assert metrics["preference_accuracy"] == pytest.approx(after["validation accuracy"])
    for name in ("chosen", "rejected", "margin"):
        assert metrics[f"score_{name}"] == pytest.approx(after[f"validation score/{name}"], abs=1e-5)
    assert len(lines) == 12 and lines[0]["score_chosen"] != lines[0]["score_rejected"]

    train_run(here / "sft", *BARE, *SMALL)
    Path("asked.jsonl").write_text("".join(f"{json.dumps({'prompt': f'Is it {i}?'})}\n" for i in range(5)))
    given = ("sft", "data.path=asked.jsonl", "data.format=prompts", "eval.max_new_tokens=6")
    evaluated(*given, "reward_model=rm")
    values, lines = found("sft/evaluations/asked-train")
    rewards_of_rows = [line["reward"] for line in lines]
    assert values["metrics"]["reward_model_score"]["value"] == pytest.approx(sum(rewards_of_rows) / 5)
    assert len({*rewards_of_rows}) > 1
    with pytest.raises(ConfigError, match=r"task\.reward_model=.*sft: .* is no reward model"):
        evaluated(*given, "reward_model=sft")
    with pytest.raises(ConfigError, match="a reward model begins with a head of random numbers"):
        evaluated("rm", "compare=base")
    with pytest.raises(DataError, match="a reward model is judged by pairs"):
        evaluated("rm", "data=instructions")
