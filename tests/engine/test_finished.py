"""A finished run that is started again says what is no longer as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from ftlab.errors import RunDirError
from ftlab.rundir.directory import RunDir
from tests.runs import BARE, final_hash, interrupted_run, resume_run, train_run

_SMALL = (*BARE, "data.format=instruction", "train.logging_steps=1", "train.max_steps=2", "data.cache=null")


def _write_rows(file: Path, first: int) -> None:
    rows = ({"instruction": f"Say {n}.", "response": f"{n}"} for n in range(first, first + 8))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _short_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[RunDir, Path]:
    """A finished run, and the folder of its data."""
    root = tmp_path_factory.mktemp("finished")
    rows = root / "rows"
    rows.mkdir()
    _write_rows(rows / "a.jsonl", 0)
    _write_rows(rows / "b.jsonl", 8)
    return train_run(root / "r", *_SMALL, f"data.path={rows}"), rows


@pytest.fixture
def finished(trained):
    """The same, with the data put back afterwards."""
    run_dir, rows = trained
    kept = rows.with_name("kept")
    shutil.copytree(rows, kept)
    yield run_dir, rows
    shutil.rmtree(rows)
    kept.rename(rows)


def _started_again(run_dir: RunDir, rows: Path, capsys: pytest.CaptureFixture[str], command: str) -> str:
    weights, manifest = final_hash(run_dir), run_dir.manifest_json.read_bytes()
    capsys.readouterr()
    if command == "resume":
        resume_run(run_dir.path)
    else:
        train_run(run_dir.path, *_SMALL, f"data.path={rows}")
    assert (final_hash(run_dir), run_dir.manifest_json.read_bytes()) == (weights, manifest)
    said = capsys.readouterr().out
    assert "is finished already" in said
    return said


@pytest.mark.parametrize("command", ["train", "resume"])
def test_changed_data_is_named_with_both_hashes_and_what_to_do(finished, capsys, command):
    run_dir, rows = finished
    before = _short_hash(rows / "a.jsonl")
    _write_rows(rows / "a.jsonl", 100)
    said = _started_again(run_dir, rows, capsys, command)
    assert f"{rows / 'a.jsonl'} was {before} and is {_short_hash(rows / 'a.jsonl')} now" in said
    assert "b.jsonl was" not in said
    assert "run.if_exists=new, or with another run.name" in said


def test_files_that_came_and_went_are_named(finished, capsys):
    run_dir, rows = finished
    gone = _short_hash(rows / "a.jsonl")
    (rows / "a.jsonl").unlink()
    _write_rows(rows / "c.jsonl", 100)
    said = _started_again(run_dir, rows, capsys, "train")
    assert f"{rows / 'a.jsonl'} was read ({gone}), and is gone" in said
    assert f"{rows / 'c.jsonl'} ({_short_hash(rows / 'c.jsonl')}) was not there, or not read" in said


def test_the_same_data_is_not_mentioned(finished, capsys):
    run_dir, rows = finished
    (rows / "a.jsonl").touch()
    said = _started_again(run_dir, rows, capsys, "train")
    assert "trained on:" not in said and "cannot be told" not in said


def test_a_damaged_ledger_does_not_stop_a_finished_run(finished, capsys):
    run_dir, rows = finished
    ledger = run_dir.ledger("sft")
    text = ledger.read_text()
    try:
        ledger.write_text("{")
        said = _started_again(run_dir, rows, capsys, "train")
    finally:
        ledger.write_text(text)
    assert "cannot be told" in said and str(ledger) in said


def test_a_file_taken_out_of_a_folder_stops_a_run_that_goes_on(tmp_path):
    """Its rows would be others from there on."""
    rows = tmp_path / "rows"
    rows.mkdir()
    _write_rows(rows / "a.jsonl", 0)
    _write_rows(rows / "b.jsonl", 8)
    given = (*_SMALL, "train.max_steps=4", "train.micro_batch_size=1", "data.packing=false", f"data.path={rows}")
    run_dir = interrupted_run(tmp_path / "r", 1, *given)
    (rows / "b.jsonl").unlink()
    with pytest.raises(RunDirError, match=r"b\.jsonl is gone since .*/r began"):
        resume_run(run_dir.path)
