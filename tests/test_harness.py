"""What the benchmarks beside TRL have in common: sides in turns, limits, and the ratios that were recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Two sides that take no time: "ours" says how fast ftlab is.
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import harness
from harness import Case, Ratio

def cases(options):
    sides = {{"ftlab": {{"speed": options.ours, "loss": 2.0}}, "trl": {{"speed": 2.0, "loss": options.loss}}}}
    return [Case("steps", sides, (Ratio("steps/s", at_least=1.5), Ratio("bytes", better="lower")), equal=("loss",))]

def measure(speed, loss):
    print("a line of a library's")
    return {{"steps/s": speed, "bytes": 100 * speed, "loss": loss}}

parser = harness.parser_of(None)
parser.add_argument("--ours", type=float, default=4.0)
parser.add_argument("--loss", type=float, default=2.0)
harness.main("fake", parser.parse_args(), cases, measure)
"""


@pytest.fixture
def bench(tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(SCRIPT.format(folder=str(ROOT / "benchmarks")))

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, str(script), "--repeats", "1", "--baselines", str(tmp_path / "kept"), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_ratio_worse_than_the_recorded_one_is_told_and_ends_with_1(bench, tmp_path):
    code, told = bench("--record", "--out", str(tmp_path / "out.json"))
    assert code == 0, told
    assert "steps: steps/s 2.000 of the other side's; at least 1.5 is wanted" in told
    kept = json.loads(Path(tmp_path / "kept/fake.json").read_text())
    assert kept["cases"] == {"steps": {"steps/s": 2.0, "bytes": 2.0}}
    assert json.loads((tmp_path / "out.json").read_text())["cases"]["steps"]["turns"][0]["trl"]["steps/s"] == 2.0
    code, told = bench("--ours", "3.5")  # within the limit, slower than it was
    assert code == 1
    assert "worse than is allowed: steps: steps/s 1.750, and 2.000 in the baseline" in told
    assert "bytes" not in told.partition("worse than")[2], "fewer bytes are no regression"
    assert bench("--ours", "3.5", "--tolerance", "0.2")[0] == 0


def test_a_missed_limit_and_unequal_work_end_it(bench):
    code, told = bench("--ours", "2")
    assert code == 1 and "worse than is allowed: steps: steps/s 1.000, and 1.5 is wanted" in told
    code, told = bench("--loss", "2.1")
    assert code == 1 and "not the same work: loss" in told
    assert bench("--ours", "2", "--small")[0] == 0, "a small size says nothing of speed"
