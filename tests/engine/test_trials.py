"""``hydra/sweeper=optuna`` and names of sweeps, with real runs: what is chosen, what goes on, what fails."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import SweepDir
from tests.runs import final_hash, held_out, logged

SMALL = ("eval.golden_rows=0", "eval.samples=0", "data.max_samples=24", "tracker=none", "train.max_steps=2",
         "data.split.golden=none", "train.logging_steps=1", "train.warmup_ratio=0")  # fmt: skip
RATE = "train.learning_rate=tag(log, interval(1e-6, 1e-2))"


def search(tmp_path: Path, trials: int, *more: str) -> tuple[str, ...]:
    """A command line. Its validation split has a few rows."""
    return ("-m", "hydra/sweeper=optuna", f"hydra.sweeper.n_trials={trials}", RATE, *SMALL,
            held_out(tmp_path, "instructions"), *more)  # fmt: skip


@pytest.fixture
def ftlab(tmp_path, env):
    """The real command, with the time that several runs take."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "ftlab", *words]
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)

    return run


def runs(folder: Path) -> dict[int, RunDir]:
    sweep = SweepDir(folder)
    return {number: RunDir.open(sweep.run_dir(job)) for number, job in sweep.records().items()}


def rates(folder: Path) -> list[float]:
    return [run.plan().phases[0].config.train.learning_rate for run in runs(folder).values()]


def losses(folder: Path) -> list[float]:
    return [run.manifest()["phases"]["sft"]["after"]["validation loss"] for run in runs(folder).values()]


@pytest.mark.matrix
def test_trials_are_chosen_run_and_compared(tmp_path, ftlab):
    done = ftlab(*search(tmp_path, 2, "sweep.name=first"))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "multirun" / "first"
    found = rates(folder)
    assert len(found) == 2 and len({*found}) == 2 and all(1e-6 <= rate <= 1e-2 for rate in found)
    for number, rate in enumerate(found, 1):
        assert f"\njob {number} of 2: train.learning_rate={rate:.4g}\n" in done.stdout
    best = losses(folder).index(min(losses(folder))) + 1
    assert f"Best by validation loss: job {best} of 2: " in done.stdout
    assert "Trial" not in done.stdout + done.stderr and "study" not in done.stdout + done.stderr, "what Optuna says"
    assert "sweep." not in runs(folder)[0].manifest()["rerun"], "a run by itself is of no sweep"


