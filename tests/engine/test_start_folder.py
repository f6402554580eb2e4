"""``ftlab resume`` from another folder than the one that a run was started in: paths start where they did."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ftlab.errors import NotReadyError
from ftlab.rundir.directory import RunDir
from tests.runs import BARE, ROOT, final_hash, interrupted_run, logged, resume_run, train_run

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
