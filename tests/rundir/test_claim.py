"""Who may write into a run directory, and when."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ftlab.errors import RunDirError
from ftlab.planning import make_plan
from ftlab.rundir.claim import claim, hold
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import Plan
from tests.runs import create_run


@pytest.fixture
def plan(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: make_plan(make_run("model=tiny", *overrides), overrides)


def in_threads(count: int, work) -> None:
    """Let so many threads do ``work`` at one moment. An error of one is raised here."""
    barrier, errors = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_start_that_is_refused_has_written_nothing(plan):
    """While a run prepares its data, nothing was measured: the second start would be taken for its mended command."""
    with claim(plan("run.name=x")) as run_dir:
        before = {path: path.read_bytes() for path in run_dir.path.iterdir()}
        other = plan("run.name=x", "train.learning_rate=0.05", "lora.alpha=64")
        with pytest.raises(
            RunDirError, match=r"Another process is at work in outputs/x\. Wait for it, or start beside"
        ):
            create_run(other)
        assert {path: path.read_bytes() for path in run_dir.path.iterdir()} == before
        with pytest.raises(RunDirError, match="Another process"), hold(run_dir):
            raise AssertionError
    assert create_run(other).plan().phases[0].config.lora.alpha == 64  # the first is over


def test_starts_of_one_moment_have_folders_of_their_own(plan):
    paths: list[Path] = []
    a_plan: Plan = plan()

    def start() -> None:
        with claim(a_plan) as run_dir:
            paths.append(run_dir.path)

    in_threads(12, start)
    assert len(set(paths)) == 12
    assert [path for path in paths if RunDir.open(path).plan() != a_plan] == []


def test_new_starts_of_one_name_have_folders_of_their_own(plan):
    create_run(plan("run.name=x"))
    paths: list[str] = []
    a_plan = plan("run.name=x", "run.if_exists=new")

    def start() -> None:
        with claim(a_plan) as run_dir:
            paths.append(run_dir.path.name)

    in_threads(4, start)
    assert sorted(paths) == ["x-2", "x-3", "x-4", "x-5"]


def test_asking_whether_a_run_is_at_work_keeps_no_start_from_it(plan):
    """``ftlab ls`` looks at every run directory, as often as one likes."""
    a_plan = plan("run.name=x")
    run_dir, is_over = create_run(a_plan), threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            assert run_dir.is_held in (True, False)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for _ in range(200):
            with claim(a_plan):
                pass
    finally:
        is_over.set()
        for thread in asking:
            thread.join()


def test_a_directory_that_is_removed_while_another_start_waits(plan):
    """The lock that the other start opened is gone with the directory; it must not take that for its own."""
    run_dir = create_run(plan("run.name=x"))
    with hold(run_dir):
        opened = run_dir.lock.open("a")
        run_dir.remove()
    run_dir.path.mkdir()
    with hold(run_dir):
        assert run_dir.is_held
    opened.close()


def test_a_first_start_that_was_killed_before_it_wrote_anything_is_no_run(plan):
    folder = Path("outputs/x")
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    assert create_run(plan("run.name=x", "run.if_exists=refuse")).path == folder
