"""Metrics of answers by name: ``eval.metrics``. Each is a function of sums over rows, so that
:mod:`ftlab.measure.intervals` can say how sure it is. Nothing here imports torch.

=================== ==================================================================================================
exact_match         share of answers equal to the reference, white space at both ends aside
token_f1            mean of :func:`ftlab.measure.metrics.token_f1`
numeric_answer      share of answers whose last number is the reference's, of the references that have one
bleu, bleu:TOK      sacreBLEU's corpus BLEU, 0 to 100, with its tokenizer 13a or another of its: zh, char, intl, none
chrf                sacreBLEU's corpus chrF, 0 to 100
rouge1, rouge2,     mean F-measure of rouge-score, without its stemmer
rougeL
stop_rate           share of answers that ended by themselves, and were not cut at ``eval.max_new_tokens``
length              mean tokens of an answer, its end token aside
majority            share of answers that are the one that is given most often: 1 where all are alike
path.py:function    a function of a Python file, called as ``function(predictions=, references=, prompts=, **columns)``
=================== ==================================================================================================

A function gives one number for each prediction (or None, where it has nothing to say), one number for all of them, or a
mapping of names to either. One number for all has no interval: nothing is known of what each row contributes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ftlab.base.user_functions import arguments, describe_error, find_function, load_file, shorten
from ftlab.errors import FtlabError, Mistake, nearest
from ftlab.measure.intervals import Numbers, Statistic, interval, mean
from ftlab.measure.metrics import is_exact, token_f1
from ftlab.measure.numbers import last_number

KEY = "eval.metrics"
_TOKENIZERS = ("13a", "zh", "char", "intl", "none")


class MetricError(FtlabError, RuntimeError):
    """A metric failed, or gave something that is no number."""


@dataclass(frozen=True)
class Answers:
    """What was asked and written, R rows. :param references: None where a row has none, or an empty text.
    :param tokens: of each answer, its end token aside. :param stopped: whether it ended by itself.
    :param columns: the rows' other columns by name. :param places: ``file:row`` of each.
    """

    prompts: Sequence[Any]
    predictions: Sequence[str]
    references: Sequence[str | None]
    tokens: Sequence[int]
    stopped: Sequence[bool]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    places: Sequence[str] = ()

    @property
    def has_references(self) -> bool:
        return any(reference is not None for reference in self.references)


@dataclass(frozen=True)
class Score:
    """One metric of an evaluation.

    :param numbers: what each row contributes, shape (R, K); None of a function's one number.
    :param statistic: of their sums.
    :param rows: those that count. :param bounds: the 95 % interval, if there is one.
    """

    name: str
    value: float
    rows: int
    bounds: tuple[float, float] | None
    numbers: Numbers | None
    statistic: Statistic = mean

    @property
    def of_rows(self) -> list[float | None] | None:
        """Its value for each row, where the whole is their mean; None of a row that does not count."""
        if self.numbers is None or self.statistic is not mean:
            return None
        return [value / weight if weight else None for value, weight in self.numbers.tolist()]


@dataclass(frozen=True)
class Metric:
    """:param numbers: of each row, shape (R, K). :param needs_references: whether it compares with them.
    :param package: that it needs, with the module's name."""

    name: str
    numbers: Callable[[Answers], Numbers]
    statistic: Statistic = mean
    needs_references: bool = True
    package: str | None = None

    @property
    def lacking(self) -> str | None:
        """The package that it needs and that is not installed, and what installs it."""
        found = find_spec(self.package) if self.package else None
        if self.package is None or (found is not None and found.origin is not None):
            return None
        return f"{KEY}={self.name} needs the package {self.package}: pip install 'ftlab[eval]'"

    def score(self, answers: Answers, seed: int) -> list[Score]:
        """:raises MetricError: it failed, naming the row where it can."""
        return [scored(self.name, self.numbers(answers), self.statistic, seed)]


