"""What the tests of run directories share: an empty folder to be in, and the plan of a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.planning import make_plan
from ftlab.rundir.plan import Plan


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Relative run directories start in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(make_run) -> Callable[..., Plan]:
    """``plan("lora.r=8", ...)``: the plan of a command line."""
    return lambda *overrides: make_plan(make_run(*overrides), overrides)
