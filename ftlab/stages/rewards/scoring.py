"""What completions are worth by some rewards, and what is said when one of them fails. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftlab.base.user_functions import arguments, describe_error, shorten
from ftlab.errors import FtlabError

OnError = Literal["stop", "skip"]
Values = list[float | None]

_ANSWER_COLUMNS = ("answer", "ground_truth", "solution")  # what TRL's users call the answers


class RewardError(FtlabError, RuntimeError):
    """A reward failed, or gave something that is no reward."""


@dataclass(frozen=True)
class Reward:
    """:param function: called with ``prompts``, ``completions``, ``answers`` and the rows' other columns by name."""

    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Scores:
    """:param totals: the weighted sum for each completion, of the rewards that it has; NaN where it has none.
    :param values: each reward's own values, unweighted. :param missing: how many of them are None.
    :param failed: for which completions a reward failed, under ``on_error="skip"``.
    :param failures: what was skipped: at most one message for each reward."""

    totals: list[float]
    values: dict[str, Values]
    missing: dict[str, int]
    failed: list[bool]
    failures: dict[str, str]


def score(
    rewards: Sequence[Reward],
    weights: Sequence[float] | None,
    prompts: Sequence[Any],
    completions: Sequence[str],
    answers: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    on_error: OnError = "stop",
    where: Sequence[str] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Scores:
    """Return the weighted reward of each completion, and each reward's part in it.

    :param weights: one for each reward; None weighs each 1. :param prompts: strings, or conversations (lists of
        messages); only passed on, and named in errors. :param answers: None where a row has none.
    :param columns: the rows' other columns by name, each as long as ``completions``.
    :param on_error: ``stop`` raises; ``skip`` leaves out the value of every completion for which a function fails, and
        counts it. Either way a function that fails is called again with one completion at a time, to find which.
    :param where: the file and row of each prompt, named in errors. :param advance: called with 1 after each reward.
    :raises RewardError: a function failed, naming reward, prompt and exception; or, under ``skip`` too, it returned
        something other than a finite number or None for each completion.
    """
    assert weights is None or len(weights) == len(rewards), "check() has seen to this"
    ours = {"prompts": prompts, "completions": completions, "answers": answers}
    batch = _Batch({**ours, **dict.fromkeys(_ANSWER_COLUMNS, answers), **columns, **ours}, where)
    values: dict[str, Values] = {}
    failures: dict[str, str] = {}
    for reward in rewards:
        values[reward.name], failure = batch.values(reward, on_error)
        if failure:
            failures[reward.name] = failure
        advance(1)
    totals = []
    for row in zip(*values.values()):
        known = [weight * value for weight, value in zip(weights or [1.0] * len(row), row) if value is not None]
        totals.append(sum(known) if known else math.nan)
    missing = {name: found.count(None) for name, found in values.items()}
    return Scores(totals, values, missing, batch.failed, failures)


class _Batch:
    """:param failed: the completions for which a reward raised."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], where: Sequence[str] | None):
        self.columns, self.size, self._where = columns, len(columns["completions"]), where
        assert all(len(column) == self.size for column in columns.values()), "columns of different lengths"
        self.failed = [False] * self.size

    def values(self, reward: Reward, on_error: OnError) -> tuple[Values, str | None]:
        """One value for each completion, and under ``skip`` what failed first."""
        names = _arguments(reward, list(self.columns))
        try:
            return self._call(reward, names, 0, self.size), None
        except RewardError:
            raise
        except Exception as error:
            failure, where = error, f"{self.size} completions at once, though on none of them alone"
        values: Values = [None] * self.size
        failed: list[int] = []
        for row in range(self.size):
            try:
                values[row : row + 1] = self._call(reward, names, row, row + 1)
            except RewardError:
                raise
            except Exception as error:
                if not failed:
                    failure, where = error, self.row(row)
                failed.append(row)
        if not failed:  # what it gives for them one by one is not what it gives for a batch
            values, failed = [None] * self.size, list(range(self.size))
        for row in failed:
            self.failed[row] = True
        message = f"The reward {reward.name} failed on {where}: {describe_error(failure)}."
        if on_error == "stop":
            raise RewardError(message) from failure
        return values, message

    def row(self, index: int) -> str:
        prompt, completion = self.columns["prompts"][index], self.columns["completions"][index]
        file = f"{self._where[index]}, " if self._where is not None else ""
        return f"{file}the prompt {shorten(prompt)} with the completion {shorten(completion)}"

    def _call(self, reward: Reward, names: Sequence[str], start: int, stop: int) -> Values:
        if start == stop:
            return []
        found = reward.function(**{name: list(self.columns[name][start:stop]) for name in names})
        found = found.tolist() if hasattr(found, "tolist") else found  # an array or a tensor
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != stop - start:
            given = f"{len(found)} values" if isinstance(found, list | tuple) else f"a {type(found).__name__}"
            raise RewardError(
                f"The reward {reward.name} returned {given} for {stop - start} completions; it must return a list with "
                "one number for each, or None where it has nothing to say."
            )
        return [self._number(reward, value, start + offset) for offset, value in enumerate(found)]

    def _number(self, reward: Reward, value: Any, index: int) -> float | None:
        value = value.item() if hasattr(value, "item") else value
        if value is None:
            return None
        if not isinstance(value, int | float) or not math.isfinite(value):
            given = f"The reward {reward.name} gave {shorten(value)} for {self.row(index)}"
            raise RewardError(f"{given}; only finite numbers and None will do.")
        return float(value)


def _arguments(reward: Reward, known: Sequence[str]) -> Sequence[str]:
    """Which of the columns a function takes: all of them, unless it lists the ones that it wants."""
    wanted, lacking = arguments(reward.function, known)
    if lacking:
        raise RewardError(
            f"The reward {reward.name} asks for {', '.join(lacking)}, which the rows do not have. They have "
            f"{', '.join(known)}, passed by name."
        )
    return wanted
