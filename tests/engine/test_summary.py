"""What is said after a run: commands that fit what was done, and that the config accepts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from ftlab.engine.output import Output
from ftlab.engine.summary import _samples, next_commands
from ftlab.planning import make_plan
from ftlab.rundir.directory import RunDir
from tests.runs import BARE, make_run


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("", "ftlab stage=dpo data=preferences model.adapter=tests/final"),
        ("method=full", "ftlab stage=dpo data=preferences method=full model.path=tests/final"),
        (
            "stage=pt data=corpus model=tiny_instruct",
            "ftlab stage=sft data=instructions model=tiny_instruct model.adapter=tests/final",
        ),
        ("stage=rm data=preferences", "ftlab stage=ppo data=prompts stage.reward_model=tests"),
        ("stage=dpo data=preferences", "ftlab stage=dpo data.path=YOUR.json data.format=preference"),
        ("stage=kto data=labels", "ftlab stage=kto data.path=YOUR.json data.format=kto"),
        ("phase=align", "ftlab inspect tests phase=prefer step=1"),
    ],
)  # fmt: skip
def test_the_next_command_fits_what_was_done(line, first, mistakes):
    overrides = tuple(line.split())
    commands = [command for command, _ in next_commands(Path("tests"), make_plan(make_run(*overrides), overrides))]
    assert commands[0] == first
    assert commands[-1] == "tensorboard --logdir tests"
    for command in commands[:-1]:
        line = command.removeprefix("ftlab ").replace("model.path=tests/final", "model.path=models/tiny")
        assert mistakes(line) == []


@pytest.mark.matrix
def test_the_seconds_of_a_run_count_from_the_start_of_the_command(tmp_path, env):
    command = [sys.executable, "-u", "-c", "import time; time.sleep(3); from ftlab.main import main; main()", *BARE,
               "train.max_steps=1", "data.max_samples=8", "run.dir=r"]  # fmt: skip
    begun = time.monotonic()
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        ended = {line: time.monotonic() - begun for line in process.stdout if line.startswith("Finished after")}
    assert process.returncode == 0, shlex.join(command)
    ((line, spent),) = ended.items()
    assert spent - 2 < int(re.findall(r"\d+", line)[0]) <= spent + 1, line


def test_answers_of_several_turns_and_phases_can_be_read_in_80_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    run_dir = RunDir(tmp_path)
    turns = "".join(f"<|im_start|>user\nQuestion {n} of a long talk.<|im_end|>\n" for n in range(30))
    for phase in ("instruct", "prefer"):
        for when, answer in (("before", f"no {phase}"), ("after", " ".join([f"yes {phase}"] * 60))):
            record = {"prompt": turns, "answer": answer, "expected": "seven"}
            path = run_dir.samples_file(phase, when)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"values": {}, "samples": [record]}))
    with Output(None) as output:
        for phase in ("instruct", "prefer"):
            _samples(output, run_dir, phase)
    said = capsys.readouterr().out
    assert max(cell_len(line) for line in said.splitlines()) <= 80
    first, second = said.split("prefer: answers")
    for phase, table in (("instruct", first), ("prefer", second)):
        assert "Question 29 of a long talk." in table and "Question 0 " not in table, "the question comes last"
        rows = [line.strip("│ ").split(" ")[0] for line in table.splitlines() if line.startswith("│")]
        assert [row for row in rows if row in ("prompt", "before", "after", "expected")] == [
            "prompt", "before", "after", "expected",
        ]  # fmt: skip
        assert f"no {phase}" in table and f"yes {phase}" in table and len(table.splitlines()) < 24
