"""The load-balancing loss of mixtures of experts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from ftlab.data.packing.collate import Isolation, PackedCollator
from ftlab.errors import ConfigError
from ftlab.stages.trainer.forward import packed_hidden
from ftlab.stages.trainer.router_loss import RouterLoss, counted_tokens
from tests.mixtures import save_mixture, shape_overrides
from tests.runs import BARE, held_out, metrics, train_run
from tests.stages.test_packed_forward import rows_of
from tests.stages.trainers import a_trainer, begin, trained

SHORT = (
    "method=full", "hardware.precision=fp32", "train.max_steps=3", "train.logging_steps=1", "train.optimizer=sgd",
    "train.learning_rate=0.1", "train.warmup_ratio=0", "data.max_samples=32", "train.micro_batch_size=2",
    "train.gradient_accumulation_steps=2", "data.packing=false", *BARE,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("mixtures") / "qwen3_moe", "qwen3_moe", router_aux_loss_coef=0.02)


@pytest.fixture(scope="module")
def asking(tmp_path_factory) -> Path:
    """A model whose config asks for the loss."""
    folder = tmp_path_factory.mktemp("mixtures") / "asking"
    return save_mixture(folder, "qwen3_moe", router_aux_loss_coef=0.02, output_router_logits=True)


def by_hand(model: Any, samples: list[Tensor]) -> float:
    """E sum_e f_e P_e over the tokens of all layers, from each sample's router logits alone, in float64."""
    logits_TE = torch.cat(
        [torch.cat(model(ids[None], output_router_logits=True).router_logits).double() for ids in samples]
    )
    probabilities_TE = logits_TE.softmax(-1)
    chosen_TE = torch.zeros_like(logits_TE).scatter(1, probabilities_TE.topk(2).indices, 1.0)
    return float(logits_TE.shape[1] * (chosen_TE.mean(0) * probabilities_TE.mean(0)).sum())


@pytest.mark.parametrize("isolation", ["position_ids", "block_mask", "one_per_row"])
def test_it_is_the_published_formula_over_the_tokens_that_are_no_padding(folder, isolation: Isolation):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = rows_of((17, 40, 9), (5, 61), (23,))
    batch = PackedCollator(pad_id=0, isolation=isolation)(rows)
    samples = [torch.tensor(sample.input_ids, dtype=torch.long) for row in rows for sample in row.samples]
    router = RouterLoss(model, 1.0)
    with torch.no_grad():
        with router.recording(model) as calls:
            packed_hidden(model, batch)
        found, every_second = (router(calls, counted_tokens(batch, every)).item() for every in (1, 2))
        assert found == pytest.approx(by_hand(model, samples), rel=1e-5)
        assert every_second == pytest.approx(by_hand(model, samples[::2]), rel=1e-5)
    assert abs(found - every_second) > 1e-4


def test_it_trains_the_routers_and_is_logged_apart(tmp_path, folder):
    """With a weight that leaves nothing else to learn, routers become even: two experts for a token."""
    more = ("train.router_aux_loss_coef=100", "train.max_steps=12", "train.optimizer=adamw_torch", "eval.steps=12")
    held = held_out(tmp_path, "instructions", 4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.mlp.gate.weight, std=0.3)
    uneven = tmp_path / "uneven"
    shutil.copytree(folder, uneven)
    model.save_pretrained(uneven)
    given = (*shape_overrides(uneven, "qwen3_moe"), *SHORT, "train.learning_rate=3e-3", held, *more)
    run = train_run(tmp_path / "run", *given)
    balance, losses = metrics(run, "aux_loss"), metrics(run, "loss")
    assert 1.9 < sum(balance[-3:]) / 3 < balance[0] - 0.1
    assert losses[0] > 100 * balance[0]
    (_, evaluated), (_, balanced) = metrics(run, "eval_loss"), metrics(run, "eval_aux_loss")
    assert evaluated < 20 and 1.9 < balanced < balance[0]


@pytest.mark.parametrize("stage", ["sft", "dpo", "rm", "kto"])
def test_both_engines_have_the_same_loss(tmp_path, asking, stage):
    held = held_out(tmp_path, {"sft": "instructions", "kto": "labels"}.get(stage, "preferences"), 4)
    logs, evaluations = {}, {}
    for engine in ("ftlab", "trl"):
        given = (*shape_overrides(asking, "qwen3_moe"), f"stage={stage}", "model=tiny", *SHORT, held)
        trainer, _ = a_trainer(tmp_path / engine, *given, f"train.engine={engine}", validates=True)
        begin(trainer)
        evaluations[engine] = trainer.evaluate()
        logs[engine] = trained(trainer)
    aux = 1e-3 if stage == "rm" else 1e-5  # TRL's batches end where an answer is judged
    for key, tolerance in {"loss": 1e-4, "aux_loss": aux, "grad_norm": 1e-3 if stage == "rm" else 1e-4}.items():
        ours, theirs = ([entry[key] for entry in logs[engine]] for engine in ("ftlab", "trl"))
        assert ours == pytest.approx(theirs, rel=tolerance), key
    for key, tolerance in {"eval_loss": 2e-3 if stage == "kto" else 1e-5, "eval_aux_loss": aux}.items():
        assert evaluations["ftlab"][key] == pytest.approx(evaluations["trl"][key], rel=tolerance), key
    assert all(entry["aux_loss"] > 2 for entry in logs["ftlab"])


@pytest.mark.parametrize(
    ("overrides", "is_there"), [((), True), (("train.router_aux_loss_coef=0",), False)], ids=["asked for", "off"]
)
def test_what_the_models_config_asks_for_is_done_unless_it_is_switched_off(tmp_path, asking, overrides, is_there):
    trainer, _ = a_trainer(tmp_path, *shape_overrides(asking, "qwen3_moe"), *SHORT, *overrides)
    assert all(("aux_loss" in entry) == is_there for entry in trained(trainer))


def test_a_dense_model_has_nothing_to_balance(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.router_aux_loss_coef=0\.1: tiny \(llama\) gives no router logits"):
        a_trainer(tmp_path, *SHORT, "train.router_aux_loss_coef=0.1")


def test_ppo_has_no_such_loss(mistakes):
    (said,) = mistakes("stage=ppo stage.rewards=[exact_match] train.router_aux_loss_coef=0.1")
    assert said.startswith("train.router_aux_loss_coef=0.1: ppo has no load-balancing loss")
