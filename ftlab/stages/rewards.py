"""Reward functions by name, for ppo and grpo. Nothing here imports torch.

=================== ==================================================================================================
exact_match         1 if the completion is the answer, white space at both ends aside
numeric_answer      1 if the completion's last number is the answer's; that in its last ``\\boxed{}``, if it has one
contains_answer     1 if the answer is in the completion as words of their own, in any case and spacing
format:REGEX        1 if the whole completion, white space at both ends aside, matches; ``.`` matches line ends too
length:N            1 at N characters, falling evenly to 0 at none and at 2 N
path.py:function    a function of a Python file, called as ``function(prompts=, completions=, answers=, **columns)``;
                    TRL's reward functions, ``(completions, **kwargs)`` with columns by name, work as they are
=================== ==================================================================================================

A reward function gives one number for each completion, or None where it has nothing to say.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ftlab.errors import ConfigError, FtlabError, Mistake, nearest

KEY = "stage.rewards"
OnError = Literal["stop", "skip"]
Values = list[float | None]


_ANSWER_COLUMNS = ("answer", "ground_truth", "solution")  # what TRL's users call the answers


class RewardError(FtlabError, RuntimeError):
    """A reward function failed, or gave something that is no reward."""


@dataclass(frozen=True)
class Reward:
    """:param function: called with ``prompts``, ``completions``, ``answers`` and the rows' other columns by name."""

    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class Scores:
    """:param totals: the weighted sum for each completion, of the rewards that it has; NaN where it has none.
    :param values: each reward's own values, unweighted. :param missing: how many of them are None.
    :param failures: what was skipped, under ``on_error="skip"``: at most one message for each reward."""

    totals: list[float]
    values: dict[str, Values]
    missing: dict[str, int]
    failures: dict[str, str]


# --------------------------------------------------------------------------------------------------------- the named


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


_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.]))?"
_NUMBERS = re.compile(rf"(?:(?<![\w)\]}}.])(-)\$?)?(?<![A-Za-z_\d])({_NUMBER})(?:/({_NUMBER}))?")
_DIGITS = 200  # a number has no more; a policy that writes one digit for ever gets no reward, and costs no time


def last_number(text: str) -> Fraction | None:
    """The last number in a text, exactly; None if there is none.

    Knows 1,234.50 (not 1.234,50), -5 (but 5 in 10-5), .5, 2e3, 3/4, ``\\frac{3}{4}``; $, % and units are passed over,
    and so are digits inside a word (H2O). If there is a ``\\boxed{}`` only the last one counts.

    >>> last_number("3 + 4 = 7.0, so the answer is $1,007.50.")
    Fraction(2015, 2)
    """
    if "\\boxed{" in text:
        text = _braced(text.rpartition("\\boxed{")[2])
    text = text.replace("−", "-").replace("{,}", ",").replace("\\,", "").replace("\\!", "").replace("\\$", "$")
    text = re.sub(r"(\d)(?=\\[dt]?frac)", r"\1 ", text)
    text = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"\1/\2", text)
    found = list(_NUMBERS.finditer(text))
    if not found or len(found[-1][0]) > _DIGITS:
        return None
    sign, *parts = found[-1].groups(default="")
    number, divisor = (Fraction(Decimal(part.replace(",", "") or 1)) for part in parts)
    return (-number if sign else number) / divisor if divisor else None


def _braced(text: str) -> str:
    """What comes before the brace that closes one opened before the text."""
    depth = 1
    for end, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:end]
    return text


def _numeric_answer(completion: str, answer: str) -> float:
    wanted = last_number(answer)
    if wanted is None:
        raise ValueError(f"the answer {_short(answer)} has no number")
    return float(last_number(completion) == wanted)


def _format(pattern: re.Pattern[str], completions: Sequence[str], **_: Any) -> Values:
    return [float(pattern.fullmatch(completion.strip()) is not None) for completion in completions]


def _length(target: int, completions: Sequence[str], **_: Any) -> Values:
    return [max(0.0, 1 - abs(len(completion) - target) / target) for completion in completions]


