"""Configs of a sweep that take turns on one device: each is to the bit what it would have been alone."""

from __future__ import annotations

import itertools
import json
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlab.engine import shards
from ftlab.engine.work import Listed, Prepared
from ftlab.errors import ConfigError
from ftlab.preflight.sharing import sharing_of
from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.control import ControlJournal
from ftlab.rundir.directory import RunDir
from ftlab.rundir.failures import Failures
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.sweep import SweepDir
from ftlab.schema.launchers import Shards
from tests.runs import BARE, final_hash, held_out, logged, make_run, train_run
from tests.walkthrough import in_terminal
from tests.wrappers import STAGES

BASE = (
    "hardware=cpu", "hardware.precision=fp32", "train.logging_steps=1", "tracker=none", "eval.golden_rows=2",
    "eval.samples=1", "data.max_samples=20", "data.max_length=64", "train.epochs=2", "eval.steps=5",
    "lora.dropout=0.1", "train.micro_batch_size=2",
)  # fmt: skip
SHORT = (*BARE, "train.max_steps=4", "train.logging_steps=1", "data.max_samples=24", "hardware=cpu")
CURRICULUM = (
    "phases=[{name: read, stage: pt}, {name: instruct, stage: sft}, {name: prefer, stage: dpo}]", *SHORT
)  # fmt: skip
KILLED = (*BARE, "train.max_steps=40", "train.logging_steps=1", "train.save_steps=5", "data.max_samples=200",
          "hardware=cpu", "lora.dropout=0.1")  # fmt: skip
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
COMMAND = [sys.executable, "-m", "ftlab", "-m", "lora.r=4,8", "seed=1,2", "hydra/launcher=shards", *KILLED]
DIFFERENT = (
    ("lora.r=4", "train.learning_rate=1e-3", "train.lr_scheduler=cosine", "train.gradient_accumulation_steps=1"),
    ("lora.r=16", "train.learning_rate=3e-4", "train.lr_scheduler=linear", "train.warmup_steps=3"),
    ("lora.r=8", "lora=dora", "train.lr_scheduler=constant_with_warmup", "train.warmup_ratio=0.5"),
    ("lora.r=8", "seed=7", "train.micro_batch_size=1", "data.packing=false"),
)


def take_turns(folder: Path, configs: list[tuple[str, ...]], count: int = 8, resident: int | None = None) -> list[str]:
    """Train configs in turns, each in a folder that is called by its number. Return why some failed."""
    failures: list[str] = []
    options = Shards(shards=count, resident=resident, stop="none", factor=2)
    prepared = [prepare(folder, number, overrides, options) for number, overrides in enumerate(configs)]
    work = Listed(prepared, lambda run, error: failures.append(f"{run.path.name}: {error}"))
    shards.train_all(work, options, SweepDir(folder))
    return failures


def prepare(folder: Path, number: int, overrides: tuple[str, ...], options: Shards) -> Prepared:
    given = (*overrides, f"run.dir={folder / str(number)}")
    return shards.prepare(f"job {number + 1}", make_run(*given), given, options)


class Replacements(Listed):
    """Two configs at a time: whenever one has ended, the next takes its place, and is prepared only then."""

    def __init__(self, folder: Path, configs: list[tuple[str, ...]], options: Shards):
        super().__init__([], lambda run, **why: self.failures.append(f"{run.path.name}: {why}"))
        self._prepare = (prepare(folder, n, overrides, options) for n, overrides in enumerate(configs))
        self._left, self.events, self.failures = len(configs), list[str](), list[str]()

    @property
    def is_open(self) -> bool:
        return self._left > 0

    def take(self, active: int) -> list[Prepared]:
        runs = [*itertools.islice(self._prepare, 2 - active)]
        self._left -= len(runs)
        self.events += [f"{run.path.name} begins" for run in runs]
        return runs

    def leave(self, run: Prepared) -> None:
        self.events.append(f"{run.path.name} ends")


def check_equal(folder: Path, configs: list[tuple[str, ...]]) -> None:
    """That each config has come to what it comes to alone."""
    for number, overrides in enumerate(configs):
        turns, alone = RunDir.open(folder / str(number)), train_run(folder / f"{number}-alone", *overrides)
        assert logged(turns) == logged(alone), overrides
        assert final_hash(turns) == final_hash(alone), overrides
        assert turns.manifest()["status"] == "finished"


