"""What a user asks of a run while it is at work: obeyed at a step, and at the same one when it goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import TrainerCallback

from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.tasks import prepare, train
from ftlab.errors import Interrupted
from ftlab.rundir.checkpoints import is_whole
from ftlab.rundir.control import ControlJournal, state_after
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.runs import BARE, final_hash, held_out, logged, make_run, resume_run, train_run
from tests.wrappers import STAGES

STEPS = (
    *BARE, "train.max_steps=12", "train.logging_steps=1", "train.save_steps=3", "train.lr_scheduler=linear",
    "train.warmup_steps=2", "train.learning_rate=1e-3", "hardware=cpu", "lora.dropout=0.1",
    "train.save_total_limit=null",
)  # fmt: skip


class Ask(PhaseHooks):
    """Asks a run for something as soon as it has come to a step, as another process would. :param asks: by step."""

    def __init__(self, **asks):
        self.asks = {int(step.removeprefix("step_")): ask for step, ask in asks.items()}

    def trainer_built(self, phase, trainer):
        asks, folder = self.asks, phase.run_dir.path

        class Asks(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                verb, values = asks.pop(state.global_step + 1, (None, {}))
                if verb is not None:
                    ControlJournal(folder).append(verb, **({"values": values} if values else {}))

        trainer.add_callback(Asks())


def controlled(folder: Path, hooks: PhaseHooks, *overrides: str) -> RunDir:
    given = (*overrides, f"run.dir={folder}")
    train(make_run(*given), given, hooks)
    return RunDir.open(folder)


def rates(run: RunDir) -> dict[int, float]:
    return {line["step"]: line["learning_rate"] for line in run.read_metrics() if "learning_rate" in line}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("alone") / "r", *STEPS)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> RunDir:
    """A run whose learning rate is set after its fifth step."""
    folder = tmp_path_factory.mktemp("changed") / "r"
    return controlled(folder, Ask(step_5=("set", {"train.learning_rate": 4e-3})), *STEPS)


def test_a_rate_holds_from_the_next_step_and_keeps_the_shape_of_the_schedule(alone, changed):
    before, after = rates(alone), rates(changed)
    assert [after[step] for step in range(1, 6)] == [before[step] for step in range(1, 6)]
    assert after[6] == 4e-3, "step 6 is the first after it was asked for"
    for step in range(7, 13):
        assert after[step] == pytest.approx(4e-3 * before[step] / before[6], rel=1e-12)
    (done,) = changed.manifest()["control"]
    assert (done["step"], done["values"], done["before"]) == (
        5,
        {"train.learning_rate": 4e-3},
        {"train.learning_rate": 1e-3},
    )
    assert "train.learning_rate is 0.004 after step 5, and was 0.001" in changed.log.read_text()
    assert final_hash(changed) != final_hash(alone)


@pytest.mark.matrix
def test_a_run_that_was_changed_on_its_way_can_be_made_again(alone, changed, ftlab, tmp_path):
    done = ftlab("reproduce", str(changed.path), f"out={tmp_path / 'again'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tmp_path / 'again'} is the same as {changed.path}, in its weights and in its metrics" in done.stdout
    assert "environment: no difference" in done.stdout
    told = ftlab("diff", str(alone.path), str(changed.path)).stdout
    assert re.search(r"train.learning_rate after step 5 of sft +\(none\) +0.004", told), told


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_that_goes_on_obeys_at_the_same_steps(step, changed, tmp_path):
    """From a checkpoint before the change, and from one after it."""
    folder = tmp_path / "r"
    stop = Ask(step_5=("set", {"train.learning_rate": 4e-3}), step_8=("pause", {}))
    with pytest.raises(Interrupted):
        controlled(folder, stop, *STEPS)
    ControlJournal(folder).append("resume")
    given = (*STEPS, f"run.checkpoint={step}", f"run.dir={folder}")
    train(make_run(*given), given)
    again = RunDir.open(folder)
    assert logged(again) == logged(changed)
    assert final_hash(again) == final_hash(changed)


def test_a_rate_that_is_set_while_it_warms_up_ends_the_warm_up(tmp_path):
    words = [word for word in STEPS if "warmup" not in word and "max_steps" not in word]
    run = controlled(tmp_path / "r", Ask(step_2=("set", {"train.learning_rate": 2e-3})), *words,
                     "train.warmup_steps=4", "train.max_steps=6")  # fmt: skip
    assert list(rates(run).values()) == pytest.approx([0, 2.5e-4, 2e-3, 2e-3, 2e-3, 1e-3])


def test_a_run_that_is_paused_goes_on_as_if_it_had_not_been(alone, tmp_path, capsys):
    folder = tmp_path / "r"
    with pytest.raises(Interrupted, match=f"Paused after step 4. Go on with: ftlab resume {folder}"):
        controlled(folder, Ask(step_4=("pause", {})), *STEPS)
    assert RunDir.open(folder).manifest()["status"] == "paused"
    given = (*STEPS, f"run.dir={folder}")
    with pytest.raises(Interrupted, match=f"{folder} is paused. Go on with"):
        train(make_run(*given), given)  # whoever only gives the command again, as a sweep does, leaves it so
    run = resume_run(folder)
    assert logged(run) == logged(alone)
    assert final_hash(run) == final_hash(alone)


def test_a_run_that_is_stopped_is_trained_to_the_end_after_all(alone, tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(Interrupted, match="Stopped after step 7"):
        controlled(folder, Ask(step_7=("stop", {})), *STEPS)
    assert RunDir.open(folder).manifest()["status"] == "stopped"
    run = resume_run(folder)
    assert final_hash(run) == final_hash(alone)


def test_a_clone_is_asked_for_and_says_nothing_of_the_run_itself(alone, tmp_path):
    """Its checkpoint is put aside, also where the run was killed before that and after it had obeyed a later line."""
    given = (*STEPS, f"run.dir={tmp_path / 'r'}")
    run = prepare(make_run(*given), given)
    journal = ControlJournal(run.path)
    journal.append("clone", values={"lora.r": 6.0, "lora.alpha": 4.0})
    line = journal.append("set", values={"train.logging_steps": 1})
    later = {"line": line, "verb": "set", "phase": "sft", "step": 1, "values": {"train.logging_steps": 1.0}}
    Manifest(run).record(control=[later])
    run = train_run(run.path, *STEPS)
    assert run.manifest()["control"] == [later, {"line": 0, "verb": "clone", "phase": "sft", "step": 1}]
    assert is_whole(journal.clone_folder(0) / "checkpoint-1")
    assert final_hash(run) == final_hash(alone)


def test_how_often_it_logs_saves_and_evaluates_and_what_else_may_change(tmp_path):
    values = {
        "train.logging_steps": 4, "train.save_steps": 5, "eval.steps": 5, "train.max_grad_norm": 1e-6,
        "train.weight_decay": 0.5,
    }  # fmt: skip
    words = ("train.weight_decay=0.1", held_out(tmp_path, "instructions"))
    run = controlled(tmp_path / "r", Ask(step_3=("set", values)), *STEPS, *words)
    lines = [*run.read_metrics()]
    assert [line["step"] for line in lines if "learning_rate" in line] == [1, 2, 3, 4, 8, 12]
    assert {line["step"] for line in lines if "eval_loss" in line} >= {5, 10}
    assert sorted(int(path.name.split("-")[1]) for path in run.phase("01-sft").glob("checkpoint-*")) == [3, 5, 10, 12]


WORDS = {"trl": ("stage=sft", "train.engine=trl"), **{name: (f"stage={name}", *STAGES[name]) for name in STAGES}}


@pytest.mark.matrix
@pytest.mark.parametrize("words", WORDS.values(), ids=[*WORDS])
def test_every_stage_has_the_rate_that_is_set(words, tmp_path):
    given = (*STEPS, "model=tiny", *words, "train.max_steps=4", "data.max_samples=80")
    run = controlled(tmp_path / "r", Ask(step_2=("set", {"train.learning_rate": 7e-4})), *given)
    assert rates(run)[3] == 7e-4


def test_from_another_process_while_it_is_at_work(ftlab_here, tmp_path, env):
    words = [*BARE, "train.max_steps=2000", "train.logging_steps=1", "hardware=cpu", "train.lr_scheduler=constant"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab", *words, "run.dir=r"], cwd=tmp_path, env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "r"
    while not (folder / "metrics.jsonl").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    done = ftlab_here("control", "r", "set", "train.learning_rate=5e-5", "train.logging_steps=2")
    assert done.returncode == 0, done.stderr
    step = int(
        re.search(r"r changed after step (\d+): train.learning_rate=5e-05, train.logging_steps=2", done.stdout)[1]
    )
    done = ftlab_here("control", "r", "pause")
    assert re.search(r"r paused after step \d+", done.stdout), done.stdout + done.stderr
    assert process.wait(60) == 130
    assert "Paused after step" in process.stderr.read()
    after = {at: rate for at, rate in rates(RunDir.open(folder)).items() if at > step}
    assert after and {*after.values()} == {5e-5}
    done = ftlab_here("control", "r")
    assert "paused" in done.stdout
    assert re.search(r"r: set train.learning_rate=5e-05 train.logging_steps=2 at \S+, after step \d+\n", done.stdout)
    done = ftlab_here("control", "r", "resume")
    assert "Nobody is at work here; go on with: ftlab resume r" in done.stdout


def test_what_cannot_be_is_refused(each, tmp_path):
    over, left = tmp_path / "over", tmp_path / "left"
    train_run(over, *BARE, "train.max_steps=1", "hardware=cpu")
    with pytest.raises(Interrupted):
        controlled(left, Ask(step_1=("pause", {})), *BARE, "train.max_steps=3", "hardware=cpu")
    with pytest.raises(Interrupted):
        controlled(tmp_path / "decaying", Ask(step_1=("pause", {})), *BARE, "train.max_steps=3", "hardware=cpu",
                   "train.weight_decay=0.1")  # fmt: skip
    wrong = {
        "control": "run.dir: is missing: ftlab control outputs/my-sweep list",
        "control nowhere": "nowhere",
        "control over pause": "cannot be done: over is finished",
        "control over set train.learning_rate=1": "cannot be done: over is finished",
        "control left pause": "cannot be done: left is paused already",
        "control left pause 2": "is for a sweep, and left is a run",
        "control left pause lora.r=4": "pause changes nothing; ftlab control left set does",
        "control left set": "Keys that can change while a run is at work: train.learning_rate, ",
        "control left set train.learning_rat=1": "Did you mean train.learning_rate or",
        "control left set lora.r=4": "lora.r=4: is fixed once a run has begun",
        "control left set train.learning_rate=fast": "train.learning_rate=fast: must be a number",
        "control left set train.learning_rate=-1": "train.learning_rate=-1: must be greater than 0",
        "control left set train.save_steps=0.5": "train.save_steps=0.5: must be",
        "control decaying set train.weight_decay=0": "0 would be for good",
        "control left set train.weight_decay=1": "began at 0, and no weight is marked for it",
        "control left jump": "verb",
    }  # fmt: skip
    for line, done in each([*wrong]).items():
        assert done.returncode == 1, line
        assert wrong[line] in done.stderr, (line, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.heavy == [], line
    assert ControlJournal(left).read()[1:] == [], "nothing of it was asked for"


def test_what_is_no_command_is_passed_over(tmp_path):
    journal = ControlJournal(tmp_path)
    assert journal.append("pause") == 0
    with journal.path.open("a") as file:
        file.write('{"verb": "sto')  # as a full disk leaves it
    assert journal.read() == journal.read()[:1]
    assert journal.append("resume") == 2
    first, torn, last = journal.read()
    assert (first.verb, torn, last.verb) == ("pause", None, "resume")
    assert state_after(journal.read()) is None
    assert [json.loads(line) for line in journal.path.read_text().splitlines()[::2]]
