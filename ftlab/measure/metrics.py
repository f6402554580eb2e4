"""Measures of generated text and of losses. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float:
    """Share of answers equal to what was expected, surrounding white space aside.

    >>> exact_match(["7", " blue"], ["7", "red"])
    0.5
    """
    assert len(answers) == len(expected)
    return sum(a.strip() == e.strip() for a, e in zip(answers, expected)) / len(expected)


def perplexity(loss: float) -> float:
    """exp of the mean cross-entropy in nats per token; infinite where that overflows."""
    return math.inf if loss >= 700 else math.exp(loss)
