"""The jobs of a sweep, known before the first of them begins."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from ftlab.config import check, command_line, compose, phases, sweeps
from ftlab.errors import ConfigError
from ftlab.rundir.sweep import Clone, Jobs, Journal, SweepDir, changed_overrides, is_same, numbers, with_new_jobs


def read(line: str) -> command_line.Arguments:
    return command_line.read(shlex.split(line))


def jobs_of(line: str) -> Jobs:
    found = sweeps.read(read(line)).journal.jobs
    assert found is not None
    return found


def test_the_jobs_are_those_that_hydra_will_start():
    found = sweeps.read(read("-m lora.r=4,8 seed=1 train.learning_rate=1e-3,1e-4 hydra.sweep.dir=mine"))
    assert (found.path, found.named, found.if_exists) == (Path("mine"), "hydra.sweep.dir", "resume")
    jobs = found.journal.jobs
    assert jobs is not None
    assert [changed_overrides(job, jobs) for job in jobs] == [
        [f"lora.r={r}", f"train.learning_rate={rate}"] for r in (4, 8) for rate in ("0.001", "0.0001")
    ]
    assert all("seed=1" in job for job in jobs)


def test_a_sweep_is_the_same_by_its_jobs_and_not_by_its_place():
    first = jobs_of("-m lora.r=4,8 seed=1")
    assert is_same(first, jobs_of("-m seed=1 lora.r=4,8 run.if_exists=new hydra.sweep.dir=x"))
    assert is_same(first, jobs_of("-m lora.r=4,8 seed=1 sweep.name=x sweep.objective=eval_loss hydra/launcher=basic"))
    assert not is_same(first, jobs_of("-m lora.r=8,4 seed=1"))
    assert not is_same(first, jobs_of("-m lora.r=4,8,16 seed=1"))
    assert not is_same(first, jobs_of("-m lora.r=4,8 seed=2"))
    assert sweeps.read(read("-m lora.r=4,8 seed=1")).path.name.startswith("sweep-2")


def journal_of(jobs: Jobs, **more: Any) -> Journal:
    return Journal(overrides=(), flags=(), folder="", jobs=jobs, **more)


def test_new_jobs_come_after_those_that_are_there_and_these_keep_their_numbers():
    first = jobs_of("-m lora.r=4,16 seed=1")
    asked = jobs_of("-m lora.r=4,8,16,32 seed=1")
    more = with_new_jobs(journal_of(first), asked)
    assert more == (first[0], first[1], asked[1], asked[3])
    assert numbers(more, asked) == [0, 2, 1, 3]
    assert with_new_jobs(journal_of(more), asked) == more, "the same command again"
    assert with_new_jobs(journal_of(first), jobs_of("-m lora.r=4,8 seed=1")) is None, "one is gone"
    clone = ("lora.r=4", "seed=1", "train.learning_rate=1")
    cloned = Clone(parent=0, line=0, schedule="continue", weights="parent")
    with_clone = journal_of((*first, clone), clones={2: cloned})
    assert with_new_jobs(with_clone, first) == (*first, clone), "nobody asks for a clone again"
    assert with_new_jobs(with_clone, asked) == (*first, clone, asked[1], asked[3])
    twice = jobs_of("-m lora.r=4,4 seed=1")
    assert numbers(twice, twice) == [0, 1], "equal jobs are two"


def test_a_name_is_a_folder_and_a_folder_wins_over_it():
    assert sweeps.read(read("-m lora.r=4,8 sweep.name=mine")).path == Path("multirun/mine")
    assert sweeps.read(read("-m lora.r=4,8 sweep.name=mine hydra.sweep.dir=here")).path == Path("here")


def test_a_job_is_rerun_without_what_its_sweep_was_told():
    line = "-m lora.r=4,8 sweep.name=mine sweep.objective=eval_loss"
    journal = sweeps.read(read(line)).journal
    assert [(one.measure, one.direction) for one in journal.objectives] == [("eval_loss", "minimize")]
    assert journal.jobs == (("lora.r=4",), ("lora.r=8",))


@pytest.mark.parametrize(
    ("line", "expected"),
    [("-m seed=1,2", True), ("seed=1", False), ("-m version seed=1,2", False), ("-m seed=1,2 --cfg job", False)],
)
def test_only_trainings_that_are_run_make_a_sweep(line, expected):
    assert read(line).trains_sweep is expected


def test_a_task_that_trains_nothing_is_repeated_for_each_job_with_its_number():
    given = read("plan -m lora.r=4,8 seed=1 phases.sft.lora.r=2")
    lines: list[list[str]] = []

    def start(line: list[str]) -> None:
        lines.append(line)
        sys.exit(len(lines) % 2)  # the first fails

    assert given.repeats_task and not given.trains_sweep
    assert sweeps.run_each(given, compose.compose(["lora.r=4"]).hydra, start) == 1
    typed = [[phases.decode_override(word) for word in line] for line in lines]
    same = ["seed=1", "phases.sft.lora.r=2"]
    assert typed == [
        ["task=plan", "lora.r=4", *same, "hydra.job.num=0"], ["task=plan", "lora.r=8", *same, "hydra.job.num=1"]
    ]  # fmt: skip


def test_a_sweeper_that_learns_from_trainings_is_for_trainings(tmp_path):
    folder = tmp_path / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    (folder / "guided.yaml").write_text("_target_: guided.Sweeper\n")
    line = f"plan -m lora.r=4,8 hydra/sweeper=guided --config-dir={tmp_path}"
    with pytest.raises(ConfigError, match="hydra/sweeper=guided: chooses its jobs by how trainings end; ftlab plan -m"):
        sweeps.run_each(read(line), check.check(read(line)).hydra, lambda _: None)


def test_resume_of_a_sweep_is_its_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = SweepDir(tmp_path / "a sweep")
    folder.write(
        Journal(
            overrides=("seed=1,2", "run.if_exists=new"),
            flags=("--config-dir=mine",),
            folder=str(tmp_path),
            jobs=(("seed=1",),),
        )
    )
    given = sweeps.resumed(read(f"resume '{folder.path}'"))
    assert given.is_multirun and given.config_dir == "mine" and given.task == "train"
    assert given.overrides == ("seed=1,2", f"hydra.sweep.dir='{folder.path}'")
    with pytest.raises(ConfigError, match="takes everything of a sweep from its own journal"):
        sweeps.resumed(read(f"resume '{folder.path}' seed=3"))
    alone = read("resume outputs/mine")
    assert sweeps.resumed(alone) == alone


@pytest.mark.parametrize("place", ["there", "moved", "alone"])
def test_a_sweep_is_resumed_in_the_folder_that_it_was_started_in(place, tmp_path, monkeypatch, capsys):
    """Its data has a path that starts there; where the folder has moved with its sweep, there."""
    started, moved = tmp_path / "a", tmp_path / "b"
    folder = SweepDir(started / "outputs" / "sweep-1")
    folder.path.mkdir(parents=True)
    folder.write(Journal(overrides=("data.path=rows.jsonl",), flags=(), folder=str(started), jobs=(("seed=1",),)))
    if place == "moved":
        started.rename(moved)
        folder, started = SweepDir(moved / "outputs" / "sweep-1"), moved
    elif place == "alone":
        folder.path.rename(tmp_path / "sweep-1")
        folder = SweepDir(tmp_path / "sweep-1")
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    given = sweeps.resumed(read(f"resume {os.path.relpath(folder.path)}"))
    assert Path.cwd() == started
    data, where = given.overrides
    assert data == "data.path=rows.jsonl"
    assert Path(where.removeprefix("hydra.sweep.dir=")).resolve() == folder.path
    was = f" (it has moved from {tmp_path / 'a'})" if place == "moved" else ""
    assert capsys.readouterr().out.replace("\n", " ").strip() == (
        f"Relative paths start from {started}, in which the sweep was started{was}."
    )
