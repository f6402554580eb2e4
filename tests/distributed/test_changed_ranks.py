"""A run that is continued by another number of processes: the same steps but for rounding, or a refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.rundir.checkpoints import checkpoints, step_of
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.distributed.test_ranks import BASE, check_equal, start, train  # noqa: F401

# A checkpoint falls between two logged lines, in the midst of an epoch of 43 rows.
WORDS = (
    *BASE, "data.num_samples=43", "data.packing=false", "train.max_steps=6", "train.save_steps=3",
    "train.micro_batch_size=2", "train.global_batch_size=8", "train.logging_steps=2", "train.learning_rate=1e-4",
)  # fmt: skip
RANKS = {1: (), 2: ("hardware.devices=2",), 4: ("hardware.devices=4",)}


def stopped(source: Path, folder: Path) -> Path:
    """A copy of a run as it was after its third step."""
    shutil.copytree(source, folder, symlinks=True)
    (folder / "final").unlink()
    (phase,) = (folder / "phases").iterdir()
    shutil.rmtree(phase / "final")
    for later in [one for one in checkpoints(phase) if step_of(one) > 3]:
        shutil.rmtree(later)
    Manifest(RunDir.open(folder)).record(phases={}, status="running")
    return folder


@pytest.fixture
def whole(tmp_path, train) -> Callable[..., Path]:  # noqa: F811
    """``whole(2, "stage=dpo")``: the finished run of so many processes."""

    def run(ranks: int, *words: str) -> Path:
        train(*WORDS, *words, *RANKS[ranks], f"run.name=whole-{ranks}")
        return tmp_path / f"outputs/whole-{ranks}"

    return run


@pytest.mark.distributed
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4)])
def test_the_steps_are_those_of_the_whole_run(tmp_path, train, whole, before, after):  # noqa: F811
    run_dir = whole(before)
    stopped(run_dir, tmp_path / "outputs/r")
    done = train(*WORDS, *RANKS[after], "run.name=r")
    assert "continuing from" in done.stdout
    check_equal(run_dir, tmp_path / "outputs/r", 1e-5)


@pytest.mark.distributed
def test_what_would_draw_otherwise_is_refused(tmp_path, start, whole):  # noqa: F811
    run_dir = stopped(whole(1, "lora.dropout=0.1"), tmp_path / "outputs/r")
    before = (run_dir / "run.yaml").read_text()
    process = start(*WORDS, "lora.dropout=0.1", *RANKS[2], "run.name=r", COLUMNS="400")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "outputs/r cannot go on like this: it began with 1 process, and 2 are asked for" in err
    assert "each of them draws its own dropout (lora.dropout=0.1)" in err
    assert (run_dir / "run.yaml").read_text() == before
