"""Nothing is wider than a terminal of 80 columns, but for a word that cannot be broken, such as a path."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.runs import FAST, held_out, train_run

COMMANDS = (
    "ls .", "diff one two", "inspect one step=2", "inspect one", "explain train.learning_rate", "env", "version",
    "resume nowhere", "reproduce nowhere", "train.learning_rat=1", "data.path=no/such/file.jsonl data.format=alpaca",
    "model=no_such_model", "lora.r=8,16", "resume one train.learning_rate=1e-4", "diff one", "ls nowhere",
    "report one two", "report",
    "plan run.dir=one", "plan phase=rlhf", "plan model=llama2_7b hardware.memory_gb=24 stage=dpo",
)  # fmt: skip


def too_wide(text: str) -> list[str]:
    return [line for line in text.splitlines() if cell_len(line.rstrip()) > 80 and " " in line.strip()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A run in a terminal of 80 columns, what it printed, and a copy of it."""
    folder, out = tmp_path_factory.mktemp("a"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", "80")
        patch.chdir(folder)
        given = (
            *FAST,
            "eval.steps=3",
            "eval.generate_every=3",
            "data.max_samples=48",
            held_out(folder, "instructions"),
        )
        train_run(Path("one"), *given)
    shutil.copytree(folder / "one", folder / "two", symlinks=True)
    return folder, out.getvalue()


def test_training_fits(trained):
    assert "before training: validation loss" in trained[1]
    assert too_wide(trained[1]) == []


@pytest.mark.matrix
def test_every_command_and_error_fits(trained, tmp_path, env, each):
    for name in ("one", "two"):
        shutil.copytree(trained[0] / name, tmp_path / name, symlinks=True)
    env["COLUMNS"] = "80"
    ended = each([*COMMANDS])
    wide = {line: lines for line, done in ended.items() if (lines := too_wide(done.stdout + done.stderr))}
    assert wide == {}
    assert all(done.stdout + done.stderr for done in ended.values())


def test_a_pipe_that_says_no_width_gets_lines_whole(tmp_path, each, env):
    env.pop("COLUMNS", None)
    (done,) = each(["train.learning_rat=1"]).values()
    assert any(cell_len(line) > 80 for line in done.stderr.splitlines())
