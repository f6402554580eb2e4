"""A data cache, damaged at random: the rows that come of it are always the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.helpers import alpaca, numbered
from tests.fuzz.damage import DAMAGES, damaged

FAST = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole")


def check(bench, write, whole: Path, data: st.DataObject) -> None:
    path = whole / "rows.jsonl"
    if not path.exists():
        write("rows.jsonl", numbered(6)).rename(path)
    cache, spare = whole / "cache", whole / "spare"
    overrides = alpaca(path, f"data.cache={cache}", "data.split.validation=auto", "data.split.fraction=0.3")
    if not spare.exists():
        bench.prepare(*overrides)
        shutil.copytree(cache, spare)
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(spare, cache)
    expected = contents(bench.prepare(*overrides))
    files = sorted(file.relative_to(cache) for file in (cache / "data").rglob("*") if file.suffix != ".lock")
    file = cache / data.draw(st.sampled_from(files))
    damaged(file, data.draw(DAMAGES))
    again, after = bench.prepare(*overrides), bench.prepare(*overrides)
    assert contents(again) == contents(after) == expected
    assert after.cached and after.damaged is None


def contents(prepared) -> list:
    found = []
    for split, rows in sorted(prepared.rows.items()):
        found.append((split, rows.fingerprint(), np.asarray(rows.kept).tolist(), np.asarray(rows.labels).tolist()))
    return [*found, prepared.ledger.as_dict()]


@FAST
@given(data=st.data())
def test_a_damaged_cache_never_changes_the_rows(bench, write, whole, data):
    check(bench, write, whole, data)


@pytest.mark.fuzz
@LONG
@given(data=st.data())
def test_a_damaged_cache_never_changes_the_rows_2000(bench, write, whole, data):
    check(bench, write, whole, data)
