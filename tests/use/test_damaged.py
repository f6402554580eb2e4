"""Damaged files of a run, and what is not there: told in words by every command that reads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.errors import RunDirError
from ftlab.planning import make_plan
from ftlab.rundir.directory import RunDir
from ftlab.use.diff import diff
from ftlab.use.ls import ls
from tests.runs import create_run, make_run

ROOT = Path(__file__).resolve().parents[2]
LEDGER = '{"source": [], "sha256": {}, "tokenized_by": "x", "splits": {}}'


@pytest.fixture(autouse=True)
def two(tmp_path, monkeypatch):
    """Two runs that have come to their data."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        run_dir = create_run(make_plan(make_run(f"run.name={name}"), ()))
        run_dir.ledger("sft").parent.mkdir()
        run_dir.ledger("sft").write_text(LEDGER)
    return run_dir.path.parent


def call(task, *words):
    given = command_line.read(words)
    task(make_run(*words), given.overrides)


@pytest.mark.parametrize("content", [LEDGER[:20], "", "[]", "{}", "\udcff\udcfe"], ids=repr)
def test_a_damaged_ledger_is_named(content, two):
    ledger = two / "a" / "data" / "sft.json"
    ledger.write_bytes(content.encode(errors="surrogateescape"))
    for one, other in (("a", "b"), ("b", "a")):
        with pytest.raises(RunDirError, match=r"a/data/sft\.json"):
            call(diff, "diff", str(two / one), str(two / other))
    with pytest.raises(RunDirError, match=r"a/data/sft\.json .*Put a copy back, or remove it"):
        RunDir.open(two / "a").data_files("sft")


@pytest.mark.parametrize("file", ["run.yaml", "manifest.json", "metrics.jsonl", "data/sft.json"])
def test_a_folder_in_a_files_place_is_told(file, two):
    (two / "a" / file).unlink(missing_ok=True)
    (two / "a" / file).mkdir()
    with pytest.raises(RunDirError, match=r"outputs/a"):
        call(diff, "diff", str(two / "a"), str(two / "b"))


def test_a_line_of_metrics_without_a_phase_is_told(two):
    (two / "a" / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(
        RunDirError, match=r"metrics\.jsonl:1 is no line that a run writes: phase: Field required .*: {}"
    ):
        call(diff, "diff", str(two / "a"), str(two / "b"))


def test_the_latest_run_is_listed_by_its_link(two, capsys):
    RunDir.open(two / "b").link_latest()
    call(ls, "ls", "outputs/latest")
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "outputs/b" and "new" in said


def test_a_plain_copy_of_the_sources_knows_no_commit_and_no_versions(tmp_path):
    """Neither installed nor in git: no metadata of ftlab, nor of any package, is on the path."""
    shutil.copytree(ROOT / "ftlab", tmp_path / "copy" / "ftlab", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import sys; from importlib import metadata; import ftlab.engine.starts as starts; "
        "from ftlab.base.machine import package_version; "
        "sys.path[:] = [path for path in sys.path if 'site-packages' not in path and path != sys.argv[1]]; "
        "sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in repr(one)]; "
        "print(starts.__file__, starts._code_of_ftlab(), package_version('peft'))"
    )
    env = {"PYTHONPATH": str(tmp_path / "copy"), "PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == [f"{tmp_path}/copy/ftlab/engine/starts.py", "None", "None"], done.stderr
