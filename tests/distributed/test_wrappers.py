"""docs/compatibility.md, several devices: every stage and method under every wrapper, packed or not, is as one process
trains it, or is refused at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.wrappers import GENERATING, METHODS, STAGES, WRAPPERS, read_wrappers, refusal, rows

SHARDED = ("z3", "z3_offload", "fsdp")  # whose weights no policy writes answers with


def test_the_table_knows_these_wrappers_and_rows():
    table = read_wrappers()
    assert [*table] == [row.titles for row in rows()], (
        "OMP_NUM_THREADS=1 python -m tests.wrappers --write measures what lacks"
    )
    assert all([*cells] == [*WRAPPERS] for cells in table.values())


@pytest.mark.matrix
def test_what_the_table_has_as_refused_is_refused_at_once(tmp_path):
    table = read_wrappers()
    for row in rows():
        for wrapper, cell in table.get(row.titles, {}).items():
            refused = refusal(row, (*WRAPPERS[wrapper], "hardware.devices=2"), tmp_path / "run")
            assert (refused is None) == (cell == "yes"), (row, wrapper, refused)


@pytest.mark.distributed
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_row_of_the_table_is_what_the_code_does(env, stage, method):
    pytest.importorskip("deepspeed")
    command = [sys.executable, "-m", "tests.wrappers", *WRAPPERS, "--stages", stage, "--methods", method]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True)
    measured = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert [tuple(row[:3]) for row in measured] == [row.titles for row in rows([stage], [method])], done.stderr
    assert {cell for row in measured for cell in row[3:]} <= {"yes", "refused"}, done.stdout + done.stderr
    if stage in GENERATING:
        assert measured[0][3:] == ["refused" if wrapper in SHARDED else "yes" for wrapper in WRAPPERS], done.stderr
    known = read_wrappers()
    for row in measured:
        assert row[3:] == [*known[tuple(row[:3])].values()], "another than in the document"
