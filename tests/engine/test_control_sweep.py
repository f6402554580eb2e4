"""``ftlab control`` of a sweep that is at work, from another process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlab.config.clones import clone_mistakes
from ftlab.rundir.directory import RunDir
from ftlab.rundir.lock import RunLock
from ftlab.rundir.sweep import SweepDir
from tests.runs import BARE, final_hash, logged, make_run, train_run

LAST = 200  # steps: all commands have to be obeyed before the last run ends
STEPS = (
    *BARE, f"train.max_steps={LAST}", "train.logging_steps=1", "train.save_steps=40", "hardware=cpu",
    "lora.dropout=0.1", "data.max_samples=100", "train.lr_scheduler=linear", "train.micro_batch_size=2",
)  # fmt: skip


class Sweep:
    """A sweep in a process of its own, in the folder ``s``."""

    def __init__(self, tmp_path: Path, env: dict[str, str], *words: str):
        self.path = tmp_path / "s"
        self._log = tmp_path / "log.txt"
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "ftlab", "-m", *words, *STEPS, "hydra.sweep.dir=s"]
            self.process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)

    def wait_for(self, job: int, step: int = 1) -> None:
        """Until a job, by its number from 0, has come so far."""
        while self.step(job) < step:
            assert self.process.poll() is None, self.log
            time.sleep(0.05)

    def step(self, job: int) -> int:
        last = RunDir(self.path / str(job)).read_last_metrics()
        return last["step"] if last else 0

    def end(self) -> int:
        return self.process.wait(240)

    def run(self, job: int) -> RunDir:
        return RunDir.open(self.path / str(job))

    @property
    def log(self) -> str:
        return self._log.read_text()


def rates(run: RunDir) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in run.read_metrics() if "learning_rate" in line}


@pytest.mark.parametrize("launcher", [
    pytest.param("shards", marks=pytest.mark.matrix), pytest.param("gpus", marks=pytest.mark.kill),
])  # fmt: skip
def test_every_verb_on_a_sweep_at_work(launcher, ftlab, each, tmp_path, env):
    more = ["hydra.launcher.devices=2"] if launcher == "gpus" else []
    sweep = Sweep(tmp_path, env, "lora.r=4,8", f"hydra/launcher={launcher}", *more)
    sweep.wait_for(1, 3)
    lines = (
        "control s pause 2 wait=60",
        "control s clone 1 wait=60",
        "control s clone 1 train.learning_rate=2e-3 wait=60",
        "control s clone 1 lora.r=6 schedule=restart train.max_steps=5 wait=60",
        "control s clone 1 seed=7 weights=scratch train.max_steps=9000 wait=60",
        "control s set 6 train.learning_rate=1e-5 wait=60",
        "control s stop 6 wait=60",
        "control s",
        "control s resume 2",
    )
    done = each([*lines])
    assert [one.stderr for one in done.values()] == [""] * len(lines)
    told = [one.stdout.strip() for one in done.values()]
    assert sweep.end() == 0, sweep.log
    expected = (
        r"job 2, s/1 paused after step \d+",
        r"job 3 is a clone of job 1 after step (\d+): nothing changed",
        r"job 4 is a clone of job 1 after step (\d+): train.learning_rate=2e-3",
        r"job 5 is a clone of job 1 after step (\d+): lora.r=6 train.max_steps=5",
        r"job 6 is a clone of job 1, from scratch: seed=7 train.max_steps=9000",
        r"job 6, s/5 changed after step (\d+): train.learning_rate=1e-05",
        r"job 6, s/5 stopped after step (\d+)",
        r"(?s).*job 2: pause at [\d:]+, after step \d+\n.*job 6: stop at [\d:]+, after step \d+",
        r"job 2, s/1 goes on.",
    )
    steps = []
    for pattern, line in zip(expected, told, strict=True):
        match = re.fullmatch(pattern, line)
        assert match, (pattern, line)
        steps += [int(word) for word in match.groups()]
    same, faster, _, changed, stopped = steps

    alone = train_run(tmp_path / "alone", *STEPS, "lora.r=4")
    other = train_run(tmp_path / "other", *STEPS, "lora.r=8")
    for number, equal in ((0, alone), (1, other), (2, alone)):  # a clone with nothing changed is its parent
        assert logged(sweep.run(number)) == logged(equal), number
        assert final_hash(sweep.run(number)) == final_hash(equal), number
    cloned, parent = rates(sweep.run(3)), rates(alone)
    assert cloned[faster + 1] == 2e-3, "the first step of its own has what was asked for"
    assert cloned[faster] == parent[faster], "before that it is its parent"
    assert cloned[LAST] == pytest.approx(2e-3 * parent[LAST] / parent[faster + 1])
    wide, scratch = sweep.run(4), sweep.run(5)
    assert wide.plan().phases[0].config.lora.r == 6
    assert [*rates(wide)] == [1, 2, 3, 4, 5]
    assert scratch.plan().phases[0].config.lora.r == 4, "another clone's rank is its own"
    assert not [*(sweep.path / "0" / "clones").iterdir()], "what was put aside for clones is with them"
    first = {number: next(line["loss"] for line in sweep.run(number).read_metrics()) for number in (0, 4, 5)}
    assert first[4] < first[0] - 1, "it begins with what its parent had learned"
    assert first[5] > first[0] - 1
    assert [*rates(scratch)][-1] == stopped
    assert changed == stopped or rates(scratch)[changed + 1] == 1e-5
    assert scratch.manifest()["status"] == "stopped"
    assert json.loads((sweep.path / "job-5.json").read_text())["stopped"] == "ftlab control"
    clones = SweepDir(sweep.path).journal().clones
    assert {number: (one.parent, one.step) for number, one in clones.items()} == {
        2: (0, same), 3: (0, faster), 4: (0, steps[2]), 5: (0, None)
    }  # fmt: skip
    made_for = sweep.run(0).plan().phases[0].config.train.learning_rate
    lineage = {"run": "../0", "phase": "sft", "step": faster, "learning_rate": made_for}
    assert sweep.run(3).manifest()["clone"] == lineage
    refused = ftlab("reproduce", "s/3")
    assert f"s/3 is a clone of ../0 after step {faster}, and begins with weights that no config makes" in refused.stderr
    again = ftlab("-m", "lora.r=4,8", f"hydra/launcher={launcher}", *more, *STEPS, "hydra.sweep.dir=s")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("finished already") == 5
    assert re.search(r"job 6 of 6: .*: was stopped early, in s/5: ftlab control", again.stdout)


@pytest.mark.kill
def test_a_sweep_with_clones_that_is_killed_goes_on_with_them(ftlab, tmp_path, env):
    words = ("lora.r=4,8", "hydra/launcher=shards")
    sweep = Sweep(tmp_path, env, *words)
    sweep.wait_for(0, 10)
    assert "is a clone of job 1" in ftlab("control", "s", "clone", "1", "wait=60").stdout
    sweep.wait_for(2, SweepDir(sweep.path).journal().clones[2].step + 2)
    sweep.process.kill()
    sweep.process.wait()
    done = ftlab("-m", *words, *STEPS, "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stdout + done.stderr
    alone = train_run(tmp_path / "alone", *STEPS, "lora.r=4")
    for number in (0, 2):
        assert logged(sweep.run(number)) == logged(alone)
        assert final_hash(sweep.run(number)) == final_hash(alone)


@pytest.mark.matrix
def test_what_is_paused_when_nothing_else_is_left(ftlab, tmp_path, env):
    """The sweep ends, and says how it goes on; paused it stays until somebody says otherwise."""
    words = ["seed=1,2", "hydra/launcher=basic"]
    sweep = Sweep(tmp_path, env, *words)
    sweep.wait_for(0, 2)
    assert "paused after step" in ftlab("control", "s", "pause", "1", "wait=60").stdout
    assert sweep.end() == 0, sweep.log
    assert "job 1 is paused; ftlab control s resume 1 lets it go on" in sweep.log
    assert sweep.run(1).manifest()["status"] == "finished"
    left = ftlab("resume", "s")
    assert "is paused. Go on with" in left.stdout
    assert "Nobody is at work here; go on with: ftlab resume s" in ftlab("control", "s", "resume", "1").stdout
    assert ftlab("resume", "s").returncode == 0
    assert final_hash(sweep.run(0)) == final_hash(train_run(tmp_path / "alone", *STEPS, "seed=1"))


@pytest.mark.matrix
def test_a_clone_that_cannot_be_is_refused(each, tmp_path):
    """Of a sweep that is over, whose lock is held as if it were at work."""
    words = "eval.golden_rows=0 eval.samples=0 tracker=none data.split.golden=none data.split.validation=none "
    words += "train.max_steps=1 hardware=cpu"
    two = "'phases=[{name: one, stage: sft}, {name: two, stage: sft}]'"
    made = each([
        f"-m lora.r=4,8 {words} hydra/launcher=shards hydra.sweep.dir=s",
        f"-m seed=1,2 {words} hydra.sweep.dir=basic",
        f"-m seed=1,2 {words} {two} hydra/launcher=shards hydra.sweep.dir=curriculum",
        "control s clone 1",
    ])  # fmt: skip
    *sweeps, idle = made.values()
    assert [one.returncode for one in sweeps] == [0, 0, 0], sweeps
    assert "nobody is at work in s. Have it go on first: ftlab resume s" in idle.stderr
    wrong = {
        "control s clone": "task.job: is missing: ftlab control s clone N, a job from 1 to 2",
        "control s clone 3": "task.job=3: is no job of s. Those that have: 1, 2",
        "control s/0 clone": "is for a sweep, whose process trains the clone too",
        "control s clone 1": "job 1, s/0 has taken all its steps; schedule=restart begins with its weights",
        "control s clone 1 lora=dora schedule=restart": "cannot change in a clone that begins with its parent's",
        "control s clone 1 method=full schedule=restart": "method.name=full: cannot change",
        "control s clone 1 lora.rank=16 schedule=restart": "lora.rank",
        "control s clone 1 train.learning_rate=-1 schedule=restart": "train.learning_rate",
        "control s clone 1 schedule=later": "task.schedule",
        "control basic clone 1": "needs hydra/launcher=shards or gpus",
        "control curriculum clone 1": "has several phases",
    }  # fmt: skip
    with RunLock(tmp_path / "s"), RunLock(tmp_path / "basic"), RunLock(tmp_path / "curriculum"):
        refused = each([*wrong])
    for line, done in refused.items():
        assert done.returncode == 1, (line, done.stdout)
        assert wrong[line] in done.stderr, (line, done.stderr)
        assert "Traceback" not in done.stderr
    assert not [*tmp_path.glob("*/*/control.jsonl")], "nothing of it was asked for"


@pytest.mark.parametrize(("changes", "wrong"), [
    (("train.learning_rate=1", "lora.dropout=0.5", "train.max_grad_norm=2"), []),
    (("train.micro_batch_size=3",), ["train.micro_batch_size"]),
    (("lora.r=32",), ["lora.r"]),
    (("seed=2", "data.max_samples=5"), ["seed", "data.max_samples"]),
    (("train.max_steps=500",), ["train.max_steps"]),
    (("train.weight_decay=0.1",), ["train.weight_decay"]),
])  # fmt: skip
def test_what_a_clone_that_goes_on_may_change(changes, wrong):
    parent, clone = make_run(), make_run(*changes)
    found = clone_mistakes(parent, clone, changes, "continue", "parent")
    assert sorted(mistake.key for mistake in found) == sorted(wrong)
    assert clone_mistakes(parent, clone, changes, "restart", "scratch") == []
