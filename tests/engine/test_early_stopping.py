"""When runs that take turns are compared: those that begin together, and those that begin when they are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ftlab.engine.early_stopping import Judge
from ftlab.rundir.sweep import Objective
from ftlab.schema.launchers import Shards
from tests.sweeps import log, write_run

LOSS = Objective(measure="eval_loss", direction="minimize")


@dataclass
class Run:
    """One of 8 steps in 4 turns that logs one value for all of them."""

    path: Path
    value: float
    first: int | None = None
    ended: int = 0
    steps: int = 0
    is_left: bool = True

    def train(self, steps: int) -> None:
        self.first, self.steps, self.ended = self.first or 0, 8, self.ended + steps
        log(self.path, {"step": self.ended, "eval_loss": self.value})


@pytest.fixture
def runs(tmp_path):
    return {
        number: Run(write_run(tmp_path / str(number), "running"), value)
        for number, value in enumerate((0.4, 0.9, 0.1, 0.8))
    }


def judge_of(runs: dict[int, Run], together: tuple[int, ...] = ()) -> Judge:
    options = Shards(shards=4, resident=None, stop="asha", factor=2)
    return Judge(options, LOSS, lambda: {number: run.path for number, run in runs.items()}, together)


def test_those_that_begin_together_wait_for_the_last_of_them(runs):
    judge = judge_of(runs, (0, 1, 2, 3))
    for number in (0, 1, 2):
        runs[number].train(2)
        assert judge.judge(runs) == {}
    runs[3].train(2)
    assert judge.judge(runs) == {
        1: "asha after step 2: eval_loss 0.9 was 4 of 4, and 2 went on",
        3: "asha after step 2: eval_loss 0.8 was 3 of 4, and 2 went on",
    }
    assert judge.judge(runs) == {}, "once"


def test_one_that_begins_for_itself_is_compared_when_it_comes_to_a_rung(runs):
    """With what others have logged of that step, however far they are: the first of all goes on, and a second that is
    worse does not; what is known later changes nothing for those that went on."""
    judge, stopped = judge_of(runs), {}
    for number in (0, 1, 2, 3):
        runs[number].train(2)
        stopped |= judge.judge(runs)
    assert stopped == {
        1: "asha after step 2: eval_loss 0.9 was 2 of 2, and 1 went on",
        3: "asha after step 2: eval_loss 0.8 was 3 of 4, and 2 went on",
    }
    runs[2].train(2)
    assert judge.judge(runs) == {}
    runs[0].train(2)
    assert judge.judge(runs) == {0: "asha after step 4: eval_loss 0.4 was 2 of 2, and 1 went on"}


def test_one_that_comes_to_a_sweep_whose_runs_began_together_is_compared_for_itself(runs):
    judge = judge_of(runs, (0, 1))
    runs[0].train(2)
    runs[2].train(2)
    assert judge.judge(runs) == {}, "it is the best so far, and the others wait for the second of them"
    runs[1].train(2)
    assert [*judge.judge(runs)] == [0, 1], "of three the best goes on"


def test_one_that_goes_on_from_beyond_a_rung_is_not_compared_there_again(runs):
    """It was, by the process that was killed; more values are there by now."""
    runs[0].first, runs[0].steps = 3, 8
    for number in (0, 2):
        runs[number].train(2)
    assert judge_of(runs).judge(runs) == {}
    runs[0].first, runs[0].ended = 2, 2
    assert [*judge_of(runs).judge(runs)] == [0], "from the rung itself it is"
