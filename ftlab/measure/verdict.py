"""What a short run says about a long one: a judgement for each thing that goes wrong with whole runs. Pure, over what
was logged; nothing here imports torch.

A judgement is ``good``, ``bad``, or ``unclear`` where so few steps or rows do not decide it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ftlab.base.numbers import readable

Judgement = Literal["good", "unclear", "bad"]
Lines = Sequence[Mapping[str, Any]]

_SURE = 2.0  # standard errors: a slope beyond is no chance
_FEW_STOPPED, _MOST_STOPPED = 0.1, 0.8  # of the answers
_ALIKE = 0.9  # share of answers that are one and the same
_FEW = 5  # answers from which nothing follows
REWARDED = "reward"  # in a line of ppo and grpo


@dataclass(frozen=True)
class Check:
    """:param name: of what was looked at. :param values: what the judgement follows from."""

    name: str
    judgement: Judgement
    reason: str
    values: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "judgement": self.judgement, "reason": self.reason, **self.values}


def overall(checks: Sequence[Check]) -> Judgement:
    """The worst of them."""
    found = {one.judgement for one in checks}
    return "bad" if "bad" in found else "unclear" if "unclear" in found else "good"


def checks(lines: Lines, before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Check]:
    """Everything that can be judged of one phase.

    :param lines: of ``metrics.jsonl``. :param before: measures as a manifest has them; :param after: the same.
    """
    yield finite(lines)
    is_rewarded = any(REWARDED in line for line in lines)
    yield learning_from_rewards(before, after) if is_rewarded else loss(lines, before, after)
    if is_rewarded:
        yield from reward_checks(lines)
    yield from answers(after)


def finite(lines: Lines) -> Check:
    """Whether every logged loss and gradient norm is a number."""
    for line in lines:
        for key in ("loss", "grad_norm"):
            if key in line and not math.isfinite(line[key]):
                return Check("finite", "bad", f"{key} is {line[key]} at step {line['step']}", {"step": line["step"]})
    norms = [line["grad_norm"] for line in lines if "grad_norm" in line]
    if norms and not any(norms):
        return Check("finite", "bad", "the gradient is 0 at every step: nothing is learned")
    return Check("finite", "good", f"loss and gradients are numbers in {len(norms)} logged steps")


def loss(lines: Lines, before: Mapping[str, float], after: Mapping[str, float]) -> Check:
    """Whether the loss falls: that of the validation split, which was measured on the same rows before and after; where
    there is none, the slope of the training loss, by ordinary least squares, beside its standard error."""
    logged = [line["loss"] for line in lines if "loss" in line]
    slope, error = _slope(logged)
    values: dict[str, Any] = {"slope": slope, "standard_error": error}
    held = ("validation loss" in before) and ("validation loss" in after)
    if held:
        old, new = before["validation loss"], after["validation loss"]
        values |= {"validation_before": old, "validation_after": new}
        if new < old:
            return Check("loss", "good", f"validation loss {readable(old)} -> {readable(new)}", values)
        why = "it learns the training rows by heart" if slope < -_SURE * error else "it does not learn"
        rate = (
            "a smaller train.learning_rate, or more rows" if slope < -_SURE * error else "another train.learning_rate"
        )
        reason = f"validation loss {readable(old)} -> {readable(new)}: {why}. Try {rate}"
        return Check("loss", "bad", reason, values)
    if len(logged) < _FEW:
        return Check("loss", "unclear", f"{len(logged)} steps were logged: train.logging_steps=1 logs more", values)
    part = max(1, len(logged) // 5)
    ends = f"training loss {readable(float(np.mean(logged[:part])))} -> {readable(float(np.mean(logged[-part:])))}"
    if slope < -_SURE * error:
        return Check("loss", "good", ends, values)
    if slope > _SURE * error:
        return Check("loss", "bad", f"{ends}: it rises. Try a smaller train.learning_rate", values)
    return Check("loss", "unclear", f"{ends}: within its noise, it does not fall", values)


def _slope(values: Sequence[float]) -> tuple[float, float]:
    """Of a line through values at equal distances: the slope, and its standard error."""
    if len(values) < 3:
        return 0.0, math.inf
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float(np.sqrt(rest @ rest / (len(y) - 2) / (x @ x)))


def learning_from_rewards(before: Mapping[str, float], after: Mapping[str, float]) -> Check:
    """Whether the mean reward of the validation prompts rises. Of a fall in so few steps nothing follows."""
    old, new = before.get("validation reward"), after.get("validation reward")
    if old is None or new is None:
        return Check("reward", "unclear", "there are no validation prompts to measure it on")
    values = {"validation_before": old, "validation_after": new}
    told = f"validation reward {readable(old)} -> {readable(new)}"
    return Check("reward", "good" if new > old else "unclear", told, values)


def reward_checks(lines: Lines) -> Iterator[Check]:
    """What keeps ppo and grpo from learning, and shows in their first steps: rewards that are all equal, answers that
    are all cut, a reward that is 0 whatever is answered. Good ones are one check."""
    found = [line for line in lines if REWARDED in line]
    problems = list(_reward_problems(found))
    yield from problems
    if not problems and found:
        mean = float(np.mean([line[REWARDED] for line in found]))
        yield Check("rewards", "good", f"rewards differ between answers, and are {readable(mean)} on average")


def _reward_problems(found: Lines) -> Iterator[Check]:
    def always(key: str, value: float) -> bool:
        told = [line[key] for line in found if key in line]
        return bool(told) and all(one == value for one in told)

    steps = f"in all {len(found)} logged steps"
    zero = sorted(
        key.removesuffix("/mean").removeprefix("rewards/")
        for key in {key for line in found for key in line}
        if key.startswith("rewards/") and key.endswith("/mean")
        and always(key, 0.0) and always(f"{key.removesuffix('/mean')}/std", 0.0)
    )  # fmt: skip
    for name in zero:
        yield Check(
            "rewards", "bad",
            f"the reward {name} is 0 for every answer {steps}: what it looks for is never there. Look at samples/, and "
            "at what it compares",
        )  # fmt: skip
    if not zero and (always("frac_reward_zero_std", 1.0) or always("reward_std", 0.0)):
        yield Check(
            "rewards", "bad",
            f"the answers to a prompt all have the same reward {steps}, so that nothing is learned from them. Take a "
            "reward that tells them apart, prompts that are neither too hard nor too easy, or a higher "
            "stage.temperature",
        )  # fmt: skip
    if always("completions/clipped_ratio", 1.0) or always("answers_cut", 1.0):
        yield Check(
            "answers", "bad",
            f"every answer is cut at stage.max_new_tokens {steps}. Give it more, or begin with a model that has "
            "learned to stop",
        )  # fmt: skip


def answers(after: Mapping[str, float]) -> Iterator[Check]:
    """What became of the answers to the golden prompts: whether they end, and are not one and the same."""
    asked = after.get("golden prompts", 0)
    if not asked or "golden stop rate" not in after:
        return
    stopped, length, alike = (after[f"golden {name}"] for name in ("stop rate", "length", "majority"))
    told = f"{stopped:.0%} of {asked:.0f} answers end by themselves"
    advice = "eval.max_new_tokens may be too small for them, or the template gives the model no end to learn"
    judged: Judgement = "bad" if stopped < _FEW_STOPPED else "unclear" if stopped < _MOST_STOPPED else "good"
    yield Check("stop", judged, told if judged == "good" else f"{told}: {advice}", {"stop_rate": stopped})
    values = {"majority": alike, "length": length}
    if length == 0:
        yield Check("answers", "bad", "every answer is empty", values)
    elif asked >= _FEW and alike > _ALIKE:
        yield Check("answers", "bad", f"{alike:.0%} of {asked:.0f} answers are one and the same", values)
    else:
        yield Check("answers", "good", f"the most frequent answer is {alike:.0%} of {asked:.0f}", values)