def stage_words(stage: str) -> tuple[str, ...]:
    words = tuple(word for word in STAGES[stage] if not word.startswith("data.max_length"))
    few = ("data.max_samples=4",) if stage == "pt" else ()  # of its texts, which are long: 40 steps
    return (f"stage={stage}", "model=tiny", *words, *few)  # whose adapter may have any rank


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("stage", STAGES)
def test_each_config_is_what_it_is_alone(stage, method, tmp_path):
    base = (*BASE, *stage_words(stage), f"method={method}")
    configs = [(*base, *different) for different in DIFFERENT]
    assert take_turns(tmp_path, configs) == []
    check_equal(tmp_path, configs)


@pytest.mark.matrix
def test_the_leaderboard_is_drawn_anew_on_a_terminal(tmp_path, env):
    words = ["lora.r=4,8", "train.learning_rate=1e-4,1e-3", *BARE, "train.max_steps=60", "train.logging_steps=1"]
    command = [sys.executable, "-m", "ftlab", "-m", *words, "hydra/launcher=shards", "hydra.sweep.dir=sweep"]
    said = in_terminal(shlex.join(command), tmp_path, env, "", timeout=300)
    assert said.code == 0, said.text
    frames = "\n".join(said.frames)
    assert "4 jobs: 1 running, 3 new" in frames and "4 jobs: 4 running" in frames
    assert "job 4 of 4: lora.r=8 train.learning_rate=0.001: step 60 of 60, loss " in said.text


@pytest.mark.matrix
def test_two_configs_in_turns_are_what_they_are_alone(tmp_path):
    configs = [(*BASE, *different) for different in DIFFERENT[:2]]
    assert take_turns(tmp_path, configs) == []
    check_equal(tmp_path, configs)


@pytest.mark.parametrize("resident", [None, pytest.param(1, marks=pytest.mark.matrix)])
def test_a_config_that_comes_while_others_are_trained_takes_the_place_of_one_that_has_ended(resident, tmp_path):
    """Of each the weights and measures are what they are alone; the second, of two phases, notices nothing."""
    two = "phases=[{name: read, stage: pt}, {name: instruct, stage: sft}]"
    words = (("seed=1",), ("seed=2", two), ("seed=3", "lora.dropout=0.1"), ("method=full",))
    configs = [(*SHORT, *different) for different in words]
    options = Shards(shards=4, resident=resident, stop="none", factor=2)
    work = Replacements(tmp_path, configs, options)
    shards.train_all(work, options, SweepDir(tmp_path))
    assert work.failures == []
    assert work.events == ["0 begins", "1 begins", "0 ends", "2 begins", "1 ends", "3 begins", "2 ends", "3 ends"]
    check_equal(tmp_path, configs)


@pytest.mark.matrix
@pytest.mark.parametrize("resident", [1, 2])
def test_a_config_that_left_its_place_in_memory_goes_on_as_if_it_had_not(resident, tmp_path):
    configs = [(*BASE, *different) for different in DIFFERENT]
    assert take_turns(tmp_path, configs, 4, resident) == []
    starts = [len(RunDir.open(tmp_path / str(number)).manifest()["starts"]) for number in range(4)]
    assert max(starts) > 1, "nobody had to leave"
    check_equal(tmp_path, configs)


@pytest.mark.matrix
def test_configs_that_share_no_base_take_turns_too(tmp_path):
    """Whole models, parts of them, and adapters whose start takes something out of the base."""
    different = (
        ("method=full",), ("method=freeze", "method.trainable_layers=2"), ("lora=pissa",), ("lora=loraplus",),
        ("method=qlora",), ("lora=rslora",),
    )  # fmt: skip
    configs = [(*BASE, *words) for words in different]
    assert take_turns(tmp_path, configs) == []
    check_equal(tmp_path, configs)


@pytest.mark.matrix
def test_curricula_take_turns_phase_by_phase(tmp_path):
    configs = [(*CURRICULUM, "seed=1"), (*CURRICULUM, "seed=2", "phases.prefer.train.max_steps=5")]
    assert take_turns(tmp_path, configs, count=3) == []
    check_equal(tmp_path, configs)