@dataclass(frozen=True)
class UserMetric:
    """:param spec: ``path.py:function``."""

    name: str
    spec: str
    function: Callable[..., Any]
    needs_references: bool = False

    def score(self, answers: Answers, seed: int) -> list[Score]:
        ours = {"predictions": answers.predictions, "references": answers.references, "prompts": answers.prompts}
        columns = {**answers.columns, **ours}
        wanted, lacking = arguments(self.function, list(columns))
        if lacking:
            raise MetricError(
                f"The metric {self.spec} asks for {', '.join(lacking)}, which the rows do not have. They have "
                f"{', '.join(columns)}, passed by name."
            )
        try:
            found = self.function(**{name: list(columns[name]) for name in wanted})
        except Exception as error:
            raise MetricError(f"The metric {self.spec} failed: {describe_error(error)}.") from error
        if not isinstance(found, Mapping):
            return [self._score(self.name, found, len(answers.predictions), seed)]
        return [self._score(f"{self.name}_{key}", one, len(answers.predictions), seed) for key, one in found.items()]

    def _score(self, name: str, found: Any, rows: int, seed: int) -> Score:
        found = found.tolist() if hasattr(found, "tolist") else found  # an array or a tensor
        if isinstance(found, int | float):
            return Score(name, self._number(found), rows, None, None)
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != rows:
            given = f"{len(found)} values" if isinstance(found, list | tuple) else f"a {type(found).__name__}"
            raise MetricError(
                f"The metric {self.spec} returned {given} for {rows} predictions; it must return a number, a list with "
                "one number or None for each, or a mapping of names to such."
            )
        values = [None if one is None else self._number(one) for one in found]
        return scored(name, weighted(values), mean, seed)

    def _number(self, value: Any) -> float:
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise MetricError(f"The metric {self.spec} gave {shorten(value)}; only finite numbers and None will do.")
        return float(value)


AnyMetric = Metric | UserMetric


def scored(name: str, numbers_RK: Numbers, statistic: Statistic, seed: int) -> Score:
    """A metric with its interval. :param numbers_RK: what each row contributes."""
    value = float(statistic(numbers_RK.sum(0, keepdims=True))[0])
    counted = int(np.count_nonzero(numbers_RK.any(1)))
    if statistic is mean:
        counted = int(np.count_nonzero(numbers_RK[:, 1]))
    return Score(name, value, counted, interval(numbers_RK, statistic, seed), numbers_RK, statistic)


def weighted(values: Sequence[float | None]) -> Numbers:
    """What rows contribute to a mean of them, shape (R, 2); a row without a value does not count."""
    return np.array([(0.0, 0.0) if value is None else (value, 1.0) for value in values], dtype=np.float64).reshape(
        -1, 2
    )


def check(names: Sequence[str] | None) -> list[Mistake]:
    """Every mistake in ``eval.metrics`` that shows without running anybody's code."""
    return [one for one in _resolve_all(names, None) if isinstance(one, Mistake)]


def missing_packages(names: Sequence[str] | None) -> list[str]:
    """What ``eval.metrics`` needs and is not installed, a sentence for each."""
    return [one.lacking for one in _resolve_all(names, None) if isinstance(one, Metric) and one.lacking]


def resolve(names: Sequence[str]) -> list[AnyMetric]:
    """The metrics of ``eval.metrics``, in order. A Python file is run once, from where it is.

    :raises ConfigError: all that is wrong with the names, the files and the functions.
    """
    from ftlab.errors import ConfigError

    files: dict[Path, ModuleType] = {}
    found = _resolve_all(names, partial(load_file, files, "metrics"))
    if mistakes := [one for one in found if isinstance(one, Mistake)]:
        raise ConfigError(mistakes)
    return [one for one in found if not isinstance(one, Mistake)]


def _resolve_all(names: Sequence[str] | None, load: Callable[[Path], ModuleType] | None) -> list[AnyMetric | Mistake]:
    found = [_resolve(name, load) for name in names or ()]
    metrics = [one.name for one in found if not isinstance(one, Mistake)]
    twice = sorted({name for name in metrics if metrics.count(name) > 1})
    return [*found, *(Mistake(KEY, f"two metrics are called {name}; name each once.") for name in twice)]


