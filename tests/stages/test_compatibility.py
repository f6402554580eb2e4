"""docs/compatibility.md says what the code does."""

from __future__ import annotations

import pytest

from tests.compatibility import STAGES, read_families, row_of
from tests.families import FAMILIES

FAST = "mpt"  # one of a way that no shipped model is trained in elsewhere


def test_the_table_has_every_family_and_every_stage():
    table = read_families()
    assert list(table) == list(FAMILIES)
    assert all(len(row) == 1 + len(STAGES) for row in table.values())


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name == FAST else pytest.mark.matrix) for name in FAMILIES],
)
def test_a_familys_row_is_what_the_code_does(family):
    """Three steps of each stage; each loss that of the samples one at a time."""
    stages = ("sft", "kto") if family == FAST else tuple(STAGES)
    written = read_families()[family]
    expected = [written[0], *(written[1 + list(STAGES).index(stage)] for stage in stages)]
    assert row_of(family, stages) == expected
