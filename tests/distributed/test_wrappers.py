"""Every stage and method under every wrapper, packed or not: as one process trains it, or refused at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.wrappers import GENERATING, METHODS, STAGES, WRAPPERS


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "stage",
    [pytest.param(name, marks=pytest.mark.distributed if name == "orpo" else pytest.mark.matrix) for name in STAGES],
)
def test_a_row(env, stage, method):
    pytest.importorskip("deepspeed")
    command = [sys.executable, "-m", "tests.wrappers", *WRAPPERS, "--stages", stage, "--methods", method]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    cells = [[cell.strip() for cell in line.strip("|").split("|")][3:] for line in done.stdout.splitlines()]
    assert len(cells) == (1 if stage in GENERATING else 2), done.stderr
    assert {cell for row in cells for cell in row} <= {"yes", "refused"}, done.stdout + done.stderr
    assert all(row[0] == "yes" for row in cells), done.stderr