def _resolve(name: str, load: Callable[[Path], ModuleType] | None) -> AnyMetric | Mistake:
    if name in METRICS:
        return METRICS[name]
    head, colon, rest = name.partition(":")
    if head == "bleu" and colon:
        known = f"sacreBLEU's tokenizers are {', '.join(_TOKENIZERS)}."
        return (
            _bleu(f"bleu_{rest}", rest)
            if rest in _TOKENIZERS
            else Mistake(KEY, known, name, nearest(rest, _TOKENIZERS))
        )
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        made = find_function(Path(path).expanduser(), function, load)
        return Mistake(KEY, made[0], name, made[1]) if isinstance(made, tuple) else UserMetric(function, name, made)
    if name.endswith(".py"):
        return Mistake(KEY, f"name a function of that file too: {name}:FUNCTION", name)
    known = f"there is no such metric; there are {', '.join(METRICS)}, bleu:TOKENIZER and path.py:function."
    return Mistake(KEY, known, name, nearest(name, METRICS))


# --- those that have a name ------------------------------------------------------------------------------------------


def _judged(judge: Callable[[str, str], float | None], answers: Answers) -> Numbers:
    """A mean over the rows that have a reference."""
    pairs = zip(answers.predictions, answers.references)
    return weighted([None if reference is None else judge(answer, reference) for answer, reference in pairs])


def _exact(answer: str, reference: str) -> float:
    return float(is_exact(answer, reference))


def _numeric(answer: str, reference: str) -> float | None:
    wanted = last_number(reference)
    return None if wanted is None else float(last_number(answer) == wanted)


def _rouge(kind: str, answers: Answers) -> Numbers:
    scorer = _rouge_scorer(kind)
    return _judged(lambda answer, reference: scorer.score(reference, answer)[kind].fmeasure, answers)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)


@cache
def _sacrebleu(kind: str, *tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(tokenize=tokenizer[0]) if kind == "bleu" else CHRF()


def _corpus_numbers(kind: str, tokenizer: tuple[str, ...], answers: Answers) -> Numbers:
    """sacreBLEU's own counts of each row: what it adds up to those of a corpus."""
    metric = _sacrebleu(kind, *tokenizer)
    predictions = [
        answer for answer, reference in zip(answers.predictions, answers.references) if reference is not None
    ]
    references = [reference for reference in answers.references if reference is not None]
    counted = metric._extract_corpus_statistics(predictions, [references]) if references else []
    rows = np.array([reference is not None for reference in answers.references])
    numbers_RK = np.zeros((len(rows), len(counted[0]) if counted else 1))
    numbers_RK[rows] = counted if counted else 0
    return numbers_RK


def _corpus_statistic(kind: str, tokenizer: tuple[str, ...], sums_SK: Numbers) -> Numbers:
    metric = _sacrebleu(kind, *tokenizer)
    whole = np.rint(sums_SK).astype(np.int64).tolist()  # counts, which a sum of floats may miss by a rounding
    return np.array([metric._compute_score_from_stats(sums).score if any(sums) else math.nan for sums in whole])


def _bleu(name: str, tokenizer: str) -> Metric:
    of = ("bleu", (tokenizer,))
    return Metric(name, partial(_corpus_numbers, *of), partial(_corpus_statistic, *of), package="sacrebleu")


def _stopped(answers: Answers) -> Numbers:
    return weighted([float(stopped) for stopped in answers.stopped])


def _lengths(answers: Answers) -> Numbers:
    return weighted([float(tokens) for tokens in answers.tokens])


def _alike(answers: Answers) -> Numbers:
    (text, _), *_ = Counter(one.strip() for one in answers.predictions).most_common(1) or [("", 0)]
    return weighted([float(one.strip() == text) for one in answers.predictions])


_CHRF = ("chrf", ())
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact_match", partial(_judged, _exact)),
        Metric("token_f1", partial(_judged, token_f1)),
        Metric("numeric_answer", partial(_judged, _numeric)),
        _bleu("bleu", "13a"),
        Metric("chrf", partial(_corpus_numbers, *_CHRF), partial(_corpus_statistic, *_CHRF), package="sacrebleu"),
        *(Metric(kind, partial(_rouge, kind), package="rouge_score") for kind in ("rouge1", "rouge2", "rougeL")),
        Metric("stop_rate", _stopped, needs_references=False),
        Metric("length", _lengths, needs_references=False),
        Metric("majority", _alike, needs_references=False),
    )
}
