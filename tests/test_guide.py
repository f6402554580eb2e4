"""The way from a pilot to what is handed on, as a guide would tell it: each step is a command, and begins with what the
one before it has left."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ftlab.rundir.directory import RunDir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SMALL = ("hardware=cpu", "tracker=none", "train.save_steps=1000", "eval.samples=2")
LLAMA_CPP = "FTLAB_LLAMA_CPP"
WITHOUT_FTLAB = "import sys; sys.modules['ftlab'] = None; exec(compile(sys.stdin.read(), 'card', 'exec'))"


def unpacked(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    (folder,) = into.iterdir()
    return folder


def test_from_a_pilot_to_a_package(ftlab, tmp_path, env):
    def done(*words: str) -> str:
        one = ftlab(*words, timeout=1800)
        assert one.returncode == 0, (words, one.stdout, one.stderr)
        return str(one.stdout)

    # A pilot, which says that the run is worth it, and how it is started.
    done("experiment=pilot", "pilot.steps=60", "eval.golden_rows=40", *SMALL, "train.max_steps=160", "run.name=pilot")
    pilot = json.loads((tmp_path / "outputs/pilot/pilot_evaluation.json").read_text())
    judged = {check["name"]: check["judgement"] for check in pilot["phases"][0]["checks"]}
    assert judged["finite"] == judged["loss"] == "good" and pilot["verdict"] in ("start", "look"), pilot
    assert pilot["phases"][0]["whole"]["steps"] == 160

    # The whole run, by the command that the pilot gives.
    program, *words = shlex.split(pilot["command"])
    assert program == "ftlab"
    done(*[word for word in words if "golden_rows" not in word], "run.name=full")
    full = RunDir.open(tmp_path / "outputs/full")
    assert full.manifest()["phases"]["sft"]["steps"] == 160

    # Its golden answers, beside those of what it began with.
    done("evaluate", "outputs/full", "split=golden", "limit=60", "compare=base")
    folder = full.path / "evaluations/instructions-golden"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    difference = evaluation["compare"]["base"]["exact_match"]
    assert difference["verdict"] == "better" and evaluation["metrics"]["exact_match"]["value"] > 0.5
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    asked = next(line for line in answers if line["scores"]["exact_match"] == 1)
    ((question,), answer) = [message["content"] for message in asked["prompt"]], asked["prediction"]

    # A chat through a pipe says what the evaluation has read.
    command = [sys.executable, "-m", "ftlab", "chat", "outputs/full", "format=json", "max_new_tokens=48"]
    chat = subprocess.run(command, input=f'"""{question}"""\n', cwd=tmp_path, env=env, capture_output=True, text=True)
    assert chat.returncode == 0, chat.stderr
    assert json.loads(chat.stdout)["answer"] == answer

    # Packed whole, checked, unpacked elsewhere, and asked by the code of its model card alone.
    done("package", "outputs/full", "merge=true")
    (archive,) = (full.path / "packages").glob("*.tar.gz")
    assert "the same" in done("package", "verify", str(archive), "load=true")
    package = unpacked(archive, tmp_path / "elsewhere")
    (code,) = re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    example = re.search(r'"content": (".*?")', code)
    assert example is not None, code
    code = code.replace(example[1], json.dumps(question))
    alone = [sys.executable, "-I", "-c", WITHOUT_FTLAB]
    card = subprocess.run(alone, input=code, cwd=package, capture_output=True, text=True)
    assert card.returncode == 0, card.stderr
    assert card.stdout.strip() == answer.strip()

    # And as GGUF, by the engine that will serve it, where it is there.
    printed = done("package", "outputs/full", "format=gguf")
    if LLAMA_CPP in os.environ:
        assert re.search(r"llama\.cpp", printed), printed
        assert re.search(r"greedy answers +3 of 3 the same", printed), printed
    (file,) = unpacked(next((full.path / "packages").glob("*gguf*.tar.gz")), tmp_path / "gguf").glob("*.gguf")
    assert file.read_bytes()[:4] == b"GGUF"
