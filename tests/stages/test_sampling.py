"""A policy of whose probabilities nothing can be drawn ends the run in words, with the rows and the last good state."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainerCallback

from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import DivergedError
from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.directory import RunDir
from tests.runs import train_run

SHORT = (
    "model=tiny_instruct", "train.max_steps=4", "train.save_steps=1", "train.save_total_limit=null",
    "train.logging_steps=1", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1", "data.max_samples=16",
    "data.split.validation=none", "data.split.golden=none", "eval.samples=0", "eval.golden_rows=0", "tracker=none",
    "hardware.precision=fp32", "stage.rewards=['length:20']", "stage.max_new_tokens=4",
)  # fmt: skip
OF_STAGE = {
    "ppo": ("stage.rollout_batch_size=4", "stage.mini_batch_size=4", "stage.ppo_epochs=1"),
    "grpo": ("stage.num_generations=2",),
}


@pytest.fixture
def struck(tmp_path):
    """``struck("ppo", step, value)``: what a run says whose weights become ``value`` as a step begins."""

    def run(stage: str, step: int, value: float) -> str:
        class Strike(TrainerCallback):
            def on_step_begin(self, args, state, control, model=None, **_):
                if state.global_step == step:
                    for parameter in (p for p in model.parameters() if p.requires_grad):
                        parameter.data.fill_(value)

        class Struck(PhaseHooks):
            def trainer_built(self, phase, trainer):
                trainer.add_callback(Strike())

        with pytest.raises(DivergedError) as caught:
            train_run(tmp_path / "run", f"stage={stage}", *SHORT, *OF_STAGE[stage], hooks=Struck())
        return str(caught.value)

    return run


@pytest.mark.parametrize("stage", OF_STAGE)
def test_probabilities_that_are_no_numbers(stage, struck, tmp_path):
    """The weights are numbers still, but too large to compute with."""
    said = struck(stage, 2, torch.finfo(torch.float32).max)
    assert said.startswith(
        "The policy's probabilities are no numbers, and no answer can be sampled at step 2: the run has diverged. "
        "Its batch: "
    )
    run_dir = RunDir.open(tmp_path / "run")
    folder = run_dir.path / "phases" / f"01-{stage}"
    assert f"The last good checkpoint is {folder}/checkpoint-2. " in said
    assert sorted(one.name for one in checkpoints(folder) if is_whole(one)) == ["checkpoint-1", "checkpoint-2"]
    assert run_dir.manifest()["status"] == "failed" and run_dir.manifest()["error"] == said


def test_weights_that_are_no_numbers_are_not_asked_for_answers(struck):
    assert struck("grpo", 1, torch.nan).startswith("A weight of the policy is no longer a number at step 1: ")


def test_a_model_that_nothing_can_be_sampled_of_to_begin_with(struck):
    said = struck("grpo", 0, torch.nan)
    assert said == (
        "A weight of the policy is no longer a number before the first step: look at model.path and model.adapter, or "
        "give another hardware.precision."
    )
