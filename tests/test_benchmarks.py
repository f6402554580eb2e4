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

# Those that compare with TRL, at their small size: both sides come to an end, and begin with equal losses.
BESIDE_TRL = {
    "step_cpu.py --small": "full chats: steps/s",
    "preference.py --small": "dpo long prompts: pairs/s",
    "rollout.py --small": "grpo: tokens/s",
    "prepare.py --small": "collate 256: batches/s",
    "startup.py --small": "main job: wall s",
    "step_gpu.py --dry-run": "8B qlora: tokens/s",
}


@pytest.mark.parametrize("command", BESIDE_TRL, ids=lambda command: command.split()[0])
def test_benchmark_beside_trl_comes_to_its_end(command, tmp_path, env):
    script, *words = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert BESIDE_TRL[command] in done.stdout, done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_benchmark_prints_its_figures(command, tmp_path, env):
    script, *words = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *words, *SHORT],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(COMMANDS[command], done.stdout), done.stdout
