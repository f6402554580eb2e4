"""Measures of generated text and of losses. Pure functions."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Share of answers equal to what was expected, surrounding white space aside.

    >>> exact_match(["7", " blue"], ["7", "red"])
    0.5
    """
    assert len(answers) == len(expected)
    return sum(map(is_exact, answers, expected)) / len(expected)


def is_exact(answer: str, expected: str) -> bool:
    return answer.strip() == expected.strip()


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall of words, each as often as it occurs, as SQuAD has it: in lower case,
    without punctuation and English articles (https://arxiv.org/abs/1606.05250, section
    6.1). 1 where both have no words.

    >>> token_f1("The blue house.", "a house")
    0.6666666666666666
    """
    ours, theirs = words(answer), words(expected)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """The words of a text as SQuAD compares them."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def perplexity(loss: float) -> float:
    """exp of the mean cross-entropy in nats per token; infinite where that overflows."""
    return math.inf if loss >= 700 else math.exp(loss)
