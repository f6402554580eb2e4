"""Commands on a run from another folder than the one that it was started in: paths start where they did."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ftlab.engine.reproduce import reproduce
from ftlab.errors import NotReadyError
from ftlab.rundir.directory import RunDir
from ftlab.use.diff import diff
from ftlab.use.inspect.command import inspect
from ftlab.use.ls import ls
from tests.runs import BARE, ROOT, final_hash, interrupted_run, logged, make_run, resume_run, train_run

GIVEN = (*BARE, "train.logging_steps=1", "train.max_steps=3", "data.path=rows.jsonl", "data.format=alpaca")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with rows, a model beside them and two runs: one that ended, and one that was stopped after a step."""
    folder = tmp_path_factory.mktemp("a")
    rows = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(ROOT / "models" / "tiny", folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = (*GIVEN, "model.path=base")
        whole = train_run(Path("outputs/whole"), *given)
        interrupted_run(Path("outputs/part"), 1, *given)
        end = (final_hash(whole), logged(whole))
    return folder, end


@pytest.fixture
def there(stopped, tmp_path):
    """A copy of the folder under the name that it was started with."""
    folder, end = stopped
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept, symlinks=True)
    yield folder, end
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder, symlinks=True)


def test_a_run_goes_on_from_any_folder(there, tmp_path, monkeypatch, capsys):
    """By a path that is relative to the folder one is in."""
    folder, (weights, lines) = there
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    resume_run(Path(os.path.relpath(folder / "outputs" / "part")))
    run_dir = RunDir.open(folder / "outputs" / "part")
    assert (final_hash(run_dir), logged(run_dir)) == (weights, lines)
    assert f"Relative paths start from {folder}, in which the run was started." in capsys.readouterr().out
    assert run_dir.manifest()["folder"] == str(folder)
    assert [*elsewhere.iterdir()] == [], "nothing is written where one is"


def test_a_run_goes_on_in_a_folder_that_has_moved_with_it(there, tmp_path, monkeypatch, capsys):
    folder, (weights, lines) = there
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    monkeypatch.chdir(tmp_path)
    run_dir = resume_run(Path("moved/outputs/part"))
    assert (final_hash(run_dir), logged(run_dir)) == (weights, lines)
    told = f"Relative paths start from {moved}, in which the run was started (it has moved from {folder})."
    assert told in capsys.readouterr().out


def test_a_run_that_was_taken_away_alone_reads_its_data_where_it_was(there, tmp_path, monkeypatch):
    folder, (weights, lines) = there
    shutil.move(folder / "outputs" / "part", tmp_path / "alone")
    monkeypatch.chdir(tmp_path)
    run_dir = resume_run(Path("alone"))
    assert (final_hash(run_dir), logged(run_dir)) == (weights, lines)


def test_a_run_whose_folder_is_gone_is_told(there, tmp_path, monkeypatch):
    folder, _ = there
    shutil.move(folder / "outputs" / "part", tmp_path / "alone")
    shutil.rmtree(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotReadyError, match=rf"rows\.jsonl does not exist(.|\n)*The run was started in {folder}\."):
        resume_run(Path("alone"))


def test_a_run_is_reproduced_from_any_folder(there, tmp_path, monkeypatch, capsys):
    folder, (weights, lines) = there
    elsewhere = tmp_path / "b"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    given = ("task=reproduce", f"run.dir={os.path.relpath(folder / 'outputs' / 'whole')}")
    reproduce(make_run(*given), given)
    again = RunDir.open(folder / "outputs" / "whole-reproduced")
    assert (final_hash(again), logged(again)) == (weights, lines)
    assert f"Relative paths start from {folder}, in which the run was started." in capsys.readouterr().out
    assert (folder / "outputs" / "latest").resolve() == again.path.resolve()
    assert [*elsewhere.iterdir()] == [], "nothing is written where one is"


def test_a_run_is_looked_at_from_any_folder(there, tmp_path, monkeypatch, capsys):
    folder, _ = there
    monkeypatch.chdir(tmp_path)
    whole, part = (os.path.relpath(folder / "outputs" / name) for name in ("whole", "part"))
    for given in (
        ("task=inspect", f"run.dir={whole}", "task.step=2", "task.html=page.html"),
        ("task=inspect", f"run.dir={whole}", "task.rows=1"),
        ("task=diff", f"task.first={whole}", f"task.second={part}"),
        ("task=ls", f"task.folder={os.path.relpath(folder)}"),
    ):
        {"inspect": inspect, "diff": diff, "ls": ls}[given[0][5:]](make_run(*given), given)
        said = capsys.readouterr().out
        if given[0] == "task=inspect":
            assert "rows.jsonl:" in said and f"Relative paths start from {folder}" in said
        else:
            assert "whole" in said and "part" in said
    assert (tmp_path / "page.html").is_file(), "what is written goes where one is"
    assert Path.cwd() == tmp_path
