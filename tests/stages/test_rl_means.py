"""ppo and grpo on every arithmetic and every method: who learns, and that checkpointing changes no gradient."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import across, make_run, metrics, train_run

SHORT = (
    "train.max_steps=3", "train.logging_steps=1", "train.warmup_ratio=0", "train.lr_scheduler=constant",
    "train.learning_rate=1e-3", "data.max_samples=24", "data.split.golden=none", "data.split.validation=none",
    "eval.samples=0", "eval.golden_rows=0", "tracker=none", "stage.max_new_tokens=8", "stage.rewards=['length:9']",
)  # fmt: skip
OF_STAGE = {
    "ppo": ("stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.ppo_epochs=2", "stage.early_stop_kl=null"),
    "grpo": ("stage.num_generations=4", "train.micro_batch_size=8", "train.gradient_accumulation_steps=2"),
}
CHECKPOINTING = "train.gradient_checkpointing=true"


MEANS = {
    "bf16": ("hardware.precision=bf16",),
    "full bf16 checkpointing": ("method=full", "hardware.precision=bf16", CHECKPOINTING),
    "freeze checkpointing": ("method=freeze", CHECKPOINTING),
    "qlora checkpointing": ("method=qlora", CHECKPOINTING),
    "qlora bf16": ("method=qlora", "hardware.precision=bf16"),
    "int8": ("quant=int8",),
    "int8 checkpointing": ("quant=int8", CHECKPOINTING),
}
# Each of precision, quantization and checkpointing once in each stage.
FAST = {"ppo": ("full bf16 checkpointing",), "grpo": ("int8 checkpointing",)}


@pytest.mark.parametrize(("stage", "means"), across(OF_STAGE, MEANS, lambda stage, means: means in FAST[stage]))
def test_it_learns(stage, means, tmp_path):
    run = train_run(tmp_path / "r", f"stage={stage}", *SHORT, *OF_STAGE[stage], *MEANS[means])
    assert len(metrics(run, "loss")) == 3 and all(map(math.isfinite, metrics(run, "loss")))
    # 0 where no gradient came back; ppo's first mini-batch has one by its advantages.
    norms = metrics(run, "grad_norm") + (metrics(run, "critic_grad_norm") if stage == "ppo" else [])
    assert all(math.isfinite(norm) and norm > 1e-4 for norm in norms), norms
    start = Path(make_run(f"stage={stage}").model.adapter or "")
    if (run.final / "adapter_model.safetensors").is_file():
        before, after = (load_file(folder / "adapter_model.safetensors") for folder in (start, run.final))
        assert before.keys() == after.keys()
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert len(moved) == len(before) and {value.dtype for value in after.values()} == {torch.float32}
    else:
        assert (run.final / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("stage", "method"),
    across(OF_STAGE, ("lora", "full", "qlora"), lambda stage, method: (stage, method) == ("grpo", "lora")),
)
def test_checkpointing_changes_no_gradient(stage, method, tmp_path):
    """With several adapters on one base the recomputation could run with another one: wrong gradients, no error."""
    seen = []
    for name, given in (("plain", ()), ("again", (CHECKPOINTING,))):
        options = (*SHORT, *OF_STAGE[stage], f"method={method}", "hardware.precision=fp32", *given)
        run = train_run(tmp_path / name, f"stage={stage}", *options)
        keys = ("loss", "grad_norm", *(("critic_grad_norm", "value_loss") if stage == "ppo" else ("reward",)))
        seen.append([metrics(run, key) for key in keys])
    for plain, again in zip(*seen):
        assert again == pytest.approx(plain, rel=1e-3, abs=1e-5)
