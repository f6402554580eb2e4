"""Optimizers by transformers' names, LoRA+'s two learning rates, and what precision states are in."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from transformers.training_args import OptimizerNames

from ftlab.errors import NotReadyError
from ftlab.preflight import check
from ftlab.rundir.manifest import Manifest
from ftlab.schema.train import Optimizer
from ftlab.stages.trainer import optimizers
from tests.runs import BARE, FAST, final_hash, make_run, metrics, resume_run, train_run
from tests.stages.trainers import a_trainer

NAMES = get_args(Optimizer)
INSTALLED = [name for name in NAMES if not name.startswith(tuple(optimizers._NEEDS))]
SMALL = ("model=tiny", "data.max_samples=16", "lora.dropout=0")
# Why a name of transformers' is none of ours.
LEFT_OUT = {
    "update while the gradient is being made, so that neither accumulation nor clipping is possible":
        {"lomo", "adalomo", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise",
         "apollo_adamw_layerwise"},
    "have other weights in evaluations and checkpoints than in training":
        {"schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"},
    "are of devices or packages that torch here does not have":
        {"adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision", "galore_adamw_8bit"},
}  # fmt: skip


def test_every_name_of_transformers_is_ours_or_left_out_for_a_reason():
    assert {name.value for name in OptimizerNames} == set(NAMES) | set.union(*LEFT_OUT.values())
    assert not set(NAMES) & set.union(*LEFT_OUT.values())


@pytest.fixture(scope="module")
def model_and_batch(tmp_path_factory):
    trainer, rows = a_trainer(tmp_path_factory.mktemp("t"), *SMALL)
    return trainer, trainer.data_collator([rows[0]])


@pytest.mark.parametrize("name", INSTALLED)
def test_each_one_lowers_the_loss_here_with_states_in_their_precision(name, model_and_batch):
    trainer, batch = model_and_batch
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.args.optim, trainer.optimizer = OptimizerNames(name), None
    trainer.args.learning_rate = 0.5 if name == "sgd" else 1e-3
    trainer.model.train()
    optimizer = trainer.create_optimizer()
    losses = []
    for _ in range(4):
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    states = {key: v.dtype for state in optimizer.state.values() for key, v in state.items() if torch.is_tensor(v)}
    with torch.no_grad():
        for n, p in trainer.model.named_parameters():
            if n in start:
                p.copy_(start[n])
    trainer.optimizer, trainer.args.learning_rate = None, 1e-3
    assert losses[-1] < losses[0] - 0.005
    in_eight_bits = {key for key, dtype in states.items() if dtype == torch.uint8}
    assert set(states.values()) <= {torch.float32, torch.uint8}
    assert not in_eight_bits or "8bit" in name


@pytest.mark.parametrize("name", [name for name in NAMES if name not in INSTALLED])
def test_a_package_that_is_not_here_is_named_before_anything_is_loaded(name, monkeypatch):
    monkeypatch.setattr(optimizers, "find_spec", lambda module: None)
    with pytest.raises(NotReadyError, match=rf"train\.optimizer={name} needs ([a-z-]+): pip install \1"):
        check.check(make_run(f"train.optimizer={name}", "method=full"))


def test_an_unknown_name_and_one_without_effect_are_refused_at_once(mistakes):
    (found,) = mistakes("train.optimizer=adamw_tor")
    assert found.startswith("train.optimizer=adamw_tor: must be one of: adamw_torch, adamw_torch_fused, adafactor, ")
    assert "Did you mean adamw_torch" in found
    (found,) = mistakes("train.optimizer=galore_adamw")
    assert found == (
        "train.optimizer=galore_adamw: projects whole weight matrices; method=lora has none that train, so use "
        "method=full"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_what_trains_and_its_states_are_fp32_whatever_the_precision(precision, method, tmp_path):
    trainer, rows = a_trainer(tmp_path, f"method={method}", f"hardware.precision={precision}", *SMALL)
    dtypes = {name: p.dtype for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(dtypes.values()) == {torch.float32}
    if method == "lora":
        base = next(p for n, p in trainer.model.named_parameters() if n.endswith("q_proj.base_layer.weight"))
        assert base.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    optimizer = trainer.create_optimizer()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator([rows[0]]))
    loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert len(states) >= 3 * len(dtypes)
    assert {value.dtype for value in states} == {torch.float32}


# --------------------------------------------------------------------------------------------------------------- LoRA+


def rates(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, float]:
    """Learning rate of each parameter, by its name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit", "adafactor", "sgd"])
