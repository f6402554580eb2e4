"""Which configs of a sweep a rule stops."""

from __future__ import annotations

import math
import random

import pytest

from ftlab.engine.stop_rules import losers, rungs, value_at


def test_successive_halving_leaves_one_in_so_many():
    """27 configs, of which after each rung a third is left: 9, 3; the best are always among them."""
    values = dict(enumerate(random.Random(0).sample(range(1000), 27)))
    left, turns = dict(values), 27
    sizes = []
    for _ in rungs("asha", turns, 3):
        stopped = losers("asha", {number: float(left[number]) for number in left}, True, 3)
        left = {number: value for number, value in left.items() if number not in stopped}
        sizes.append(len(left))
    assert sizes == [9, 3, 1] and left == {min(values, key=values.__getitem__): min(values.values())}
    assert losers("asha", {0: 1.0, 1: 2.0}, True, 3) == {1: "2 was 2 of 2, and 1 went on"}


def test_more_is_better_where_it_is_said():
    assert [*losers("asha", {0: 0.9, 1: 0.1, 2: 0.5}, False, 3)] == [2, 1]
    assert [*losers("median", {0: 0.9, 1: 0.1, 2: 0.5}, False, 3)] == [1]
    assert losers("median", {0: 0.9, 1: 0.1, 2: 0.5}, False, 3)[1] == "0.1 was worse than the median 0.5 of 3"


def test_no_number_is_worse_than_any():
    assert [*losers("asha", {0: math.nan, 1: 7.0, 2: math.inf}, True, 3)] == [0, 2]
    assert [*losers("median", {0: math.nan, 1: 7.0, 2: 8.0}, True, 3)] == [0]


@pytest.mark.parametrize("rule", ["none", "median"])
def test_one_alone_is_never_stopped(rule):
    assert losers(rule, {0: 3.0}, True, 3) == {}


def test_values_are_those_of_the_same_step():
    lines = [
        {"step": 2, "loss": 3.0},
        {"step": 4, "loss": 2.0},
        {"step": 4, "eval_loss": 5.0},
        {"step": 6, "loss": 1.0},
    ]
    assert value_at(lines, "loss", 5) == 2.0
    assert value_at(lines, "eval_loss", 3) is None
    assert value_at(lines, "eval_loss", 9) == 5.0
