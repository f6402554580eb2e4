"""Run directories damaged by hand, file by file: told in one message, or put back; never a traceback, and never other
weights or a lost file."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from ftlab.rundir.directory import RunDir
from tests.fuzz.runs import READERS, STARTS, Runs, make_runs
from tests.runs import final_hash

FILES = (
    "run.yaml", "manifest.json", "metrics.jsonl", "data/sft.json", "samples/sft-before.json",
    "samples/sft-step-2.json", ".lock", "log.txt",
)  # fmt: skip
FOLDERS = ("data", "samples", "phases", "phases/01-sft", "tensorboard", "final")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("damage"))


def wrong_types(text: str) -> str:
    """Every value of the first object in a file of another type."""
    first = json.loads(text.splitlines()[0] if not text.startswith("{\n") else text)
    return json.dumps(
        {key: [None] if isinstance(value, (int, float, str, dict)) else 7 for key, value in first.items()}
    )


def put(path, damage: str) -> None:
    """Damage what is at ``path``; it is a file, a folder or nothing."""
    content = path.read_bytes() if path.is_file() else b"{}"
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True, parents=True)
    if damage == "folder":
        path.mkdir()
    elif damage == "nowhere":
        path.symlink_to("nowhere")
    elif damage == "loop":
        path.symlink_to(path)
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "types":
        path.write_text(wrong_types(content.decode()) + "\n" if path.suffix != ".yaml" else "phases: 7\n")
    elif damage != "gone":
        written = {"empty": b"", "half": content[: len(content) // 2], "garbage": b"\xff\x00[[{\n", "list": b"[1]\n",
                   "number": b"7\n", "null": b"null\n", "deep": b"[" * 5000 + b"\n", "file": b"x"}  # fmt: skip
        path.write_bytes(written[damage])


DAMAGES = ("empty", "half", "garbage", "list", "number", "null", "deep", "types", "folder", "nowhere", "loop", "pipe",
           "gone")  # fmt: skip


@pytest.mark.parametrize("kind", ["stopped", "finished"])
@pytest.mark.parametrize("file", [file for file in FILES if file not in (".lock", "log.txt")])
def test_what_only_looks_at_a_damaged_run_tells_it(runs, kind, file):
    for damage in DAMAGES:
        run_dir = runs.copy(kind)
        if not (run_dir.path / file).exists() and damage in ("half", "types"):
            continue
        put(run_dir.path / file, damage)
        for command in ("ls", "ls json", "diff"):
            said = runs.told(command)
            if file == "run.yaml" or (file in ("manifest.json", "metrics.jsonl") and damage in ("types", "pipe")):
                assert file in said, (damage, command, said)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["stopped", "finished"])
@pytest.mark.parametrize("file", FILES + FOLDERS)
def test_every_command_on_every_damage(runs, kind, file):
    for damage in (*DAMAGES, "file"):
        for command in READERS + STARTS:
            run_dir = runs.copy(kind)
            if not (run_dir.path / file).is_file() and damage in ("half", "types"):
                continue
            put(run_dir.path / file, damage)
            try:
                said = runs.told(command)
            except Exception as error:
                raise AssertionError(f"{kind} {file} {damage} {command}") from error
            if RunDir(runs.folder).final.is_dir() and "has changed since" not in said and "is gone" not in said:
                assert final_hash(RunDir(runs.folder)) == runs.hash, (kind, file, damage, command)