def test_b_learns_as_much_faster_as_the_ratio_says_and_pefts_own_agrees(optimizer, tmp_path):
    trainer, _ = a_trainer(tmp_path, "lora=loraplus", "lora.loraplus_ratio=8", "train.learning_rate=1e-4",
                           f"train.optimizer={optimizer}", *SMALL)  # fmt: skip
    found = rates(trainer.create_optimizer(), trainer.model)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    assert {name: rate for name, rate in found.items() if "lora_A" in name} == dict.fromkeys(
        [name for name in trained if "lora_A" in name], 1e-4
    )
    assert {round(rate, 12) for name, rate in found.items() if "lora_B" in name} == {8e-4}
    oracle = create_loraplus_optimizer(trainer.model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=8)
    assert found == pytest.approx(rates(oracle, trainer.model))


def test_without_it_all_learn_alike(tmp_path):
    trainer, _ = a_trainer(tmp_path, "train.learning_rate=1e-4", *SMALL)
    assert set(rates(trainer.create_optimizer(), trainer.model).values()) == {1e-4}


@pytest.mark.parametrize("stage", ["ppo", "dpo"])
def test_every_stage_has_it(stage, tmp_path):
    run = train_run(tmp_path / "r", f"stage={stage}", "lora=loraplus", *FAST, *BARE, "train.max_steps=1",
                    "train.save_steps=1",
                    *(["stage.rollout_batch_size=4", "stage.mini_batch_size=4", "stage.max_new_tokens=4"]
                      if stage == "ppo" else []), "data.max_samples=16")  # fmt: skip
    checkpoint = run.phase(f"01-{stage}") / "checkpoint-1"
    groups = torch.load(checkpoint / "optimizer.pt", weights_only=True)["param_groups"]
    assert {round(group["initial_lr"] / groups[0]["initial_lr"], 6) for group in groups} == {1.0, 16.0}


WITH_DROPOUT = (*FAST, *BARE, "model=tiny", "train.save_steps=3", "data.max_samples=64", "lora.dropout=0.1")


@pytest.fixture(scope="module")
def plain_losses(tmp_path_factory) -> list[float]:
    """Without any of the options."""
    return metrics(train_run(tmp_path_factory.mktemp("plain") / "r", *WITH_DROPOUT), "loss")


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("lora=loraplus",), marks=pytest.mark.matrix),
        ("lora=loraplus", "train.optimizer=adamw_8bit", "train.lr_scheduler=linear"),
        ("stage.neftune_alpha=5",),
        ("train.label_smoothing=0.1", "train.optimizer=adafactor"),
    ],
    ids=lambda overrides: ",".join(overrides),
)
def test_stopped_and_continued_is_never_stopped(overrides, plain_losses, tmp_path):
    """From the checkpoint in the middle: the same losses and the same weights, to the bit."""
    run = train_run(tmp_path / "r", *overrides, *WITH_DROPOUT)
    weights, losses = final_hash(run), metrics(run, "loss")
    assert plain_losses != losses, "the option does nothing"
    Manifest(run).record(phases={}, status="interrupted")
    (run.phase("01-sft") / "checkpoint-6" / "checkpoint.json").unlink()
    again = resume_run(run.path)
    assert json.loads((again.phase("01-sft") / "checkpoint-6" / "trainer_state.json").read_text())["global_step"] == 6
    assert metrics(again, "loss") == losses
    assert final_hash(again) == weights
