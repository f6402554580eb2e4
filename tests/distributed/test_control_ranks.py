"""What a user asks of a run of several processes: all of them obey, after the same step."""

from __future__ import annotations

import pytest

from ftlab.base.libraries import quiet_libraries
from ftlab.engine import tasks
from ftlab.rundir.control import ControlJournal
from ftlab.rundir.directory import RunDir
from tests.distributed.test_ranks import BASE, lines, start, train  # noqa: F401 (fixtures)
from tests.runs import make_run

WORDS = (*BASE, "train.max_steps=6", "train.micro_batch_size=2", "train.lr_scheduler=linear", "train.save_steps=2")


@pytest.mark.distributed
@pytest.mark.parametrize("wrapper", [(), ("deepspeed=z2",), ("deepspeed=z3",)], ids=["ddp", "z2", "z3"])
def test_all_ranks_obey_after_the_same_step(wrapper, train, start, tmp_path):  # noqa: F811
    quiet_libraries()
    ranks = (*WORDS, "hardware.devices=2", "hardware.precision=fp32", *wrapper)
    alone = (*WORDS, "train.micro_batch_size=4", "hardware.precision=fp32")
    for name, words in (("ranks", ranks), ("alone", alone)):
        given = (*words, f"run.dir={tmp_path / name}")
        run_dir = tasks.prepare(make_run(*given), given, is_here=True)
        ControlJournal(run_dir.path).append("set", values={"train.learning_rate": 3e-3, "train.logging_steps": 1})
        train("resume", name)
    ours, theirs = (lines(tmp_path / name) for name in ("ranks", "alone"))
    rates = [line["learning_rate"] for line in ours if "learning_rate" in line]
    assert rates[1] == 3e-3, "it is obeyed after the first step"
    assert rates == [line["learning_rate"] for line in theirs if "learning_rate" in line]
    losses, expected = ([line["loss"] for line in one if "loss" in line] for one in (ours, theirs))
    assert losses == pytest.approx(expected, abs=1e-3)
    (done,) = RunDir.open(tmp_path / "ranks").manifest()["control"]
    assert done["step"] == 1


@pytest.mark.distributed
def test_a_run_of_two_processes_is_paused_and_goes_on(ftlab, train, start, tmp_path):  # noqa: F811
    words = [word for word in WORDS if "max_steps" not in word and "save_steps" not in word]
    words += ["train.max_steps=60", "train.save_steps=100", "hardware.devices=2"]
    process = start(*words, "run.dir=r")
    while not (tmp_path / "r" / "metrics.jsonl").is_file():
        assert process.poll() is None
    done = ftlab("control", "r", "pause", "wait=60")
    assert "r paused after step" in done.stdout, done.stdout + done.stderr
    assert process.wait(60) == 130
    assert RunDir.open(tmp_path / "r").manifest()["status"] == "paused"
    train("resume", "r")
    train(*words, "run.dir=whole")
    ours, theirs = ([line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("r", "whole"))
    assert ours == theirs
