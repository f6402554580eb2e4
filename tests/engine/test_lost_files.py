"""Files that a run has lost or that came to it by copying: put back, or told, and nothing of the run is removed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from tests.conftest import ROOT
from tests.runs import BARE, final_hash, interrupted_run, logged, resume_run, train_run

SHORT = (*BARE, "data.max_samples=24", "train.max_steps=6", "train.save_steps=2", "train.logging_steps=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [{"instruction": f"Count to {i}.", "output": " ".join(map(str, range(i + 1)))} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def given(data) -> tuple[str, ...]:
    return (*SHORT, f"data.path={data}", "data.format=alpaca", "data.cache=null")


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("whole") / "r", *given)


@pytest.fixture(scope="module")
def stopped(given, tmp_path_factory) -> RunDir:
    """A run that was stopped after its fourth step: two checkpoints."""
    return interrupted_run(tmp_path_factory.mktemp("stopped") / "r", 3, *given)


@pytest.fixture
def copy(stopped, tmp_path) -> RunDir:
    shutil.copytree(stopped.path, tmp_path / "r", symlinks=True)
    return RunDir.open(tmp_path / "r")


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))


METRICS_DAMAGE = {
    "halved": halve,
    "emptied": lambda path: path.write_text(""),
    "shortened": shorten,
    "removed": lambda path: path.unlink(),
    "garbage": lambda path: path.write_text("\x00garbage\nmore\n"),
    "another type": lambda path: path.write_text("[1]\n" * 9),
}


FAST = ("halved", "removed")


@pytest.mark.parametrize(
    "damage", [pytest.param(one, marks=() if one in FAST else pytest.mark.matrix) for one in METRICS_DAMAGE]
)
def test_lines_that_metrics_lost_are_put_back(damage, copy, whole, capsys):
    METRICS_DAMAGE[damage](copy.metrics)
    resume_run(copy.path)
    assert logged(copy) == logged(whole)
    assert final_hash(copy) == final_hash(whole)
    told = capsys.readouterr().out.replace("\n", " ")
    assert told.count("had lost or changed lines: put back from") == 1


def test_whole_metrics_are_left_as_they_are(copy, whole, capsys):
    before = copy.metrics.read_text()
    resume_run(copy.path)
    assert copy.metrics.read_text().startswith(before)
    assert logged(copy) == logged(whole)
    assert "put back" not in capsys.readouterr().out


@pytest.mark.parametrize("change", ["data", "config"])
def test_without_its_metrics_a_run_is_known_by_its_checkpoints(change, copy, given, data):
    """Another data set or another config is refused, and everything that was there still is."""
    copy.metrics.unlink()
    before = files_of(copy.path)
    changed = list(given)
    if change == "data":
        ledger = json.loads(copy.ledger("sft").read_text())
        ledger["sha256"] = {str(data): "0" * 64}
        copy.ledger("sft").write_text(json.dumps(ledger))
        before = files_of(copy.path)
        message = "has changed since"
    else:
        changed += ["seed=5", "train.learning_rate=0.05", "lora.alpha=64"]
        message = r"(?s)holds another run:.*seed.*lora\.alpha.*learning_rate"
    with pytest.raises(RunDirError, match=message):
        train_run(copy.path, *changed)
    after = files_of(copy.path)
    told = {"manifest.json", "log.txt", "run.yaml"}  # where it is now
    assert {name: value for name, value in after.items() if name not in told} == {
        name: value for name, value in before.items() if name not in told
    }
    assert before.keys() <= after.keys()


def test_a_second_start_leaves_the_config_of_the_first_alone(data, tmp_path):
    """While the first prepares, and after it was killed: its own command goes on."""
    rows = tmp_path / "many.jsonl"
    rows.write_text(data.read_text() * 2000)
    base = [sys.executable, "-m", "ftlab", *BARE, f"data.path={rows}", "data.format=alpaca", "data.cache=null",
            "train.max_steps=1", f"run.dir={tmp_path / 'r'}", "data.workers=1"]  # fmt: skip
    first = subprocess.Popen(base, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run_yaml = tmp_path / "r" / "run.yaml"
    try:
        until = time.monotonic() + 60
        while not run_yaml.is_file() and time.monotonic() < until:
            time.sleep(0.05)
        written = run_yaml.read_text()
        second = [*base, "train.learning_rate=0.05", "lora.alpha=64"]
        done = subprocess.run(second, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert "Another process is at work in" in done.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert run_yaml.read_text() == written
    assert "alpha: 64" not in written


@pytest.mark.kill
@pytest.mark.parametrize("how", ["its command", "resume"])
def test_the_first_of_two_starts_goes_on_with_its_own_settings_after_it_was_killed(given, tmp_path, how):
    """Killed in its third step, after a second start with another rate and alpha was refused."""
    run_dir = tmp_path / "r"
    command = [sys.executable, "-m", "ftlab", *given, f"run.dir={run_dir}"]
    first = subprocess.Popen([*command, "train.max_steps=150"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (run_dir / "phases" / "01-sft" / "checkpoint-2" / "checkpoint.json").is_file())
        second = [*command, "train.max_steps=150", "train.learning_rate=0.05", "lora.alpha=64"]
        assert subprocess.run(second, cwd=ROOT, capture_output=True).returncode == 1
    finally:
        first.kill()
        first.wait()
    last = ["train.max_steps=150"] if how == "its command" else []
    again = command if how == "its command" else [sys.executable, "-m", "ftlab", "resume", str(run_dir)]
    subprocess.run([*again, *last], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    alone = train_run(tmp_path / "alone", *given, "train.max_steps=150")
    assert final_hash(RunDir.open(run_dir)) == final_hash(alone)
    assert logged(RunDir.open(run_dir)) == logged(alone)


def wait_for(is_so: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


PHASES = ("phases=[{name: one, stage: sft}, {name: two, stage: sft, train: {max_steps: 3}}]",)


@pytest.mark.matrix
def test_a_copied_curriculum_that_followed_links_is_finished(given, tmp_path, capsys):
    run = train_run(tmp_path / "r", *given, *PHASES, "run.phases=[one]")
    assert run.final.is_symlink()
    subprocess.run(["cp", "-rL", str(run.path), str(tmp_path / "copy")], check=True)
    copied = RunDir.open(tmp_path / "copy")
    assert copied.final.is_dir() and not copied.final.is_symlink()
    resume_run(copied.path)
    assert copied.manifest()["status"] == "finished"
    assert copied.final.is_symlink() and copied.final.resolve().parent.name == "02-two"
    resume_run(run.path)
    assert final_hash(copied) == final_hash(run)
    assert "moved to" not in capsys.readouterr().out  # it was the first phase's: nothing of its own


@pytest.mark.kill
def test_a_curriculum_that_stopped_in_its_second_phase_and_was_copied_is_finished(given, tmp_path):
    train_run(tmp_path / "r", *given, *PHASES, "run.phases=[one]")
    check_copy(interrupted_run(tmp_path / "r", 1, *given, *PHASES), tmp_path / "copy")


@pytest.mark.kill
def test_a_curriculum_that_was_killed_in_its_second_phase_and_copied_is_finished(given, tmp_path):
    command = [sys.executable, "-m", "ftlab", *given, PHASES[0].replace("3", "40"), f"run.dir={tmp_path / 'r'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any((tmp_path / "r" / "phases" / "02-two").glob("checkpoint-*/checkpoint.json")))
        process.kill()
    check_copy(RunDir.open(tmp_path / "r"), tmp_path / "copy")


def check_copy(stopped: RunDir, folder: Path) -> None:
    """A copy that followed links ends as the original does."""
    subprocess.run(["cp", "-rL", str(stopped.path), str(folder)], check=True)
    copied = resume_run(folder)
    assert copied.manifest()["status"] == "finished"
    assert copied.final.is_symlink() and copied.final.resolve().parent.name == "02-two"
    original = resume_run(stopped.path)
    assert final_hash(copied) == final_hash(original)
    assert logged(copied) == logged(original)


def test_a_folder_of_other_weights_in_the_place_of_final_is_kept(copy, capsys):
    copy.final.mkdir()
    (copy.final / "model.safetensors").write_bytes(b"somebody's")
    resume_run(copy.path)
    assert copy.final.is_symlink()
    assert (copy.path / "set_aside" / "final" / "model.safetensors").read_bytes() == b"somebody's"
    assert "was a folder of other weights; moved to" in capsys.readouterr().out.replace("\n", " ")


def test_a_start_that_is_not_like_the_first_says_what_differs(copy, capsys):
    manifest = json.loads(copy.manifest_json.read_text())
    manifest["machine"] |= {"threads": 64, "memory_gb": 1.0}
    manifest["packages"]["torch"] = "1.0"
    copy.manifest_json.write_text(json.dumps(manifest))
    resume_run(copy.path)
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Not as at its first start: threads 64 then, \d+ now, torch 1\.0 then, \S+ now\. The last", told)
