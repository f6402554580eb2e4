"""The leaderboard of a sweep: what is told of each job, in which order, and in how many columns."""

from __future__ import annotations

import fcntl
import json

import pytest
from rich.cells import cell_len

from ftlab.base.console import Terminal
from ftlab.rundir.leaderboard import Leaderboard, as_dict, read_sweep
from ftlab.rundir.leaderboard_table import best_line, duration, problems, render
from ftlab.rundir.sweep import SweepDir
from tests.sweeps import begin, log, sweep_of, write_run

RATES = ("1e-4", "3e-4", "1e-3", "3e-3")


@pytest.fixture
def sweep(tmp_path) -> SweepDir:
    return sweep_of(tmp_path / "s", [(f"train.learning_rate={rate}", "seed=1") for rate in RATES])


def numbers(board: Leaderboard) -> list[tuple[int, int | None, str]]:
    return [(entry.number, entry.rank, entry.state) for entry in board.entries]


def text_of(board: Leaderboard, width: int | None, capsys) -> list[str]:
    Terminal(highlight=False, emoji=False, width=width or 500).print(render(board, width))
    return capsys.readouterr().out.splitlines()


# ------------------------------------------------------------------------------------------------ values


def test_a_running_job_tells_how_far_it_is_and_when_it_ends(sweep):
    folder = write_run(begin(sweep, 0), "running")
    log(
        folder,
        {"step": 0, "eval_loss": 9.0, "tokens": 0, "seconds": 10.0},
        {
            "step": 4,
            "epoch": 0.1,
            "loss": 5.0,
            "tokens": 40,
            "total_tokens": 40,
            "tokens_per_second": 7.0,
            "seconds": 18.0,
        },
        {
            "step": 5,
            "epoch": 0.2,
            "loss": 4.0,
            "tokens": 50,
            "total_tokens": 50,
            "tokens_per_second": 8.0,
            "seconds": 19.0,
        },
        {"step": 5, "eval_loss": 3.5, "tokens": 50, "seconds": 20.0},
        {"step": 5, "golden_exact_match": 0.25, "seconds": 20.0},
    )
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        board = read_sweep(sweep, now=1010.0)
    first = board.entries[0]
    assert (first.state, first.step, first.total_steps) == ("running", 5, 20)
    assert (first.loss, first.tokens, first.tokens_per_second, first.seconds) == (4.0, 50, 8.0, 20.0)
    assert first.measures == {"validation loss": 3.5, "golden exact match": 0.25}
    # 15 steps are left at 2 s each, evaluations included, and 10 s have gone by since the last line.
    assert first.eta == 15 * 2.0 - 10.0
    assert first.overrides == ("train.learning_rate=1e-4",)
    assert numbers(board) == [(0, 1, "running"), *((n, None, "waiting") for n in (1, 2, 3))]
    assert read_sweep(sweep, now=1010.0).entries[0].state == "killed"


def test_only_the_last_lines_are_read(sweep):
    """A file of many megabytes, all but its end no JSON."""
    folder = write_run(begin(sweep, 0), "interrupted")
    log(folder, {"step": 0})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(f"{'x' * 999}\n" * 3000)
    log(folder, {"step": 7, "loss": 2.0, "seconds": 3.0})
    (first, *_) = read_sweep(sweep).entries
    assert (first.state, first.step, first.loss) == ("interrupted", 7, 2.0)


@pytest.mark.parametrize(
    ("epochs", "step", "epoch", "total"),
    [(2.0, 5, 5 / 112, 224), (2.0, 5, 20 / 450, 226), (1.0, 200, 1.7699115, 113), (0.5, 3, 0.3, 5)],
)
def test_epochs_in_steps(sweep, epochs, step, epoch, total):
    """Also where the last micro-batches of an epoch are fewer: 450 of them by 4 are 113 steps."""
    folder = write_run(begin(sweep, 0), "interrupted", max_steps=None, epochs=epochs)
    assert read_sweep(sweep).entries[0].total_steps is None
    log(folder, {"step": step, "epoch": epoch, "loss": 1.0})
    assert read_sweep(sweep).entries[0].total_steps == total


@pytest.mark.parametrize("line", [{"loss": 10**400}, {"epoch": 5e-324}, {"epoch": 10**400}, {"epoch": "1", "loss": []}])
def test_numbers_that_no_float_holds_are_no_values(sweep, line):
    folder = write_run(begin(sweep, 0), "interrupted", max_steps=None)
    log(folder, {"step": 3, **line})
    (first, *_) = read_sweep(sweep).entries
    assert (first.step, first.loss) == (3, None) and first.total_steps in (None, 0)


def test_a_job_that_was_killed_while_it_was_being_stopped_is_stopped(sweep):
    for number in (0, 1):
        write_run(begin(sweep, number), "running")
    sweep.record(sweep.records()[1].model_copy(update={"stopped": "asha after step 2"}))
    assert [state for _, _, state in numbers(read_sweep(sweep))] == ["killed", "stopped", "waiting", "waiting"]