def _format_of(regex: str) -> Callable[..., Any] | str:
    if not regex:
        return "give the regular expression: format:REGEX"
    try:
        return partial(_format, re.compile(regex, re.DOTALL))
    except re.error as error:
        return f"{regex!r} is no regular expression: {error}"


def _length_of(number: str) -> Callable[..., Any] | str:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", number):
        return f"give a whole number of characters above 0, length:200 for one; not {number!r}"
    return partial(_length, int(number))


_NAMED = {
    "exact_match": partial(_each, _exact_match),
    "numeric_answer": partial(_each, _numeric_answer),
    "contains_answer": partial(_each, _contains_answer),
}
_MADE = {"format": _format_of, "length": _length_of}
_KNOWN = f"{', '.join(_NAMED)}, format:REGEX, length:N or path.py:function"


# ----------------------------------------------------------------------------------------------------------- resolving


def check(names: Sequence[str], weights: Sequence[float] | None = None) -> list[Mistake]:
    """Every mistake in ``stage.rewards`` and ``stage.reward_weights`` that shows without running anybody's code."""
    found = [_resolve(name, load=None) for name in names]
    mistakes = [reward for reward in found if isinstance(reward, Mistake)]
    twice = sorted({name for name in names if names.count(name) > 1})
    mistakes += [Mistake(KEY, "is there more than once; once is enough, with a weight.", name) for name in twice]
    if weights is not None and len(weights) != len(names):
        reason = f"{len(weights)} weights for {len(names)} rewards ({', '.join(names)}); give each one, or null."
        mistakes.append(Mistake("stage.reward_weights", reason, list(weights)))
    return mistakes


def resolve(names: Sequence[str]) -> list[Reward]:
    """The reward functions of ``stage.rewards``, in order. A Python file is run once, from where it is.

    :raises ConfigError: all that is wrong with the names, the files and the functions.
    """
    mistakes = check(names)
    if mistakes:
        raise ConfigError(mistakes)
    files: dict[Path, ModuleType] = {}
    found = [_resolve(name, load=partial(_load, files)) for name in names]
    mistakes = [reward for reward in found if isinstance(reward, Mistake)]
    if mistakes:
        raise ConfigError(mistakes)
    return [reward for reward in found if isinstance(reward, Reward)]


def _resolve(name: str, load: Callable[[Path], ModuleType] | None) -> Reward | Mistake:
    head, colon, rest = name.partition(":")
    if name in _NAMED:
        return Reward(name, _NAMED[name])
    if head in _MADE:
        made = _MADE[head](rest)
        return Mistake(KEY, made, name) if isinstance(made, str) else Reward(name, made)
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        found = _function(Path(path).expanduser(), function, load)
        return Mistake(KEY, found[0], name, found[1]) if isinstance(found, tuple) else Reward(name, found)
    if name.endswith(".py"):
        return Mistake(KEY, f"name a function of that file too: {name}:FUNCTION", name)
    near = [f"{word}:{rest}" if word in _MADE and colon else word for word in nearest(head, [*_NAMED, *_MADE])]
    return Mistake(KEY, f"there is no such reward; there are {_KNOWN}.", name, near)


def _function(
    path: Path, name: str, load: Callable[[Path], ModuleType] | None
) -> Callable[..., Any] | tuple[str, Sequence[str]]:
    """The function of a file, or why there is none and which are near; a stand-in for it if it is not to be loaded."""
    if not path.is_file():
        return f"there is no file {path.resolve()}.", ()
    try:
        own = _names(path)
    except (SyntaxError, ValueError) as error:
        return f"{path} is no Python: {error}.", ()
    if own is not None and name not in own:
        known = sorted(word for word in own if not word.startswith("_"))
        return f"{path} has no function {name!r}; it has {', '.join(known) or 'none'}.", nearest(name, known)
    if load is None:
        return len
    try:
        function = getattr(load(path), name)
    except (Exception, SystemExit) as error:
        return f"{path} cannot be run: {_told(error)}.", ()
    if not callable(function):
        return f"{name} in {path} is a {type(function).__name__}, not a function.", ()
    if inspect.iscoroutinefunction(function):
        return f"{name} in {path} is asynchronous; write it with a plain def.", ()
    return function