def test_a_package_that_is_missing_is_told_before_anything(tmp_path, ftlab, env):
    (tmp_path / "without" / "optuna").mkdir(parents=True)  # a folder of its name is no package
    (tmp_path / "without" / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'optuna' else find(name, *more)\n"
    )
    env["PYTHONPATH"] = f"{tmp_path / 'without'}:{env['PYTHONPATH']}"
    done = ftlab(*search(tmp_path, 2, "sweep.name=first"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "hydra/sweeper=optuna needs the package optuna: pip install 'ftlab[sweeps]'\n"
    assert not (tmp_path / "multirun").exists()


@pytest.mark.matrix
def test_it_finds_better_than_the_worst_again_and_goes_on_with_more(tmp_path, ftlab):
    first, second = (ftlab(*search(tmp_path, 4, f"hydra.sweep.dir={name}")) for name in "ab")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert rates(tmp_path / "a") == rates(tmp_path / "b") and losses(tmp_path / "a") == losses(tmp_path / "b")
    assert min(losses(tmp_path / "a")) < max(losses(tmp_path / "a")) - 0.1
    more = ftlab(*search(tmp_path, 5, "hydra.sweep.dir=a"))
    assert "Going on with a: 4 of 5 jobs are finished, 1 new" in more.stdout, more.stdout
    assert more.stdout.count("Finished after") == 1 and rates(tmp_path / "a")[:4] == rates(tmp_path / "b")
    assert [len(run.manifest()["starts"]) for run in runs(tmp_path / "a").values()] == [1] * 5
    other = ftlab(*search(tmp_path, 5, "hydra.sweep.dir=a", "lora.r=4"))
    assert other.returncode == 1 and "a holds another sweep" in other.stderr and "lora.r=4 here" in other.stderr
    other = ftlab(*search(tmp_path, 5, "hydra.sweep.dir=a", "sweep.objective=eval_perplexity"))
    assert "minimize eval_loss there, minimize eval_perplexity here" in other.stderr


@pytest.mark.matrix
def test_a_job_that_raises_and_one_without_a_number_have_failed_and_the_others_go_on(tmp_path, ftlab):
    missing = "data.split.validation=held_out/instructions.jsonl,missing.jsonl"
    grid = ("hydra/sweeper/sampler=grid", missing, "train.learning_rate=1e-3,1e30", "sweep.name=some")
    done = ftlab(*search(tmp_path, 4), *grid)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    folder = tmp_path / "multirun" / "some"
    records = SweepDir(folder).records()
    assert len(records) == 4, said
    lacking = {number for number, job in records.items() if "missing.jsonl" in " ".join(job.overrides)}
    assert {number for number, job in records.items() if "missing.jsonl" in (job.error or "")} == lacking
    (wild,) = {number for number, job in records.items() if "1e+30" in " ".join(job.overrides)} - lacking
    assert f"job {wild + 1} counts as failed: validation loss is no number" in said or records[wild].error, said
    (good,) = {*records} - lacking - {wild}
    assert f"Best by validation loss: job {good + 1} of 4" in done.stdout
    states = [json.loads(line) for line in (folder / "study.jsonl").read_text().splitlines()]
    assert sorted(line["state"] for line in states if line["op_code"] == 6) == [1, 3, 3, 3], "COMPLETE and FAIL"

    again = ftlab(*search(tmp_path, 4), *grid)
    assert "Going on with multirun/some" in again.stdout and "Finished after" not in again.stdout, "nothing twice"
    strict = ftlab(*search(tmp_path, 4), *grid, "hydra.sweeper.max_failure_rate=0.25")
    assert "3 of 4 trials have failed, more than hydra.sweeper.max_failure_rate=0.25 allows" in strict.stderr


@pytest.mark.matrix
def test_of_several_objectives_the_front_is_told(tmp_path, ftlab):
    objectives = ("sweep.objective=[eval_loss,tokens_per_second]", "sweep.direction=[minimize,maximize]")
    done = ftlab(*search(tmp_path, 3, *objectives, "sweep.name=two", "hydra.sweeper.n_jobs=2", "lora.r=2,64"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for number, run in runs(tmp_path / "multirun" / "two").items():
        rate = [line["tokens_per_second"] for line in run.read_metrics() if "tokens_per_second" in line][-1]
        found[number] = (run.manifest()["phases"]["sft"]["after"]["validation loss"], -rate)
    front = {a for a in found if not any(all(x <= y for x, y in zip(found[b], found[a])) for b in found if b != a)}
    told = done.stdout[done.stdout.index("Best by validation loss and tokens_per_second") :]
    assert {int(number) - 1 for number in re.findall(r"\n  job (\d) of 3", told)} == front
    board = done.stdout[done.stdout.index("\nsweep multirun/two") :]
    assert len(re.findall(r"\n +\d +\d .* finished ", board)) == 3, board


@pytest.mark.matrix
def test_a_name_takes_more_jobs_and_no_others(tmp_path, ftlab):
    given = ("-m", *SMALL, held_out(tmp_path, "instructions"), "sweep.name=mine")
    assert ftlab(*given, "lora.r=2,8").returncode == 0
    more = ftlab(*given, "lora.r=2,4,8")
    assert more.returncode == 0, more.stdout + more.stderr
    assert "Going on with multirun/mine: 2 of 3 jobs are finished, 1 new" in more.stdout
    folder = tmp_path / "multirun" / "mine"
    ranks = [run.plan().phases[0].config.lora.r for run in runs(folder).values()]
    assert ranks == [2, 8, 4], "numbers stay"
    assert [len(run.manifest()["starts"]) for run in runs(folder).values()] == [1, 1, 1]
    assert more.stdout.count("Finished after") == 1 and "job 3 of 3: lora.r=4" in more.stdout
    refused = ftlab(*given, "lora.r=2,4")
    assert refused.returncode == 1, refused.stdout
    told = "multirun/mine holds another sweep: 3 jobs there, 2 jobs here; here is none with eval.golden_rows=0"
    assert told in refused.stderr and "lora.r=8. Give another sweep.name" in refused.stderr
    resumed = ftlab("resume", "multirun/mine")
    assert resumed.returncode == 0 and "3 of 3 jobs are finished" in resumed.stdout, resumed.stderr
    assert ftlab(*given, "lora.r=2,4,8", "run.if_exists=refuse").returncode == 1
    ftlab(*given, "lora.r=2,8", "run.if_exists=new")
    assert len(runs(tmp_path / "multirun" / "mine-2")) == 2


@pytest.mark.kill
@pytest.mark.parametrize("how", ["same command", "resume"])
def test_a_search_that_is_killed_has_the_trials_of_one_that_was_not(tmp_path, ftlab, env, how):
    given = search(tmp_path, 4, "train.max_steps=4", "train.save_steps=2", "hydra.sweeper.n_jobs=2")
    alone = ftlab(*given, "hydra.sweep.dir=alone")
    assert alone.returncode == 0, alone.stderr
    line = [sys.executable, "-m", "ftlab", *given, "sweep.name=killed"]
    folder = tmp_path / "multirun" / "killed"
    process = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while not [*folder.glob("3/phases/*/checkpoint-2/checkpoint.json")]:  # the second of the second batch
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = {number: run.manifest() for number, run in runs(folder).items()}
    done = ftlab(*given, "sweep.name=killed") if how == "same command" else ftlab("resume", "multirun/killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 4 jobs are finished" in done.stdout and "continuing from" in done.stdout
    assert [*begun] == [0, 1, 2, 3]
    for number, run in runs(folder).items():
        theirs = RunDir.open(tmp_path / "alone" / str(number))
        assert final_hash(run) == final_hash(theirs) and logged(run) == logged(theirs)
        assert len(run.manifest()["starts"]) == (2 if number == 3 else 1), "nothing twice"
    assert len(runs(folder)) == 4


# --- a trial that has ended is replaced at once ----------------------------------------------------------------------

TURNS = ("hydra/launcher=shards", "hydra.launcher.shards=4", "train.max_steps=8", "eval.steps=2")


def spans(folder: Path) -> dict[int, tuple[float, float]]:
    """Of each trial the times of its first and its last line."""
    times = {number: [line["time"] for line in run.read_metrics()] for number, run in runs(folder).items()}
    return {number: (min(found), max(found)) for number, found in times.items()}


def most_at_once(folder: Path) -> int:
    found = spans(folder)
    return max(sum(first <= moment <= last for first, last in found.values()) for moment, _ in found.values())


def states_of(folder: Path) -> dict[int, dict]:
    """What the study was told of each trial. 1, 2 and 3 are Optuna's for complete, pruned and failed."""
    lines = [json.loads(line) for line in (folder / "study.jsonl").read_text().splitlines()]
    return {line["trial_id"]: line for line in lines if line["op_code"] == 6}


def statuses(folder: Path) -> list[str]:
    return [run.manifest()["status"] for run in runs(folder).values()]


@pytest.mark.matrix
def test_the_place_of_a_trial_that_is_stopped_is_taken_at_once_and_the_study_learns_of_it(tmp_path, ftlab):
    words = search(tmp_path, 5, "hydra.sweeper.n_jobs=3", *TURNS, "hydra.launcher.stop=asha", "hydra.launcher.factor=2")
    done = ftlab(*words, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "sweep"
    assert "5 configs take turns, 3 at a time, 4 each: about " in done.stdout
    assert sorted({*statuses(folder)}) == ["finished", "stopped"] and len(statuses(folder)) == 5, done.stdout
    found = spans(folder)
    ends = sorted(found[number][1] for number in range(3))
    assert ends[0] < found[3][0] < ends[2], "it was chosen when the first had ended, and the last had not"
    assert most_at_once(folder) == 3
    told = states_of(folder)
    for number, run in runs(folder).items():
        lines = [line for line in run.read_metrics() if "eval_loss" in line]
        is_over = run.manifest()["status"] == "finished"
        assert told[number]["state"] == (1 if is_over else 2)
        assert is_over or told[number]["values"] == [lines[-1]["eval_loss"]]


@pytest.mark.matrix
def test_in_turns_the_same_command_proposes_and_stops_the_same(tmp_path, ftlab):
    more = ("hydra.sweeper.n_jobs=3", *TURNS, "hydra.launcher.stop=asha", "hydra.sweeper.sampler.n_startup_trials=3")
    for name in "ab":
        done = ftlab(*search(tmp_path, 9, *more), f"hydra.sweep.dir={name}")
        assert done.returncode == 0, done.stdout + done.stderr
    a, b = tmp_path / "a", tmp_path / "b"
    assert rates(a) == rates(b) and statuses(a) == statuses(b)
    for number, run in runs(a).items():
        assert logged(run) == logged(runs(b)[number])


@pytest.mark.matrix
def test_on_several_devices_a_trial_begins_when_another_ends(tmp_path, ftlab):
    """Of three, the long one is at work while the two others follow each other."""
    more = ("hydra.sweeper.n_jobs=2", "hydra/launcher=gpus", "hydra.launcher.devices=2", "hardware=cpu")
    grid = ("hydra/sweeper/sampler=grid", "train.max_steps=2,3,300", "train.learning_rate=1e-4")
    done = ftlab(*search(tmp_path, 3), *more, *grid, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 configs, 2 at a time" in done.stdout
    found = spans(tmp_path / "sweep")
    steps = [run.plan().phases[0].config.train.max_steps for run in runs(tmp_path / "sweep").values()]
    assert sorted(steps) == [2, 3, 300] and sorted(statuses(tmp_path / "sweep")) == ["finished"] * 3
    first, last = found[2][0], [found[0][1], found[1][1]]
    assert min(last) < first and (first < max(last) or steps[2] == 300)


@pytest.mark.kill
def test_a_search_in_turns_that_is_killed_goes_on_with_what_was_at_work(tmp_path, ftlab, env):
    """Trials that are over stay what they are, those at work keep number and values; who goes on is as it is alone."""
    given = search(tmp_path, 6, "hydra.sweeper.n_jobs=3", *TURNS, "hydra.launcher.stop=asha", "hydra.launcher.factor=2",
                   "train.max_steps=40", "eval.steps=10", "train.save_steps=5")  # fmt: skip
    folder = tmp_path / "sweep"
    line = [sys.executable, "-m", "ftlab", *given, "hydra.sweep.dir=sweep"]
    process = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not [*folder.glob("3/phases/*/checkpoint-5/checkpoint.json")]:  # it took the place of one that was stopped
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before, begun = SweepDir(folder).records(), rates(folder)
    over = {number for number, job in before.items() if job.stopped is not None}
    assert over and len(before) < 6
    done = ftlab(*given, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rates(folder)[: len(begun)] == begun and len(runs(folder)) == 6
    after = SweepDir(folder).records()
    assert all(after[number] == before[number] for number in over)
    assert len(states_of(folder)) == 6 and {line["state"] for line in states_of(folder).values()} == {1, 2}
    for number, run in runs(folder).items():
        starts = len(run.manifest()["starts"])
        assert starts == (2 if number in before and number not in over else 1), "nothing twice"
        if run.manifest()["status"] == "finished":
            rate = f"train.learning_rate={rates(folder)[number]!r}"
            words = [word for word in given[1:] if not word.startswith(("hydra", "train.learning_rate"))]
            alone = ftlab(*words, rate, f"run.dir=alone-{number}")
            assert alone.returncode == 0, alone.stderr
            theirs = RunDir.open(tmp_path / f"alone-{number}")
            assert final_hash(run) == final_hash(theirs) and logged(run) == logged(theirs)
