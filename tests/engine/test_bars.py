"""Bars of evaluations: with an ETA on a terminal, below that of training, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from tests.runs import logged, train_run

STEERS = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
SHORT = ("eval.golden_rows=0", "eval.samples=0", "data.split.golden=none", "tracker=none", "data.max_samples=24",
         "train.max_steps=2", "train.logging_steps=1", "eval.steps=1")  # fmt: skip


def drawn(folder: Path, *overrides: str) -> tuple[RunDir, list[str]]:
    """A run on a terminal of 80 columns, and every line that was drawn there."""
    controller, terminal = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the terminal is closed
            while piece := os.read(controller, 1 << 16):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(terminal, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        run_dir = train_run(folder, *overrides)
    reader.join()
    os.close(controller)
    text = STEERS.sub("", b"".join(pieces).decode())
    return run_dir, [line for line in re.split(r"[\r\n]+", text) if line]


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (["stage=sft"], r"evaluating on \d+ validation batches"),
        *(
            pytest.param(given, name, marks=pytest.mark.matrix)
            for given, name in [
                (["stage=dpo"], r"evaluating on \d+ validation batches"),
                (["stage=sft", "train.engine=trl"], r"evaluating on \d+ validation batches"),
                (["stage=grpo"], r"evaluating on \d+ validation prompts"),
                (["stage=ppo"], "evaluation: sampling"),
            ]
        ),
    ],
    ids=["sft", "dpo", "trl", "grpo", "ppo"],
)
def test_evaluations_have_a_bar_with_an_eta_on_a_terminal_and_say_nothing_elsewhere(
    stage, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TERM", "xterm-256color")
    run_dir, lines = drawn(tmp_path / "drawn", *stage, *SHORT)
    bars = [line for line in lines if re.match(name, line)]
    assert any(re.search(r" \d+/\d+( answers)? +\d:\d\d:\d\d ETA \d\d:\d\d$", line) for line in bars), bars
    during = [above for above, line in pairwise(lines) if line in bars and above.startswith("training ")]
    assert during, "none was drawn below the bar of training"
    assert max(len(line) for line in lines if str(run_dir.path) not in line) <= 80  # a path is never cut
    piped = train_run(tmp_path / "piped", *stage, *SHORT)
    assert not re.search(r"evaluating|evaluation:|rollout", capsys.readouterr().out)
    assert not re.search(r"evaluating|evaluation:|rollout", run_dir.log.read_text() + piped.log.read_text())
    assert logged(run_dir) == logged(piped)
