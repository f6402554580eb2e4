"""The lock of a run directory: one writer at a time, and nothing written before it is held."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ftlab.errors import RunDirError
from ftlab.rundir import claim as claiming
from ftlab.rundir.claim import claim
from ftlab.rundir.lock import LockHeldError, RunLock
from ftlab.rundir.manifest import Manifest
from tests.runs import create_run, resume_run

HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, getattr(fcntl, sys.argv[2]))
print(flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextmanager
def other_process(run_dir, kind="LOCK_EX", seconds=60.0):
    """One that holds the lock of a run directory."""
    command = [sys.executable, "-c", HOLD, str(run_dir.path / ".lock"), kind, str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        holder.stdout.readline()
        yield
    finally:
        holder.kill()
        holder.wait()


def test_a_command_that_is_refused_has_not_touched_the_config_of_the_run_that_works(plan):
    run_dir = create_run(plan("run.name=x"))
    before = run_dir.run_yaml.read_bytes()
    with other_process(run_dir), pytest.raises(RunDirError, match="Another process is at work in outputs/x"):
        create_run(plan("run.name=x", "train.learning_rate=0.05", "lora.alpha=64"))
    assert run_dir.run_yaml.read_bytes() == before
    create_run(plan("run.name=x", "lora.alpha=64"))  # it is dead, and had not begun
    assert run_dir.plan().phases[0].config.lora.alpha == 64


def test_a_resume_that_is_refused_has_not_chosen_the_phases_that_are_left(plan):
    run_dir = create_run(plan("phase=align", "run.name=x", "run.phases=[read]"))
    done = {"steps": 1, "tokens": 1, "before": {}, "after": {}, "sha256": {}}
    Manifest(run_dir).record(phases={"read": done}, status="running")
    before = run_dir.run_yaml.read_bytes()
    with other_process(run_dir), pytest.raises(RunDirError, match="Another process is at work in outputs/x"):
        resume_run(run_dir.path)
    assert run_dir.run_yaml.read_bytes() == before


def test_starts_of_one_second_have_folders_of_their_own(plan, monkeypatch):
    monkeypatch.setattr(claiming.time, "strftime", lambda _: "20260101-000000")
    one, begin = plan(), threading.Barrier(6)

    def start(_: int) -> str:
        begin.wait()
        return str(create_run(one).path)

    with ThreadPoolExecutor(6) as threads:
        paths = sorted(threads.map(start, range(6)))
    first = "outputs/tiny-sft-lora-20260101-000000"
    assert paths == [first, *(f"{first}-{number}" for number in range(2, 7))]


def test_beside_a_run_that_works_there_is_another(plan):
    run_dir = create_run(plan("run.name=x"))
    with other_process(run_dir):
        assert create_run(plan("run.name=x", "run.if_exists=new")).path.name == "x-2"


def test_who_only_asks_does_not_get_in_the_way_of_a_start(plan):
    """``ftlab ls`` has a shared lock for an instant."""
    run_dir = create_run(plan("run.name=x"))
    with other_process(run_dir, "LOCK_SH", 0.2):
        with pytest.raises(BlockingIOError), run_dir.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with claim(plan("run.name=x")) as held:
            assert (held.path, held.is_locked) == (run_dir.path, True)
    assert not run_dir.is_locked


def test_a_lock_is_held_once_also_in_one_process(here):
    with RunLock(here / "a", make=True), RunLock(here / "b", make=True):
        (here / "link").symlink_to("a")
        for path in ("a", "link"), ("b", "../" + here.name + "/b"):
            for one in path:
                with ThreadPoolExecutor(1) as thread, pytest.raises(LockHeldError, match="Another process is at work"):
                    thread.submit(RunLock(here / one).acquire).result()
        (here / "a" / "kept").touch()
    assert [path.name for path in (here / "a").iterdir() if path.name != ".lock"] == ["kept"]
    assert not (here / "b").exists(), "nothing was written there"
    with RunLock(here / "a"):
        pass


def test_the_lock_of_a_folder_that_is_removed_is_not_the_next_ones(here):
    with RunLock(here / "a", make=True):
        waiting = threading.Thread(target=(second := RunLock(here / "a", make=True)).acquire)
        waiting.start()
        shutil.rmtree(here / "a")
    waiting.join()
    assert (here / "a" / ".lock").is_file()
    with pytest.raises(RunDirError, match="Another process is at work"):
        RunLock(here / "a").acquire()
    second.release()
    with pytest.raises(RunDirError, match="a is no longer there"):
        RunLock(here / "a").acquire()


def test_a_first_start_that_was_killed_before_it_wrote_anything_is_no_run(plan, here):
    folder = here / "outputs" / "x"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    assert create_run(plan("run.name=x", "run.if_exists=refuse")).path.resolve() == folder
