"""``ftlab -m``: every job named, failures told once, and the same command going on where it was stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlab.base.numbers import readable
from ftlab.engine import sweep
from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import JobRecord, Journal, SweepDir
from tests.runs import BARE, final_hash, held_out, logged

SMALL = ("eval.golden_rows=0", "eval.samples=0", "data.max_samples=24", "tracker=none", "train.max_steps=2",
         "data.split.golden=none", "train.logging_steps=1")  # fmt: skip
# Packages that are installed, and parts of them, which take seconds to import and do nothing for a plain run.
UNUSED = {"deepspeed", "mlflow", "torch._inductor.compile_fx", "trl", "sklearn", "matplotlib", "wandb", "lm_eval"}
LIST_IMPORTS = """
import atexit, sys
atexit.register(lambda: open({file!r}, "a").write(" ".join([*sys.modules, ""])))
"""


@pytest.fixture
def swept(ftlab, ftlab_here, env, tmp_path):
    """Two jobs of which the second lacks its validation file, and the same command once the file is there; by then that
    of the first is shorter."""
    held_out(tmp_path, "instructions")
    (tmp_path / "sitecustomize.py").write_text(LIST_IMPORTS.format(file=str(tmp_path / "imported.txt")))
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    given = ("-m", "data.split.validation=held_out/instructions.jsonl,later.jsonl", *SMALL)
    first = ftlab(*given)
    validation = tmp_path / "held_out" / "instructions.jsonl"
    shutil.copy(validation, tmp_path / "later.jsonl")
    validation.write_text("".join(validation.read_text().splitlines(keepends=True)[1:]))
    return first, ftlab_here(*given), ftlab_here("ls", "format=json")


def test_a_failed_job_is_told_once_and_the_same_command_goes_on(swept, tmp_path):
    first, second, listed = swept
    said = first.stdout + first.stderr
    title = "job 2 of 2: data.split.validation=later.jsonl"
    assert first.returncode == 1, said
    assert "job 1 of 2: data.split.validation=held_out/instructions.jsonl\n" in first.stdout
    assert first.stderr.count("later.jsonl") == 2 and first.stderr.startswith(f"{title} failed:\n"), first.stderr
    assert "Traceback" not in said
    assert "job 2 failed: " in first.stdout
    (folder,) = (tmp_path / "outputs").glob("sweep-*")
    assert f"ftlab resume outputs/{folder.name}" in first.stdout

    assert second.returncode == 0, second.stdout + second.stderr
    assert f"Going on with outputs/{folder.name}: 1 of 2 jobs are finished" in second.stdout
    assert "job 1 of 2: data.split.validation=held_out/instructions.jsonl: finished already" in second.stdout
    assert re.search(r"held_out/instructions\.jsonl was [0-9a-f]{12} and is [0-9a-f]{12} now", second.stdout)
    assert second.stdout.count("\ntiny-sft-lora ") == 1, "the finished job did not run again"
    assert [path.name for path in (tmp_path / "outputs").glob("sweep-*")] == [folder.name]
    runs = [RunDir.open(folder / name) for name in ("0", "1")]
    assert [run.manifest()["status"] for run in runs] == ["finished", "finished"]
    assert len(runs[0].manifest()["starts"]) == 1

    table = second.stdout[second.stdout.rindex("sweep outputs/") :]
    for run in runs:
        result = run.manifest()["phases"]["sft"]["after"]["validation loss"]
        loss = [line["loss"] for line in run.read_metrics() if "loss" in line][-1]
        assert readable(result) in table and readable(loss) in table
    assert second.stdout.count("Next:\n") == table.count("Next:\n") == 1, "once, for the best job"
    best = re.search(r"in (outputs/sweep-\S+)\n", table).group(1)
    assert f"ftlab inspect {best} step=1" in table
    assert re.search(r"^ +1 +[12] .* finished +2/2 ", table, re.MULTILINE)
    assert (tmp_path / "outputs" / "latest").resolve() == runs[1].path.resolve()

    told = {Path(one["path"]).name: one["overrides"] for one in json.loads(listed.stdout)}
    assert "data.split.validation=later.jsonl" in told["1"] and "train.max_steps=2" in told["0"]

    imported = {*(tmp_path / "imported.txt").read_text().split()}
    assert "torch" in imported and not imported & UNUSED


def write_job(folder: Path, number: int, loss: float, status: str = "finished") -> None:
    """A run directory as a job leaves it."""
    run_dir = RunDir(folder / str(number))
    run_dir.path.mkdir(parents=True)
    config = {group: {"name": "tiny"} for group in ("model", "method", "quant", "stage")}
    run_dir.run_yaml.write_text(
        json.dumps({"overrides": [], "phases": [{"name": "sft", "config": config, "start": "continue"}]})
    )
    result = {"steps": 1, "tokens": 1, "before": {}, "after": {"validation loss": loss}, "sha256": {}}
    run_dir.manifest_json.write_text(json.dumps({"status": status, "phases": {"sft": result}}))


def test_the_table_has_the_best_job_first_and_says_how_to_go_on(tmp_path, capsys):
    jobs = tuple((f"lora.r={r}", "seed=1") for r in (4, 8, 16, 32))
    folder = SweepDir(tmp_path / "a sweep")
    folder.write(Journal(overrides=("lora.r=4,8,16,32", "seed=1"), flags=(), folder=str(tmp_path), jobs=jobs))
    for number, (loss, status) in enumerate([(2.0, "finished"), (1.0, "finished"), (0.5, "failed")]):
        write_job(folder.path, number, loss, status)
        error = "no room\nat all" if status == "failed" else None
        folder.record(JobRecord(number=number, overrides=jobs[number], directory=str(number), error=error))
    assert sweep.report(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split()[:4] for line in lines if re.match(r" +[-\d]+  +\d ", line)]
    assert rows == [
        ["1", "2", "8", "finished"], ["2", "1", "4", "finished"], ["-", "3", "16", "failed"],
        ["-", "4", "32", "waiting"],
    ]  # fmt: skip
    assert "4 jobs: 2 finished, 1 failed, 1 waiting" in lines
    assert f"Best by validation loss: job 2 of 4: lora.r=8, in {folder.path}/1" in lines
    assert "job 3 failed: no room" in lines
    assert f"What is not finished goes on with: ftlab resume '{folder.path}'" in lines


@pytest.mark.kill
@pytest.mark.parametrize("how", ["same command", "resume"])
def test_a_sweep_that_is_killed_ends_as_one_that_was_not(tmp_path, ftlab, env, how):
    rows = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("-m", "lora.r=2,4,8", *BARE, "train.max_steps=12", "train.save_steps=2", "data.path=rows.jsonl",
             "data.format=alpaca")  # fmt: skip
    alone = ftlab(*given, "hydra.sweep.dir=alone")
    assert alone.returncode == 0, alone.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab", *given], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not [*tmp_path.glob("outputs/sweep-*/1/phases/*/checkpoint-4/checkpoint.json")]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "outputs").glob("sweep-*")
    if how == "same command":
        done = ftlab(*given)
    else:  # from another folder
        line = [sys.executable, "-m", "ftlab", "resume", f"../outputs/{folder.name}"]
        done = subprocess.run(line, cwd=tmp_path / "alone", env=env, capture_output=True, text=True)
        assert (tmp_path / "outputs" / "latest").resolve() == folder / "2"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continuing from" in done.stdout and "1 of 3 jobs are finished" in done.stdout
    for name in ("0", "1", "2"):
        ours, theirs = RunDir.open(folder / name), RunDir.open(tmp_path / "alone" / name)
        assert final_hash(ours) == final_hash(theirs)
        assert logged(ours) == logged(theirs)
    assert len(RunDir.open(folder / "0").manifest()["starts"]) == 1