def test_one_that_fails_or_leaves_the_process_is_one_failure(tmp_path):
    """The others end as if it had not been there."""
    (tmp_path / "rewards.py").write_text(
        "import sys\n"
        "def good(completions, **_):\n    return [len(one) / 10 for one in completions]\n"
        "def leaves(completions, **_):\n    sys.exit(3)\n"
        "def raises(completions, **_):\n    raise KeyError('no such answer')\n"
    )
    base = (*SHORT, "stage=grpo", "stage.num_generations=2", "stage.max_new_tokens=4", "train.micro_batch_size=2")
    configs = [(*base, f"stage.rewards=[{tmp_path}/rewards.py:{name}]") for name in ("good", "leaves", "raises")]
    failures = take_turns(tmp_path, configs)
    assert [failure[:2] for failure in failures] == ["1:", "2:"]
    assert "SystemExit: 3" in failures[0] and "no such answer" in failures[1]
    assert RunDir.open(tmp_path / "1").manifest()["status"] == "failed"
    assert not (tmp_path / "2").exists(), "the reward was tried out before anything was measured"
    check_equal(tmp_path, configs[:1])


def test_the_command_line(ftlab_here, tmp_path):
    """Four configs by name of their differences, the table of a sweep at the end, and each what it is by itself."""
    words = ("lora.r=4,8", "train.learning_rate=1e-4,1e-3", *SHORT)
    done = ftlab_here("-m", *words, "hydra/launcher=shards", "hydra.launcher.shards=2", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 configs take turns, 2 each: about " in done.stdout and "with the base in memory once (" in done.stdout
    title = "job 3 of 4: lora.r=8 train.learning_rate=0.0001"
    assert f"{title}: step 2 of 4, loss " in done.stdout and f"{title}: step 4 of 4, loss " in done.stdout
    assert "sweep sweep" in done.stdout and done.stdout.count("finished") == 4 and done.stderr == ""
    alone = train_run(tmp_path / "alone", "lora.r=8", "train.learning_rate=1e-4", *SHORT)
    turns = RunDir.open(tmp_path / "sweep" / "2")
    assert logged(turns) == logged(alone) and final_hash(turns) == final_hash(alone)
    again = ftlab_here("-m", *words, "hydra/launcher=shards", "hydra.sweep.dir=sweep")
    assert again.returncode == 0 and again.stdout.count(": finished already, in sweep/") == 4, again.stdout


@pytest.mark.matrix
def test_those_that_do_badly_are_stopped_and_the_others_do_not_notice(ftlab, tmp_path):
    """Of six every second goes on after each rung; the rest is as it is without, and stays stopped."""
    rates = ("1e-6", "1e-5", "1e-4", "1e-3", "3e-3", "1e-2")
    held_out(tmp_path, "instructions")
    words = (*SHORT, "train.max_steps=8", "eval.steps=2", "data.split.validation=held_out/instructions.jsonl")
    more = ("hydra/launcher=shards", "hydra.launcher.shards=4", "hydra.launcher.stop=asha", "hydra.launcher.factor=2",
            "sweep.objective=eval_loss", "hydra.sweep.dir=sweep")  # fmt: skip
    done = ftlab("-m", f"train.learning_rate={','.join(rates)}", *words, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("stopped by asha after step 2: eval_loss ") == 3, done.stdout
    assert done.stdout.count("stopped by asha after step 4: eval_loss ") == 2
    assert "was 6 of 6, and 3 went on" in done.stdout and "was 3 of 3, and 1 went on" in done.stdout
    runs = [RunDir.open(tmp_path / "sweep" / str(number)) for number in range(6)]
    statuses = [run.manifest()["status"] for run in runs]
    assert sorted(statuses) == ["finished"] + 5 * ["stopped"], statuses
    stopped = [run for run, status in zip(runs, statuses) if status == "stopped"]
    steps = [[int(path.name.rpartition("-")[2]) for path in checkpoints(run.phase("01-sft")) if is_whole(path)]
             for run in stopped]  # fmt: skip
    assert sorted(max(found) for found in steps) == [3, 3, 3, 5, 5], "each stops with a checkpoint of its last step"
    best = statuses.index("finished")
    at_first = {n: next(line["eval_loss"] for line in run.read_metrics() if line["step"] == 2 and "eval_loss" in line)
                for n, run in enumerate(runs)}  # fmt: skip
    went_on = sorted(at_first, key=at_first.__getitem__)[:3]
    assert {n for n, run in enumerate(runs) if lines_of(run.metrics)[-1]["step"] > 3} == {*went_on}
    base = [word.replace("held_out/", f"{tmp_path}/held_out/") for word in words]
    alone = train_run(tmp_path / "alone", f"train.learning_rate={rates[best]}", *base)
    assert logged(runs[best]) == logged(alone) and final_hash(runs[best]) == final_hash(alone)
    again = ftlab("-m", f"train.learning_rate={','.join(rates)}", *words, *more)
    assert again.returncode == 0 and again.stdout.count("was stopped early, in sweep/") == 5, again.stdout


WRONG = {
    "-m seed=1,2 hydra/launcher=shards hydra.launcher.stop=hyperband":
        "hydra.launcher.stop=hyperband: must be 'none', 'median' or 'asha'",
    "-m seed=1,2 hydra/launcher=shards hydra.launcher.factor=1": "hydra.launcher.factor=1: must be greater",
    "hydra/launcher=shards": "hydra/launcher=shards: is for the configs of a sweep: add -m, or leave it out",
    "-m seed=1,2 hydra/launcher=shards hydra.launcher.shards=0": "hydra.launcher.shards=0: must be greater",
    "-m seed=1,2 hydra/launcher=shards hydra.launcher.shard=4":
        "hydra.launcher.shard=4: no such key. Keys of the launcher: shards, resident, stop, factor. Did",
    "-m seed=1,2 hydra/launcher=shards hydra.launcher.resident=0": "hydra.launcher.resident=0: must be greater",
}  # fmt: skip


def test_wrong_words_are_told_before_anything_begins(each):
    for words, done in each([*WRONG]).items():
        assert done.returncode == 1 and WRONG[words] in done.stderr, (words, done.stderr)
        assert done.heavy == [] and done.left == [], words


@pytest.mark.matrix
def test_a_job_that_begins_again_leaves_alone_what_is_over(tmp_path, env):
    """What has failed in it, what is finished, what its user has stopped; a damaged one is told, and ends no other."""
    options = Shards(shards=2, resident=None, stop="none", factor=2)
    failed, stopped, damaged, left = (
        prepare(tmp_path, n, (*SHORT, "train.max_steps=2"), options).path for n in range(4)
    )
    finished = train_run(tmp_path / "finished", *SHORT, "train.max_steps=2").path
    failures = Failures(tmp_path / "failures")
    failures.write(failed, "no reward today")
    ControlJournal(stopped).append("stop")
    Manifest(RunDir(stopped)).record(status="stopped")
    (damaged / "run.yaml").write_text("phases: [")
    before = RunDir(finished).manifest()
    paths = [str(path) for path in (failed, finished, stopped, damaged, left)]
    turns = ["--shards", "2", "--failures", str(failures.folder)]
    done = subprocess.run([sys.executable, "-m", "ftlab.engine.shards", *turns, *paths], cwd=tmp_path, env=env, **PIPES)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("1 configs take turns")
    assert RunDir(left).manifest()["status"] == "finished"
    assert RunDir(finished).manifest() == before
    assert not RunDir(failed).metrics.exists() and not RunDir(stopped).metrics.exists()
    assert failures.read(failed) == "no reward today"
    assert str(damaged) in (failures.read(damaged) or "")
    assert [failures.read(path) for path in (finished, stopped, left)] == [None] * 3


def test_a_run_of_several_machines_cannot_take_turns(tmp_path):
    with pytest.raises(ConfigError, match="takes turns on one machine, and this config is trained on several"):
        take_turns(tmp_path, [(*BASE, "hardware.devices=2", "hardware.nodes=2")])


def test_how_many_stay_in_memory():
    """The base counts once; what each config holds, and what the one at work needs, decide how many fit."""
    one = make_run("model=llama3_8b", "hardware=a100_40gb", "data.max_length=512")
    runs = [one.model_copy(update={"seed": number}) for number in range(64)]
    sharing = sharing_of([[run] for run in runs])
    assert sharing.memory == 40 * 2**30
    assert 14 * 2**30 < sharing.bases < 16 * 2**30, "8 billion weights of 16 bits"
    assert sharing.needed(sharing.places) <= 0.9 * sharing.memory < sharing.needed(sharing.places + 1)
    alone = sharing_of([[runs[0]]])
    assert alone.bases == 0 and alone.needed(1) == pytest.approx(sharing.needed(1))
    small = [run.model_copy(update={"hardware": run.hardware.model_copy(update={"memory_gb": 24.0})}) for run in runs]
    assert sharing_of([[run] for run in small]).places == 1


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_saves_all_and_the_same_command_goes_on(number, tmp_path, env):
    """After ``kill -9`` from the checkpoints that there are."""
    command = [*COMMAND, "hydra.sweep.dir=sweep"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path / "sweep", 5, process)
    process.send_signal(number)
    said = process.communicate(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 130, said
        assert "Interrupted. Go on with the same command, or with: ftlab resume sweep" in said[1]
        begun = [RunDir.open(tmp_path / "sweep" / str(n)) for n in range(4)]
        assert all(run.manifest()["status"] == "interrupted" for run in begun if run.metrics.exists())
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    check_sweep(tmp_path / "sweep")


@pytest.mark.kill
@pytest.mark.timeout(1800)
def test_a_sweep_that_is_killed_twenty_times_ends_as_if_nothing_had_been(tmp_path, env):
    moments, kills = random.Random(20), 0
    command = [*COMMAND, "hydra.sweep.dir=sweep", "train.max_steps=160"]
    while kills < 20:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            process.wait(moments.uniform(3, 14))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL), process.stderr.read()
        if process.returncode == 0:
            break
    assert kills > 5, "most of it has to be left when it is killed"
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    check_sweep(tmp_path / "sweep", "train.max_steps=160")


@pytest.mark.kill
def test_early_stopping_that_is_killed_stops_the_same_and_the_others_are_what_they_are_alone(tmp_path, env):
    """Killed after the first rung, and again after the second config has gone on from there."""
    held_out(tmp_path, "instructions")
    rates = ("1e-6", "1e-4", "1e-3", "1e-2")
    words = [f"train.learning_rate={','.join(rates)}", "eval.golden_rows=0", "eval.samples=0", "tracker=none",
             "data.split.golden=none", "data.split.validation=held_out/instructions.jsonl", "train.max_steps=40",
             "train.save_steps=5", "train.logging_steps=1", "eval.steps=10", "hardware=cpu"]  # fmt: skip
    command = [sys.executable, "-m", "ftlab", "-m", *words, "hydra/launcher=shards", "hydra.launcher.shards=4",
               "hydra.launcher.stop=asha", "hydra.launcher.factor=2"]  # fmt: skip
    whole = subprocess.run([*command, "hydra.sweep.dir=whole"], cwd=tmp_path, env=env, **PIPES)
    assert whole.returncode == 0, whole.stderr
    ends = {number: job.stopped for number, job in SweepDir(tmp_path / "whole").records().items()}
    assert sum(why is None for why in ends.values()) == 1 and "asha after step 20" in " ".join(
        filter(None, ends.values())
    )
    for step in (12, 22):
        process = subprocess.Popen([*command, "hydra.sweep.dir=sweep"], cwd=tmp_path, env=env, **PIPES)
        until = time.monotonic() + 200
        while not any(
            line["step"] >= step for n in "0123" for line in lines_of(tmp_path / "sweep" / n / "metrics.jsonl")
        ):
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate()
    done = subprocess.run([*command, "hydra.sweep.dir=sweep"], cwd=tmp_path, env=env, **PIPES)
    assert done.returncode == 0, done.stderr
    assert {number: job.stopped for number, job in SweepDir(tmp_path / "sweep").records().items()} == ends
    best = next(number for number, why in ends.items() if why is None)
    alone = train_run(tmp_path / "alone", *words[1:5], f"data.split.validation={tmp_path}/held_out/instructions.jsonl",
                      *words[6:], f"train.learning_rate={rates[best]}")  # fmt: skip
    for folder in ("whole", "sweep"):
        survivor = RunDir.open(tmp_path / folder / str(best))
        assert logged(survivor) == logged(alone) and final_hash(survivor) == final_hash(alone)


def wait_for_step(sweep: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the second config has logged a step."""
    until = time.monotonic() + 120
    while not any(line["step"] >= step for line in lines_of(sweep / "1" / "metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)


def lines_of(path: Path) -> list[dict]:
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [line for line in map(json.loads, whole) if "loss" in line]


def check_sweep(sweep: Path, *more: str) -> None:
    """That the jobs of ``COMMAND`` are what they are alone."""
    for number, words in enumerate(itertools.product(("lora.r=4", "lora.r=8"), ("seed=1", "seed=2"))):
        alone = train_run(sweep.parent / f"alone-{number}", *words, *KILLED, *more)
        assert logged(RunDir.open(sweep / str(number))) == logged(alone)
        assert final_hash(RunDir.open(sweep / str(number))) == final_hash(alone)
