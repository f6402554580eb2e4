"""The jobs of a sweep, known before the first of them begins."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ftlab.config import command_line, sweeps
from ftlab.errors import ConfigError
from ftlab.rundir.sweep import Journal, SweepDir, changed_overrides, is_same


def read(line: str) -> command_line.Arguments:
    return command_line.read(shlex.split(line))


def test_the_jobs_are_those_that_hydra_will_start():
    found = sweeps.read(read("-m lora.r=4,8 seed=1 train.learning_rate=1e-3,1e-4 hydra.sweep.dir=mine"))
    assert (found.path, found.is_chosen, found.wants_new) == (Path("mine"), True, False)
    assert found.jobs is not None
    assert [changed_overrides(job, found.jobs) for job in found.jobs] == [
        [f"lora.r={r}", f"train.learning_rate={rate}"] for r in (4, 8) for rate in ("0.001", "0.0001")
    ]
    assert all("seed=1" in job for job in found.jobs)


def test_a_sweep_is_the_same_by_its_jobs_and_not_by_its_place():
    first = sweeps.read(read("-m lora.r=4,8 seed=1")).jobs
    assert is_same(first, sweeps.read(read("-m seed=1 lora.r=4,8 run.if_exists=new hydra.sweep.dir=x")).jobs)
    assert not is_same(first, sweeps.read(read("-m lora.r=8,4 seed=1")).jobs)
    assert not is_same(first, sweeps.read(read("-m lora.r=4,8,16 seed=1")).jobs)
    assert not is_same(first, sweeps.read(read("-m lora.r=4,8 seed=2")).jobs)
    assert sweeps.read(read("-m lora.r=4,8 seed=1")).path.name.startswith("sweep-2")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("-m seed=1,2", True), ("seed=1", False), ("-m version seed=1,2", False), ("-m seed=1,2 --cfg job", False)],
)
def test_only_trainings_that_are_run_make_a_sweep(line, expected):
    assert read(line).trains_sweep is expected


def test_resume_of_a_sweep_is_its_command_line(tmp_path):
    folder = SweepDir(tmp_path / "a sweep")
    folder.write(
        Journal(
            overrides=("seed=1,2", "run.if_exists=new"), flags=("--config-dir=mine",), folder="/", jobs=(("seed=1",),)
        )
    )
    given = sweeps.resumed(read(f"resume '{folder.path}'"))
    assert given.is_multirun and given.config_dir == "mine" and given.task == "train"
    assert given.overrides == ("seed=1,2", f"hydra.sweep.dir='{folder.path}'")
    with pytest.raises(ConfigError, match="takes everything of a sweep from its own journal"):
        sweeps.resumed(read(f"resume '{folder.path}' seed=3"))
    alone = read("resume outputs/mine")
    assert sweeps.resumed(alone) == alone
