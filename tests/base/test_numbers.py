"""How measured values are written for people."""

from __future__ import annotations

import math

import pytest

from ftlab.base.numbers import readable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (73454.0443, "73,454"), (-100.7708, "-100.77"), (1.13551, "1.1355"), (0.5, "0.5000"), (0.0, "0.0000"),
        (1234.56, "1,234.6"), (1234567.8, "1,234,568"), (3.2e-5, "3.2000e-05"), (2.5e12, "2.5000e+12"),
        (math.inf, "inf"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_five_digits(value, text):
    assert readable(value) == text


def test_a_share_of_golden_prompts_has_three_decimals():
    assert readable(0.75, "golden exact match") == readable(0.75, "golden_exact_match") == "0.750"