def test_states_errors_and_what_has_no_rank(sweep):
    write_run(begin(sweep, 0, "job ended with 1:\n  CUDA out of memory\n  more"), "running", validation_loss=0.1)
    begin(sweep, 1, "data.path: nope.json does not exist")
    (write_run(begin(sweep, 2), "finished", validation_loss=2.0) / "manifest.json").write_text("{")
    write_run(begin(sweep, 3), "finished", validation_loss=3.0)
    board = read_sweep(sweep)
    assert numbers(board) == [(3, 1, "finished"), (0, None, "failed"), (1, None, "failed"), (2, None, "unreadable")]
    first, second, third = problems(board)
    assert first == "job 1 failed: job ended with 1: CUDA out of memory"
    assert second == "job 2 failed: data.path: nope.json does not exist"
    assert third.startswith("job 3 cannot be read: ") and "manifest.json is no JSON" in third


@pytest.fixture
def finished(sweep) -> SweepDir:
    for number, (loss, match) in enumerate([(2.0, 0.5), (1.0, 0.5), (float("nan"), 0.75), (1.0, 0.1)]):
        folder = write_run(begin(sweep, number), "finished", validation_loss=loss, golden_exact_match=match)
        log(folder, {"step": 20, "loss": 4.0 - number, "rewards/margins": number + 1.0, "seconds": 60.0})
    return sweep


@pytest.mark.parametrize(
    ("objective", "measure", "order"),
    [
        (None, "validation loss", [1, 3, 0, 2]),
        ("eval_loss", "validation loss", [1, 3, 0, 2]),
        ("golden_exact_match", "golden exact match", [2, 0, 1, 3]),
        ("train_loss", "train loss", [3, 2, 1, 0]),
        ("rewards/margins", "rewards/margins", [3, 2, 1, 0]),
        ("nothing", "nothing", [0, 1, 2, 3]),
    ],
)
def test_the_best_comes_first_equal_ones_by_number(finished, objective, measure, order):
    board = read_sweep(finished, objective)
    assert board.objective is not None and board.objective.measure == measure
    assert [entry.number for entry in board.entries] == order
    if objective is None:
        assert [entry.rank for entry in board.entries] == [1, 2, 3, None], "one that is no number has no rank"


def test_the_direction_may_be_asked_for(finished):
    assert [entry.number for entry in read_sweep(finished, "loss", minimize=False).entries] == [0, 1, 3, 2]


def test_json_can_be_read_back(finished):
    board = read_sweep(finished)
    found = json.loads(json.dumps(as_dict(board)), parse_constant=pytest.fail)
    assert found["objective"] == {"measure": "validation loss", "minimize": True} and found["best"] == 1
    assert [job["number"] for job in found["jobs"]] == [1, 3, 0, 2]
    assert found["jobs"][0]["changes"] == {"train.learning_rate": "3e-4"} and found["jobs"][3]["value"] == "nan"


def test_how_long_a_sweep_still_takes(finished):
    jobs = [*(finished.jobs() or ()), ("train.learning_rate=1", "seed=1"), ("train.learning_rate=2", "seed=1")]
    finished.write(finished.journal().model_copy(update={"jobs": tuple(jobs)}))
    assert read_sweep(finished).eta is None, "nobody is at work"
    folder = write_run(begin(finished, 4), "running")
    log(folder, {"step": 0, "seconds": 0.0}, {"step": 10, "loss": 1.0, "seconds": 30.0})
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_sweep(finished, now=1000.0).eta == 30.0 + 60.0, "one as the others took waits"


# ------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_of_any_width_tells_the_jobs_apart(finished, width, capsys):
    lines = text_of(read_sweep(finished), width, capsys)
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    rows = [line.split() for line in lines if line.startswith(("   1", "   2", "   3", "   -"))]
    assert [row[:4] for row in rows] == [
        ["1", "2", "3e-4", "finished"], ["2", "4", "3e-3", "finished"], ["3", "1", "1e-4", "finished"],
        ["-", "3", "1e-3", "finished"],
    ]  # fmt: skip
    assert all("1.0000" in row for row in rows[:2])
    assert ("Too wide to show: " in lines[-1]) == (width == 60)


def test_a_pipe_gets_every_column(finished, capsys):
    (row,) = [line.split() for line in text_of(read_sweep(finished), None, capsys) if line.startswith("   1")]
    assert row == ["1", "2", "3e-4", "finished", "20/20", "3.0000", "1.0000", "0.500", "1:00", "1"]


def test_overrides_of_many_kinds_are_folded_between_words(tmp_path, capsys):
    jobs = [("data.path=/a/rather/long/folder/of/data/first.jsonl", "lora.r=8"), ("stage=dpo", "model=other"),
            ("train.learning_rate=0.0003", "train.weight_decay=0.1")]  # fmt: skip
    sweep = sweep_of(tmp_path / "s", jobs)
    for number in range(3):
        write_run(begin(sweep, number), "finished", validation_loss=1.0 + number)
    lines = text_of(read_sweep(sweep), 60, capsys)
    assert max(cell_len(line.rstrip()) for line in lines) <= 60
    folded = [line[11:].split("  ")[0] for line in lines]
    assert folded[2:-1] == [
        "data.path=/a/rather/", "long/folder/of/data/", "first.jsonl lora.r=8", "stage=dpo", "model=other",
        "train.learning_rate=", "0.0003", "train.weight_decay=", "0.1",
    ]  # fmt: skip


def test_the_best_is_named_with_its_folder(finished):
    line = best_line(read_sweep(finished))
    assert line == f"Best by validation loss: job 2 of 4: train.learning_rate=3e-4, in {finished.path}/1"


def test_durations():
    assert [duration(s) for s in (None, 0.4, 65, 7400)] == ["-", "0:00", "1:05", "2:03:20"]