def _names(path: Path) -> set[str] | None:
    """Every name that a file may bind, without running it; None if only running it can tell."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
    return None if found & {"*", "__getattr__"} else found


def _load(files: dict[Path, ModuleType], path: Path) -> ModuleType:
    """Runs a file as a module; what lies beside it can be imported while it does."""
    path = path.resolve()
    if path not in files:
        name = f"ftlab_rewards_{path.stem}_{blake2b(str(path).encode(), digest_size=4).hexdigest()}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        files[path] = module
    return files[path]


# ------------------------------------------------------------------------------------------------------------- scoring


def score(
    rewards: Sequence[Reward],
    weights: Sequence[float] | None,
    prompts: Sequence[Any],
    completions: Sequence[str],
    answers: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    on_error: OnError = "stop",
) -> Scores:
    """What each completion is worth, and each reward's part in it.

    :param weights: one for each reward; None weighs each 1. :param prompts: strings, or conversations (lists of
        messages); only passed on, and named in errors. :param answers: None where a row has none.
    :param columns: the rows' other columns by name, each as long as ``completions``.
    :param on_error: ``stop`` raises; ``skip`` leaves out the value of every completion for which a function fails, and
        counts it. Either way a function that fails is called again with one completion at a time, to find which.
    :raises RewardError: a function failed, naming reward, prompt and exception; or, under ``skip`` too, it returned
        something other than a finite number or None for each completion.
    """
    assert weights is None or len(weights) == len(rewards), "check() has seen to this"
    ours = {"prompts": prompts, "completions": completions, "answers": answers}
    batch = _Batch({**ours, **dict.fromkeys(_ANSWER_COLUMNS, answers), **columns, **ours})
    values: dict[str, Values] = {}
    failures: dict[str, str] = {}
    for reward in rewards:
        values[reward.name], failure = batch.values(reward, on_error)
        if failure:
            failures[reward.name] = failure
    totals = []
    for row in zip(*values.values()):
        known = [weight * value for weight, value in zip(weights or [1.0] * len(row), row) if value is not None]
        totals.append(sum(known) if known else math.nan)
    return Scores(totals, values, {name: found.count(None) for name, found in values.items()}, failures)


class _Batch:
    def __init__(self, columns: Mapping[str, Sequence[Any]]):
        self.columns, self.size = columns, len(columns["completions"])
        assert all(len(column) == self.size for column in columns.values()), "columns of different lengths"

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
        failed = False
        for row in range(self.size):
            try:
                values[row : row + 1] = self._call(reward, names, row, row + 1)
            except RewardError:
                raise
            except Exception as error:
                if not failed:
                    failure, where, failed = error, self.row(row), True
        values = values if failed else [None] * self.size  # made one by one they are not what it gives for a batch
        message = f"The reward {reward.name} failed on {where}: {_told(failure)}."
        if on_error == "stop":
            raise RewardError(message) from failure
        return values, message

    def row(self, index: int) -> str:
        prompt, completion = self.columns["prompts"][index], self.columns["completions"][index]
        return f"the prompt {_short(prompt)} with the completion {_short(completion)}"

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
            given = f"The reward {reward.name} gave {_short(value)} for {self.row(index)}"
            raise RewardError(f"{given}; only finite numbers and None will do.")
        return float(value)


def _arguments(reward: Reward, known: Sequence[str]) -> Sequence[str]:
    """Which of the columns a function takes: all of them, unless it lists the ones that it wants."""
    try:
        parameters = inspect.signature(reward.function).parameters.values()
    except (TypeError, ValueError):  # of some built-in functions nobody knows
        return known
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    nameless = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    lacking = [p.name for p in (*named, *nameless) if p.default is p.empty and (p in nameless or p.name not in known)]
    if lacking:
        raise RewardError(
            f"The reward {reward.name} asks for {', '.join(lacking)}, which the rows do not have. They have "
            f"{', '.join(known)}, passed by name."
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return known
    return [p.name for p in named if p.name in known]


def _short(value: Any, limit: int = 80) -> str:
    """A prompt or completion as an error shows it: of a conversation the last message, and not all of a long one."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content", value)
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _told(error: BaseException) -> str:
    """What went wrong, and the last line of code that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
