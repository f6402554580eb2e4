"""The scripts that figures of the pages come from run, and print what they say."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SHORT = ("train.max_steps=2", "eval.golden_rows=4", "eval.samples=0", "data.max_samples=64")

COMMANDS = {
    "main_job.py --seeds 1": r"(?m)^mean +[\d.]+ +8\.\d{3}",
    "effects.py --stages dpo --seeds 1 --out effects": r"golden pairs preferred \| 0\.\d+ -> 0\.\d+ \|",
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_benchmark_prints_its_figures(command, tmp_path, env):
    script, *words = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words, *SHORT],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(COMMANDS[command], done.stdout), done.stdout
