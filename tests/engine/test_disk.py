"""A disk that fills up: what was saved stays, and the run goes on once there is room."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.errors import DataError, RunDirError
from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.directory import RunDir
from tests.conftest import ROOT
from tests.runs import final_hash, logged, resume_run, train_run

LONG = (
    "eval.golden_rows=0", "eval.samples=0", "train.logging_steps=3", "train.max_steps=10", "train.save_steps=2",
    "eval.steps=5", "data.max_samples=48", "train.save_total_limit=null",
)  # fmt: skip


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes an administrator")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.kill
def test_a_full_disk_keeps_the_last_good_checkpoint(small_disk, tmp_path):
    folder = small_disk / "run"
    with pytest.raises(RunDirError) as caught:
        train_run(folder, *LONG)
    said = str(caught.value)
    assert "is full: checkpoint-" in said
    kept = checkpoints(RunDir.open(folder).phase("01-sft"))
    assert kept
    assert all(map(is_whole, kept))
    assert f"The last good checkpoint is {kept[0]}" in said
    assert "train.save_total_limit" in said
    assert RunDir.open(folder).manifest()["status"] == "failed"

    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    finished = resume_run(folder)
    whole = train_run(tmp_path / "whole", *LONG)
    assert final_hash(finished) == final_hash(whole)
    assert logged(finished) == logged(whole)


def test_a_disk_without_room_for_the_log_says_so(small_disk):
    subprocess.run(["fallocate", "-l", "25000000", str(small_disk / "other")], check=True)
    with pytest.raises(RunDirError, match=r"is full|cannot be written"):
        train_run(small_disk / "run", *LONG)


SHORT = ("eval.golden_rows=0", "eval.samples=0", "train.max_steps=1", "data.max_samples=8", "tracker=none",
         "data.split.validation=none")  # fmt: skip


@pytest.mark.kill
@pytest.mark.parametrize("key", ["data.cache", "TMPDIR"])
def test_another_disk_that_is_full_is_told_by_its_own_name(key, small_disk, tmp_path, monkeypatch):
    subprocess.run(["mount", "-o", "remount,size=512k", str(small_disk)], check=True)
    cache = str(small_disk) if key == "data.cache" else "null"
    if key == "TMPDIR":
        monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    subprocess.run(["fallocate", "-l", "520000", str(small_disk / "other")], check=True)
    with pytest.raises((RunDirError, DataError), match=re.escape(str(small_disk))) as caught:
        train_run(tmp_path / "run", *SHORT, f"data.cache={cache}")
    assert f"{key}=" in str(caught.value)
    assert f"disk of {tmp_path / 'run'}" not in str(caught.value)


@pytest.mark.kill
def test_a_limit_of_the_shell_is_told(tmp_path):
    given = shlex.join([sys.executable, "-m", "ftlab", *SHORT, f"run.dir={tmp_path / 'run'}"])
    done = subprocess.run(["bash", "-c", f"ulimit -f 300; {given}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        f"is larger than this shell allows (ulimit -f). Raise the limit, and continue with: ftlab resume {tmp_path}"
        in (" ".join(done.stderr.split()))
    )
