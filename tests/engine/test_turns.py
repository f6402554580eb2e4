"""Turns in one process, without a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TWO_THREADS = """
import os, threading
from pathlib import Path
import torch
from accelerate import PartialState
from ftlab.engine.turns import TURNS

PartialState(cpu=True)
threads = lambda: len([*Path("/proc/self/task").iterdir()])
counts = []

def work(turn):
    with turn.at_work():
        for _ in range(3):
            torch.ones(512, 512) @ torch.ones(512, 512)
            counts.append(threads())
            turn.let_others_work()

turns = [TURNS.reserve(1) for _ in range(2)]
before = threads()
runs = [threading.Thread(target=work, args=(turn,)) for turn in turns]
for run in runs: run.start()
for run in runs: run.join()
print([count - before for count in counts])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has no workers")
def test_a_run_that_waits_keeps_no_workers():
    """With those of waiting runs, libgomp would take more threads than cores for a reason to let all of them sleep."""
    done = subprocess.run(
        [sys.executable, "-c", _TWO_THREADS], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    assert done.returncode == 0, done.stderr
    counts = [int(word) for word in done.stdout.strip()[1:-1].split(", ")]
    # Two runs, and the one worker of the run that computes; not that of the other. At the end only one run is left.
    assert max(counts) == 3, counts
    assert len(counts) == 6
