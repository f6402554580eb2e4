"""What a run prints cannot steer the terminal, whatever its data and its files hold."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from ftlab.use.ls import ls
from tests.conftest import ROOT
from tests.runs import BARE, make_run, train_run

TITLE, CLEAR = "\x1b]0;owned\x07", "\x1b[2J\x9b3J"


def test_answers_and_manifests_cannot_steer_the_terminal(tmp_path, capsys):
    golden = tmp_path / "golden.jsonl"
    row = {"instruction": f"Say {TITLE} now", "output": f"yes {CLEAR}"}
    golden.write_text(json.dumps(row) + "\n")
    run_dir = train_run(
        tmp_path / "outputs" / "x", f"data.split.golden={golden}", "data.split.validation=none", "tracker=none",
        "eval.samples=1", "eval.golden_rows=1", "eval.max_new_tokens=4", "train.max_steps=1", "data.max_samples=8",
    )  # fmt: skip
    printed = capsys.readouterr().out
    for told in (printed, run_dir.log.read_text()):
        assert "<U+001B>" in told and "<U+0007>" in told
        assert not {"\x1b", "\x07", "\x9b"} & set(told)
    manifest = json.loads(run_dir.manifest_json.read_text())
    manifest |= {"status": "failed", "error": f"Lost {TITLE}{CLEAR}"}
    run_dir.manifest_json.write_text(json.dumps(manifest))
    for form in ("table", "json"):
        overrides = ("task=ls", f"task.folder={tmp_path / 'outputs'}", f"task.format={form}")
        ls(make_run(*overrides), overrides)
        printed = capsys.readouterr().out
        assert "failed" in printed and not {"\x1b", "\x07", "\x9b"} & set(printed)


@pytest.mark.kill
@pytest.mark.parametrize("where", ["> /dev/full", "> /dev/full 2>&1"])
def test_a_run_whose_output_is_on_a_full_disk_goes_on(where, tmp_path):
    given = (*BARE, "train.max_steps=1", "data.max_samples=8", f"run.dir={tmp_path / 'r'}")
    command = shlex.join([sys.executable, "-m", "ftlab", *given])
    done = subprocess.run(["bash", "-c", f"{command} {where}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = f"the run goes on, and what it says is in {tmp_path / 'r' / 'log.txt'}"
    if "2>" not in where:
        assert " ".join(done.stderr.split()).count(f"Standard output is full (No space left on device); {told}") == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "r" / "final" / "adapter_model.safetensors").is_file()
    assert "Finished" in (tmp_path / "r" / "log.txt").read_text()
