"""``ftlab ls``: which runs are found, what is told of them, and what is said of those that ended badly."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from ftlab.base.numbers import readable
from ftlab.errors import ConfigError, RunDirError
from ftlab.planning import make_plan
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.sweep import JobRecord, Journal, SweepDir
from ftlab.schema import LsTask
from ftlab.use.ls import ls
from tests.runs import FAST, FEW, create_run, make_run, train_run

composed = functools.cache(make_run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train_run(tmp_path_factory.mktemp("ls") / "run", *FAST, FEW, "train.max_steps=4").path


@pytest.fixture
def outputs(here, trained) -> Path:
    """``outputs/`` with a finished run in it, and another in the folder of a sweep."""
    for name in ("first", "sweep/0"):
        shutil.copytree(trained, here / "outputs" / name, symlinks=True)
    return here / "outputs"


@pytest.fixture
def listed(capsys):
    """What ``ftlab ls ...`` prints, without colours."""

    def run(*argv: str) -> str:
        keys = dict(word.split("=") if "=" in word else ("folder", word) for word in argv)
        run = composed("task=ls")
        ls(run.model_copy(update={"task": LsTask.model_validate({**vars(run.task), **keys}, strict=False)}), argv)
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    return run


def as_json(listed, *argv: str) -> dict[str, dict]:
    """The listed runs by the last part of their folder."""
    found = json.loads(listed(*argv, "format=json"))
    return {Path(one["path"]).name: one for one in found}


def crafted(path: Path, *overrides: str) -> RunDir:
    """A run directory that was made and not begun."""
    run = composed(*overrides)
    return create_run(make_plan(run.model_copy(update={"run": run.run.model_copy(update={"dir": str(path)})}), ()))


def log(run_dir: RunDir, **values: object) -> None:
    with run_dir.metrics.open("a") as file:
        file.write(json.dumps({"phase": "sft", "time": 1000.0, **values}) + "\n")


def result(steps: int, **after: float) -> dict:
    named = {name.replace("_", " "): value for name, value in after.items()}
    return {"steps": steps, "tokens": 10 * steps, "before": {}, "after": named, "sha256": {}, "parameters": {}}


# ------------------------------------------------------------------------------------------------ what is told of a run


def test_a_real_run_in_one_line(outputs, listed):
    manifest = RunDir.open(outputs / "first").manifest()
    done = manifest["phases"]["sft"]
    head, *lines = listed().splitlines()
    assert head == "outputs"
    (line,) = [line for line in lines if line.startswith("first ")]
    cells = re.split(r"  +", line.strip())
    loss = [done[when]["validation loss"] for when in ("before", "after")]
    match = [done[when]["golden exact match"] for when in ("before", "after")]
    assert cells[:7] == ["first", "finished", "1/1", "sft", "tiny", "lora", "4"]
    assert cells[7] == f"{done['tokens']:,}" and cells[8] == f"{manifest['seconds']:.0f}"
    assert cells[9:11] == ["{:.3f} → {:.3f}".format(*match), f"loss {readable(loss[0])} → {readable(loss[1])}"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", cells[11])
    assert any(line.startswith("sweep/0 ") for line in lines), "sweeps' folders are looked into"


def test_json_has_every_measure_and_when_it_began(outputs, listed):
    run_dir = RunDir.open(outputs / "first")
    found = as_json(listed)["first"]
    done = run_dir.manifest()["phases"]["sft"]
    assert found["path"] == "outputs/first"
    assert (found["before"], found["after"], found["tokens"]) == (done["before"], done["after"], done["tokens"])
    began = datetime.fromisoformat(run_dir.manifest()["began"]).timestamp()
    assert datetime.fromisoformat(found["began"]).timestamp() == int(began)


def test_the_phases_of_a_curriculum_and_the_measures_of_the_last_that_is_done(here, listed):
    run_dir = crafted(here / "outputs" / "x", "phase=align")
    first, second, third = [phase.name for phase in run_dir.plan().phases]
    done = {first: result(3, validation_loss=9.0), second: result(5, validation_loss=2.5)}
    Manifest(run_dir).record(status="interrupted", phases=done, seconds=61.4)
    log(run_dir, phase=first, step=1, loss=1.0)
    log(run_dir, phase=third, step=2, loss=1.0, tokens=7, seconds=75.2)
    found = as_json(listed)["x"]
    assert (found["done"], found["phases"]) == ([first, second], [first, second, third])
    assert (found["stages"], found["steps"], found["tokens"]) == (["pt", "sft", "dpo"], 3 + 5 + 2, 80 + 7)
    text = listed()
    assert re.search(r"^x +interrupted +2/3 +pt sft dpo .* 10 +87 +75 .* loss 2\.5000 ", text, re.MULTILINE)
    assert text.splitlines()[-1] == "Continue with: ftlab resume outputs/x"


def test_a_reward_is_told_before_the_loss_that_is_minus_it(here, listed):
    run_dir = crafted(here / "outputs" / "x", "stage=grpo")
    Manifest(run_dir).record(status="finished", phases={"grpo": result(3, validation_reward=0.5, validation_loss=-0.5)})
    assert "reward 0.5000" in listed() and "loss" not in listed()


# ------------------------------------------------------------------------------------------------ how runs ended


HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1])
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


def test_a_killed_run_is_told_from_one_that_works(outputs, listed):
    """Both manifests say running. A process holds the one's lock, until it is killed as well."""
    for name in ("first", "sweep/0"):
        Manifest(RunDir.open(outputs / name)).record(status="running")
    command = [sys.executable, "-c", HOLD, str(outputs / "first" / ".lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        holder.stdout.readline()
        assert {name: one["status"] for name, one in as_json(listed).items()} == {"first": "running", "0": "killed"}
        assert listed().count("ftlab resume") == 1
        assert listed().splitlines()[-1] == "Continue with: ftlab resume outputs/sweep/0"
    finally:
        holder.kill()
        holder.wait()
    assert as_json(listed)["first"]["status"] == "killed"
    assert listed().splitlines()[-2] == "killed: the manifest says running, but no process is at work there"
    assert listed().count("ftlab resume") == 1


def test_looking_leaves_the_lock_free(outputs, listed):
    Manifest(RunDir.open(outputs / "first")).record(status="running")
    assert as_json(listed)["first"]["status"] == "killed"
    with (outputs / "first" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_that_has_not_begun_and_one_that_just_does(here, listed):
    crafted(here / "outputs" / "new")
    begins = crafted(here / "outputs" / "begins")
    with begins.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = as_json(listed)
    assert {name: one["status"] for name, one in found.items()} == {"new": "new", "begins": "running"}
    assert found["new"]["steps"] == 0 and found["new"]["seconds"] is None


def test_a_failed_run_says_why(outputs, listed):
    Manifest(RunDir.open(outputs / "first")).record(status="failed", error="The loss is nan at step 3.\nMore.")
    assert "outputs/first failed: The loss is nan at step 3." in listed().splitlines()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("manifest.json", '{"status": "fini', "manifest.json is no JSON: "),
        ("manifest.json", '{"status": "finished", "phases": {"sft": {"steps": "many"}}}',
         "manifest.json is not what a run writes: phases.sft.steps: "),
        ("run.yaml", "phases: [", "run.yaml is no YAML: "),
        ("run.yaml", "", "run.yaml is empty. Put a copy back."),
        ("run.yaml", "title: x\nphases: [{name: sft}]", "run.yaml is not what a run writes: phases.0.config: "),
        ("run.yaml", None, "it has no run.yaml"),
        ("metrics.jsonl", "not json\n", "metrics.jsonl:1 is no JSON object: not json"),
        ("metrics.jsonl", '{"step": 1}\n', "metrics.jsonl:1 is no line that a run writes: phase: Field required"),
    ],
)  # fmt: skip
def test_one_broken_run_does_not_hide_the_others(file, content, said, outputs, listed):
    path = outputs / "first" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    text = listed()
    assert re.search(r"^first +unreadable ", text, re.MULTILINE)
    assert re.search(r"^sweep/0 +finished ", text, re.MULTILINE)
    (line,) = [line for line in text.splitlines() if line.startswith("outputs/first cannot be read: ")]
    assert said in line


def test_a_line_that_a_crash_tore_is_no_broken_run(outputs, listed):
    with (outputs / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "sft", "st')
    assert as_json(listed)["first"]["status"] == "finished"


# ------------------------------------------------------------------------------------------------ which, and how sorted


@pytest.fixture
def several(here) -> None:
    """Losses fall by name, matches rise, and the times are mixed."""
    for name, began, after in (
        ("run-10", 3000.0, {"validation_loss": 1.0, "golden_exact_match": 0.9}),
        ("run-2", 5000.0, {"validation_loss": 2.0, "golden_exact_match": 0.5}),
        ("run-1", 4000.0, {"validation_loss": float("nan"), "golden_exact_match": 0.1}),
    ):
        run_dir = crafted(here / "outputs" / name)
        Manifest(run_dir).record(status="finished", phases={"sft": result(3, **after)})
        log(run_dir, step=0, time=began)
    Manifest(crafted(here / "outputs" / "run-0")).record(status="failed", error="no memory")
    os.utime(here / "outputs" / "run-0" / "run.yaml", (2000.0, 2000.0))


@pytest.mark.parametrize(
    ("argv", "order"),
    [
        ((), ["run-2", "run-1", "run-10", "run-0"]),
        (("sort=name",), ["run-0", "run-1", "run-2", "run-10"]),
        (("sort=loss",), ["run-10", "run-2", "run-1", "run-0"]),
        (("sort=validation_loss", "limit=2"), ["run-10", "run-2"]),
        (("sort=golden exact match",), ["run-10", "run-2", "run-1", "run-0"]),
        (("sort=name", "status=finished"), ["run-1", "run-2", "run-10"]),
        (("status=failed",), ["run-0"]),
        (("outputs/run-2",), ["run-2"]),
    ],
)
def test_order_and_choice(argv, order, several, listed):
    assert list(as_json(listed, *argv)) == order


def test_what_a_limit_leaves_out_is_counted(several, listed):
    assert "2 of 4 runs" in listed("limit=2").splitlines()
    assert "of 4 runs" not in listed()


def test_what_the_runs_are_sorted_by_is_shown(outputs, listed):
    assert re.search(r"^first .* perplexity [\d.,]+ → [\d.,]+ ", listed("sort=perplexity"), re.MULTILINE)


def test_a_number_that_json_has_no_way_to_write(several, listed):
    text = listed("format=json")
    assert json.loads(text, parse_constant=pytest.fail)[1]["after"]["validation loss"] == "nan"


def test_sorting_by_what_nobody_measured(several, listed):
    with pytest.raises(ConfigError) as caught:
        listed("sort=golden_exact_mach")
    said = str(caught.value)
    assert "time, name, steps, tokens, seconds, validation_loss, golden_exact_match" in said
    assert "Did you mean golden_exact_match" in said


def test_folders_that_hold_nothing(here, listed, several):
    (here / "empty").mkdir()
    assert listed("empty") == "No run in empty. ftlab starts one; ftlab --help says how.\n"
    assert listed("empty", "sort=loss").startswith("No run in empty.")
    assert json.loads(listed("empty", "format=json")) == []
    assert listed("status=killed") == "No run in outputs has status=killed. There are: 1 failed, 3 finished.\n"


@pytest.mark.parametrize(("folder", "said"), [("nowhere", "does not exist"), ("file", "is no folder")])
def test_no_folder(folder, said, here, listed):
    (here / "file").touch()
    with pytest.raises(ConfigError, match=f"task.folder={folder}: {said}. Runs are in outputs/"):
        listed(folder)


def test_a_link_is_no_second_run_but_can_be_named(outputs, listed):
    (outputs / "latest").symlink_to("first")
    assert [*as_json(listed)] == ["first", "0"] or [*as_json(listed)] == ["0", "first"]
    assert len(as_json(listed, "outputs/latest")) == 1


# ------------------------------------------------------------------------------------------------ width


def test_a_pipe_gets_whole_names(outputs, listed):
    name = "a-sweep-of-everything/" + "x" * 150
    (outputs / "first").rename(outputs / "moved")
    (outputs / name).parent.mkdir()
    (outputs / "moved").rename(outputs / name)
    assert any(line.startswith(f"{name}  finished  ") for line in listed().splitlines())


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_terminal_is_never_overrun(width, outputs, listed, monkeypatch):
    """What does not fit is left out by whole columns, and said; measures stay to the end."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    (outputs / "first").rename(outputs / ("long-" * 9 + "name"))
    lines = listed().splitlines()
    table = lines[: next((i for i, line in enumerate(lines) if line.startswith("Too wide to show")), len(lines))]
    assert max(len(line.rstrip()) for line in table) <= width
    said = [line for line in lines if line.startswith("Too wide to show: seconds, tokens")]
    assert len(said) == (width < 150)
    assert re.search(r"^sweep/0 +finished .*(\d → \d|loss *\n +\d.* → \d)", "\n".join(lines), re.MULTILINE)
    assert "".join(line.split(" ")[0] for line in table).count("long-" * 9 + "name") == 1


def test_a_name_that_a_start_makes_stays_whole_in_80_columns(outputs, listed, monkeypatch):
    """So that it can be copied: the measure's name goes above its values before the run's name is broken."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    name = "tiny_instruct-dpo-lora-20260101-120000"
    (outputs / "first").rename(outputs / name)
    assert f"\n{name}  finished  " in listed()


def test_a_longer_name_is_broken_between_its_parts(outputs, listed, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    (outputs / "first").rename(outputs / "tiny-foundation-evolution-pr_mastery-20260101-120000")
    assert re.search(r"^tiny-foundation-evolution-pr_mastery-  +finished .*\n20260101-120000 ", listed(), re.MULTILINE)


@pytest.mark.parametrize("width", [80, 300])
def test_the_jobs_of_a_sweep_are_told_apart_at_any_width(width, outputs, listed, monkeypatch):
    """By a column, or in lines of their own below names that are much shorter."""
    jobs = tuple((f"train.learning_rate={rate}", "seed=1") for rate in ("1e-4", "3e-4"))
    folder = SweepDir(outputs / "s")
    folder.write(Journal(overrides=("train.learning_rate=1e-4,3e-4", "seed=1"), flags=(), folder="/", jobs=jobs))
    for number, overrides in enumerate(jobs):
        shutil.copytree(outputs / "first", folder.path / str(number), symlinks=True)
        folder.record(JobRecord(number=number, overrides=overrides, directory=str(number), error=None))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    words = listed().split()
    for overrides in jobs:
        assert overrides[0] in words and "seed=1" not in words


# ------------------------------------------------------------------------------------------------ a sweep


@pytest.fixture
def swept(outputs) -> Path:
    """A sweep of four: two are finished, the second with the better loss, one has failed, and one has not begun."""
    jobs = tuple((f"lora.r={r}", "seed=1") for r in (4, 8, 16, 32))
    sweep = SweepDir(outputs / "s")
    sweep.write(Journal(overrides=("lora.r=4,8,16,32", "seed=1"), flags=(), folder="/", jobs=jobs))
    for number, loss in enumerate((2.0, 1.0)):
        shutil.copytree(outputs / "first", sweep.path / str(number), symlinks=True)
        Manifest(RunDir.open(sweep.path / str(number))).record(phases={"sft": result(4, validation_loss=loss)})
        sweep.record(JobRecord(number=number, overrides=jobs[number], directory=str(number)))
    sweep.record(JobRecord(number=2, overrides=jobs[2], directory="2", error="no room\nat all"))
    return sweep.path


def test_a_sweep_is_its_leaderboard(swept, listed):
    head, *lines = listed("outputs/s").splitlines()
    assert head == "sweep outputs/s"
    rows = [line.split() for line in lines if re.match(r" +[-\d]+  +\d ", line)]
    assert [row[:5] for row in rows] == [
        ["1", "2", "8", "finished", "4/4"], ["2", "1", "4", "finished", "4/4"],
        ["-", "3", "16", "failed", "-"], ["-", "4", "32", "waiting", "-"],
    ]  # fmt: skip
    loss = [line["loss"] for line in RunDir.open(swept / "1").read_metrics() if "loss" in line][-1]
    assert rows[0][5:7] == [readable(loss), "1.0000"]
    assert lines[-4:] == [
        "4 jobs: 2 finished, 1 failed, 1 waiting",
        "Best by validation loss: job 2 of 4: lora.r=8, in outputs/s/1",
        "job 3 failed: no room",
        "What is not finished goes on with: ftlab resume outputs/s",
    ]


@pytest.mark.parametrize(
    ("argv", "order"),
    [
        ((), [1, 0, 2, 3]),
        (("sort=name",), [0, 1, 2, 3]),
        (("sort=time", "status=finished"), [1, 0]),
        (("sort=train_loss", "limit=1"), [0]),
        (("status=waiting",), [3]),
    ],
)
def test_which_jobs_of_a_sweep_and_in_which_order(swept, listed, argv, order):
    found = json.loads(listed("outputs/s", "format=json", *argv))
    assert [job["number"] for job in found["jobs"]] == order
    assert found["states"] == {"finished": 2, "failed": 1, "waiting": 1}


def test_what_no_job_measured_and_no_job_is(swept, listed):
    with pytest.raises(ConfigError, match="Did you mean validation_loss"):
        listed("outputs/s", "sort=validation_los")
    assert listed("outputs/s", "status=killed") == (
        "No job of outputs/s has status=killed. There are: 2 finished, 1 failed, 1 waiting.\n"
    )


def test_a_damaged_journal_is_told(swept, listed):
    (swept / "sweep.json").write_text('{"jobs": 3}')
    with pytest.raises(RunDirError, match=r"sweep.json is not what a run writes: .* Put a copy back"):
        listed("outputs/s")
