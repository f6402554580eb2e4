"""What a pilot's log says."""

from __future__ import annotations

import math
import random

import pytest

from ftlab.measure.verdict import checks, overall

NOISE = [random.Random(seed).gauss(0, 0.05) for seed in range(100)]
ANSWERED = {"golden prompts": 150, "golden stop rate": 0.97, "golden length": 12.0, "golden majority": 0.02}


def lines(losses, **more):
    return [{"step": step, "loss": loss, "grad_norm": 1.0, **more} for step, loss in enumerate(losses, 1)]


def judged(*given):
    return {one.name: one for one in checks(*given)}


def test_a_run_that_learns_to_answer():
    found = judged(
        lines([3 - step / 50 + noise for step, noise in enumerate(NOISE)]),
        {"validation loss": 3.0}, {"validation loss": 1.2, **ANSWERED},
    )  # fmt: skip
    assert {name: one.judgement for name, one in found.items()} == dict.fromkeys(
        ("finite", "loss", "stop", "answers"), "good"
    )
    assert found["loss"].reason == "validation loss 3.0000 -> 1.2000"
    assert found["loss"].values["slope"] == pytest.approx(-1 / 50, rel=0.05)
    assert overall([*found.values()]) == "good"


@pytest.mark.parametrize(("change", "before", "after", "judgement", "reason"), [
    (lambda step: 3 - step / 50, {}, {}, "good", "training loss 2.8"),
    (lambda step: 3 + step / 50, {}, {}, "bad", "it rises. Try a smaller train.learning_rate"),
    (lambda step: 3, {}, {}, "unclear", "within its noise, it does not fall"),
    (lambda step: 3 - step / 50, 2.0, 2.5, "bad", "it learns the training rows by heart"),
    (lambda step: 3, 2.0, 2.1, "bad", "it does not learn. Try another train.learning_rate"),
])  # fmt: skip
def test_the_loss(change, before, after, judgement, reason):
    log = lines([change(step) + noise for step, noise in enumerate(NOISE)])
    ends = [{"validation loss": one} if one else {} for one in (before, after)]
    found = judged(log, *ends)["loss"]
    assert (found.judgement, reason in found.reason) == (judgement, True), found


def test_numbers_that_are_none():
    found = judged(lines([2.0, math.nan, 1.0]), {}, {})["finite"]
    assert (found.judgement, found.reason) == ("bad", "loss is nan at step 2")
    still = [{**line, "grad_norm": 0.0} for line in lines([0.0] * 9)]
    assert judged(still, {}, {})["finite"].reason == "the gradient is 0 at every step: nothing is learned"


@pytest.mark.parametrize(("values", "judgement", "reason"), [
    ({"stop rate": 0.0}, "bad", "0% of 150 answers end by themselves: eval.max_new_tokens may be too small"),
    ({"stop rate": 0.5}, "unclear", "50% of 150 answers end by themselves"),
    ({"majority": 0.95}, "bad", "95% of 150 answers are one and the same"),
    ({"length": 0.0, "majority": 1.0}, "bad", "every answer is empty"),
])  # fmt: skip
def test_answers(values, judgement, reason):
    after = {**ANSWERED, **{f"golden {name}": value for name, value in values.items()}}
    found = next(one for one in judged([], {}, after).values() if one.judgement != "good" and one.name != "loss")
    assert found.judgement == judgement and found.reason.startswith(reason), found


def test_one_answer_of_one_is_no_sign():
    found = judged([], {}, {**ANSWERED, "golden prompts": 1, "golden majority": 1.0})
    assert found["answers"].judgement == "good"


GRPO = {"reward": 0.4, "frac_reward_zero_std": 0.2, "completions/clipped_ratio": 0.1, "rewards/exact_match/mean": 0.4,
        "rewards/exact_match/std": 0.3}  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), [
    ({"frac_reward_zero_std": 1.0}, "the answers to a prompt all have the same reward in all 8 logged steps"),
    ({"completions/clipped_ratio": 1.0}, "every answer is cut at stage.max_new_tokens"),
    ({"rewards/format:<a>.*/mean": 0.0, "rewards/format:<a>.*/std": 0.0}, "the reward format:<a>.* is 0 for every"),
])  # fmt: skip
def test_what_keeps_rewards_from_teaching(changes, reason):
    good = [one for one in checks(lines([0.0] * 8, **GRPO), {}, {}) if one.name in ("rewards", "answers")]
    assert [one.judgement for one in good] == ["good"]
    found = [one for one in checks(lines([0.0] * 8, **{**GRPO, **changes}), {}, {}) if one.judgement == "bad"]
    assert len(found) == 1 and found[0].reason.startswith(reason), found
    once = [*lines([0.0] * 7, **{**GRPO, **changes}), *lines([0.0], **{**GRPO, **dict.fromkeys(changes, 0.5)})]
    assert not [one for one in checks(once, {}, {}) if one.judgement == "bad"], "one step that differs is a beginning"


def test_ppo_has_the_same_by_its_own_names():
    log = lines([0.1] * 8, reward=0.5, reward_std=0.0, answers_cut=1.0)
    assert [one.name for one in checks(log, {}, {}) if one.judgement == "bad"] == ["rewards", "answers"]
