"""The reward functions that have a name; :mod:`ftlab.stages.rewards.resolve` lists them. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ftlab.base.user_functions import shorten
from ftlab.measure.numbers import last_number
from ftlab.stages.rewards.scoring import Values


def _each(judge: Callable[[str, str], float], completions: Sequence[str], answers: Sequence[Any], **_: Any) -> Values:
    if any(answer is None or not str(answer).strip() for answer in answers):
        raise ValueError("it compares with an answer, and the row has none")
    return [judge(completion, str(answer)) for completion, answer in zip(completions, answers)]


def _exact_match(completion: str, answer: str) -> float:
    return float(completion.strip() == answer.strip())


def _contains_answer(completion: str, answer: str) -> float:
    text, wanted = (" ".join(words.split()).casefold() for words in (completion, answer))
    # Only letters and digits of scripts with spaces need a border: 6 is not in 16 or 6.5, but 北京 is in 是北京。
    first = r"(?<![a-z0-9_])(?<!\d[.,])" if re.match(r"[a-z0-9_]", wanted) else ""
    last = r"(?![a-z0-9_])(?![.,]\d)" if re.match(r"[a-z0-9_]", wanted[-1]) else ""
    return float(re.search(first + re.escape(wanted) + last, text) is not None)


def _numeric_answer(completion: str, answer: str) -> float:
    wanted = last_number(answer)
    if wanted is None:
        raise ValueError(f"the answer {shorten(answer)} has no number")
    return float(last_number(completion) == wanted)


def _format(pattern: re.Pattern[str], completions: Sequence[str], **_: Any) -> Values:
    return [float(pattern.fullmatch(completion.strip()) is not None) for completion in completions]


def _length(target: int, completions: Sequence[str], **_: Any) -> Values:
    return [max(0.0, 1 - abs(len(completion) - target) / target) for completion in completions]


def _format_factory(regex: str) -> Callable[..., Any] | str:
    if not regex:
        return "give the regular expression: format:REGEX"
    try:
        return partial(_format, re.compile(regex, re.DOTALL))
    except re.error as error:
        return f"{regex!r} is no regular expression: {error}"


def _length_factory(number: str) -> Callable[..., Any] | str:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", number):
        return f"give a whole number of characters above 0, length:200 for one; not {number!r}"
    return partial(_length, int(number))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exact_match": partial(_each, _exact_match),
    "numeric_answer": partial(_each, _numeric_answer),
    "contains_answer": partial(_each, _contains_answer),
}
FACTORIES: dict[str, Callable[[str], Callable[..., Any] | str]] = {"format": _format_factory, "length": _length_factory}
