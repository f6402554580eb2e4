"""A loss that is no number stops the run at its step, with its rows named and no checkpoint of what came after."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import DivergedError
from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.directory import RunDir
from ftlab.stages.trainer.batching import rows_of_step
from ftlab.stages.trainer.divergence import SpikeDetector
from tests.conftest import ROOT
from tests.runs import metrics, train_run

TINY = ROOT / "models" / "tiny"
POISON = "\u00a4"  # a sign that nobody needs: the byte of it that makes a token of its own
SHORT = (
    "model=tiny", "train.max_steps=30", "train.save_steps=1", "train.save_total_limit=null", "train.logging_steps=1",
    "train.warmup_ratio=0", "train.learning_rate=1e-4", "train.gradient_accumulation_steps=2", "eval.samples=0",
    "eval.golden_rows=0", "tracker=none", "hardware.precision=fp32", "data.split.validation=none",
    "data.split.golden=none", "train.micro_batch_size=2", "data.max_length=64", "data.cache=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory) -> Path:
    """The embedded model, with an embedding that is no number for a token of ``POISON``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("poisoned") / "model"
    shutil.copytree(TINY, folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(POISON, add_special_tokens=False)["input_ids"]
    model.get_input_embeddings().weight.data[ids] = torch.nan
    model.save_pretrained(folder)
    return folder


def rows(stage: str, count: int, bad: int) -> list[dict]:
    """Rows of a stage's format; the row numbered ``bad``, from 1, holds the poison."""
    found = []
    for number in range(1, count + 1):
        word = POISON if number == bad else "seven"
        question, answer = f"Which is {number}th?", f"It is the {word} of {number}."
        found.append(
            {
                "pt": {"text": f"{question} {answer}"},
                "sft": {"instruction": question, "output": answer},
                "kto": {"prompt": question, "completion": answer, "label": number % 2 == 0},
            }.get(stage, {"prompt": question, "chosen": answer, "rejected": f"None of {number}."})
        )
    return found


FORMATS = {"pt": "text", "sft": "alpaca", "kto": "kto"}


def stopped(folder: Path, stage: str, model: Path, bad: int, *overrides: str) -> tuple[str, RunDir]:
    """What a run says that a row stops, and its directory."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(stage, 40, bad)))
    with pytest.raises(DivergedError) as caught:
        train_run(
            folder / "run", f"stage={stage}", *SHORT, f"model.path={model}", f"data.path={file}",
            f"data.format={FORMATS.get(stage, 'preference')}", *overrides,
        )  # fmt: skip
    return str(caught.value), RunDir.open(folder / "run")


def whole_steps(run_dir: RunDir) -> list[int]:
    (phase,) = (run_dir.path / "phases").iterdir()
    assert not (phase / "final").exists()
    return sorted(int(c.name.rpartition("-")[2]) for c in checkpoints(phase) if is_whole(c))


def named(said: str) -> list[int]:
    """Numbers of the rows that a message names."""
    part = said.partition("Its batch: ")[2].partition(" No checkpoint")[0].partition(" The last good")[0]
    return [int(place.rpartition(":")[2]) for place in part.removesuffix(".").split(", ")]


def step_of(said: str) -> int:
    return int(said.partition(" at step ")[2].partition(":")[0])


@pytest.mark.parametrize(
    "stage", ["sft", "dpo", "kto", *(pytest.param(stage, marks=pytest.mark.matrix) for stage in ("pt", "rm", "orpo"))]
)
def test_the_step_and_the_rows_of_a_loss_that_is_no_number(stage, poisoned, tmp_path):
    """Rows are packed one to a row, so that a micro-batch has two of them."""
    bad = rows_of_step(5, 40, 2, 2, 1, 42)[1][0] + 1
    said, run_dir = stopped(tmp_path, stage, poisoned, bad, "data.packing=false")
    step = step_of(said)
    assert step == 5 or stage == "kto", "whose rows borrow the answers of others"
    assert said.startswith(f"The loss is nan at step {step}: the run has diverged. Its batch: {tmp_path}/rows.jsonl:")
    assert bad in named(said)
    assert len(named(said)) == (4 if stage == "kto" else 2), "the micro-batch; of kto the rows that lend an answer too"
    assert whole_steps(run_dir) == list(range(1, step))
    assert metrics(run_dir, "loss") and all(map(math.isfinite, metrics(run_dir, "loss")))
    assert len(metrics(run_dir, "loss")) == step - 1
    assert said.endswith(f" To see the rows: ftlab inspect {run_dir.path} step={step}")
    manifest = run_dir.manifest()
    assert manifest["status"] == "failed" and manifest["error"] == said
    if step > 1:
        assert f"The last good checkpoint is {run_dir.path}/phases/01-{stage}/checkpoint-{step - 1}." in said
    else:
        assert "No checkpoint was written before it." in said


@pytest.mark.parametrize("stage", ["sft", pytest.param("dpo", marks=pytest.mark.matrix)])
def test_packed_rows_and_steps_between_logs(stage, poisoned, tmp_path, monkeypatch):
    """Nothing is looked at until a step is logged, and yet the first bad one is named."""
    from ftlab.stages.trainer.divergence import WatchedTrainer

    said, _ = stopped(tmp_path, stage, poisoned, 23)
    looks = []
    look = WatchedTrainer._check_steps

    def noted(self):
        looks.append(self.state.global_step)
        look(self)

    monkeypatch.setattr(WatchedTrainer, "_check_steps", noted)
    (tmp_path / "later").mkdir()
    later, run_dir = stopped(tmp_path / "later", stage, poisoned, 23, "train.logging_steps=7", "train.save_steps=100")
    assert step_of(later) == step_of(said) and named(later) == named(said) and 23 in named(said)
    assert set(looks) <= {1, 7, 14, 21, 28, 30}
    assert whole_steps(run_dir) == []


@pytest.mark.parametrize(("bad", "what"), [("gradient", "The norm of the gradients is nan"), ("weight", "A weight is")])
@pytest.mark.parametrize("stage", ["sft", pytest.param("rm", marks=pytest.mark.matrix), "ppo", "grpo"])
def test_what_diverged_is_never_written(stage, bad, what, tmp_path, monkeypatch):
    """A gradient or a weight that is no number at step 2, whatever the loss was."""

    class Struck(PhaseHooks):
        def trainer_built(self, phase, trainer):
            from transformers import TrainerCallback

            class Strike(TrainerCallback):
                def on_optimizer_step(self, args, state, control, model=None, **_):
                    if bad == "weight" and state.global_step == 1:
                        next(p for p in model.parameters() if p.requires_grad).data.fill_(torch.inf)

            trainer.add_callback(Strike())
            if bad == "gradient":
                norm_of = trainer._get_grad_norm

                def struck(model, grad_norm=None):
                    found = norm_of(model, grad_norm=grad_norm)
                    return found * torch.nan if trainer.state.global_step == 1 else found

                trainer._get_grad_norm = struck

    more = {
        "ppo": ("stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.ppo_epochs=2"),
        "grpo": ("stage.num_generations=2",),
    }.get(stage, ())
    (tmp_path / "rewards.py").write_text(
        "def differs(completions, **_):\n    return [float(i % 2) for i, _ in enumerate(completions)]\n"
    )
    rewards = (f"stage.rewards=[{tmp_path}/rewards.py:differs]", "stage.max_new_tokens=8") if more else ()
    with pytest.raises(DivergedError) as caught:
        train_run(
            tmp_path / "run", f"stage={stage}", *SHORT, "data.max_samples=16", "train.max_steps=4", *more, *rewards,
            hooks=Struck(),
        )  # fmt: skip
    run_dir = RunDir.open(tmp_path / "run")
    assert str(caught.value).startswith(what) and " at step 2:" in str(caught.value)
    assert named(str(caught.value).replace(" and ", ", ").partition(" more, all")[0])
    assert whole_steps(run_dir) == [1]


def test_a_spike_is_told_with_its_rows_and_goes_on(tmp_path):
    """One row whose answer nobody could expect, among rows that are soon known by heart."""
    lines = [{"instruction": "Say it.", "output": "one two three"} for _ in range(60)]
    bad = rows_of_step(40, 60, 1, 1, 1, 42)[0][0]
    lines[bad]["output"] = "zq xj vk qz jx kv wq " * 5
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ("stage=sft", *SHORT, f"data.path={file}", "data.format=alpaca", "data.packing=false",
             "train.gradient_accumulation_steps=1", "train.micro_batch_size=1", "train.learning_rate=3e-3",
             "train.max_steps=60", "train.save_steps=100")  # fmt: skip
    run_dir = train_run(tmp_path / "run", *given, "train.loss_spike=1.5")
    (line,) = [line for line in run_dir.log.read_text().splitlines() if "(train.loss_spike)" in line]
    look = f"ftlab inspect {run_dir.path} step=40"
    assert "times the usual" in line and line.endswith(f"Its batch: {file}:{bad + 1}. To see the rows: {look}")
    losses = metrics(run_dir, "loss")
    assert "step 40: the loss is " in line and losses[39] == max(losses[20:]) and len(losses) == 60
    quiet = train_run(tmp_path / "quiet", *given, "train.loss_spike=null")
    assert "(train.loss_spike)" not in quiet.log.read_text()
    assert metrics(quiet, "loss") == losses, "watching changes nothing"


def test_spikes_are_measured_by_the_start_and_by_what_came_last():
    spikes = SpikeDetector(5.0)
    assert [spikes.usual_value(100.0) for _ in range(19)] == [None] * 19 and spikes.usual_value(1e9) is None, (
        "nothing to go by yet"
    )
    assert spikes.usual_value(499.0) is None and spikes.usual_value(501.0) == 100.0
    for _ in range(200):
        assert spikes.usual_value(0.01) is None
    assert spikes.usual_value(400.0) is None, "many times the median of late, but no more than at the start"
    assert spikes.usual_value(-1e9) is None


@pytest.mark.parametrize(("rows", "batch", "accumulation", "devices"), [(10, 2, 2, 1), (11, 2, 3, 1), (12, 1, 1, 1)])
def test_a_steps_rows_are_those_that_the_trainer_takes(rows, batch, accumulation, devices, tmp_path):
    """Over two epochs and a half, with rests."""
    from transformers import Trainer, TrainingArguments

    taken: list[list[int]] = []

    class Noting(Trainer):
        def compute_loss(self, model, inputs, **_):
            taken.append(inputs["row"].tolist())
            return model.weight.sum()

    args = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, seed=7,
        data_seed=7, num_train_epochs=3, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    data = [{"row": index} for index in range(rows)]
    trainer = Noting(model=torch.nn.Linear(1, 1), args=args, train_dataset=data)
    trainer.train()
    steps = trainer.state.global_step
    said = [part for step in range(1, steps + 1) for part in rows_of_step(step, rows, batch, accumulation, 1, 7)]
    assert said == taken


def test_a_sweeps_keys_have_the_factor(mistakes):
    (said,) = mistakes("train.loss_spike=0.5")
    assert said == "train.loss_spike=0.5: must be greater than 1"
    assert mistakes("train.loss_spike=null") == []
