"""The number that a stage's loss has to begin with, reached by its trainer and not only by its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ftlab.model.score import score_of
from tests.runs import BARE, across, metrics, train_run
from tests.stages.trainers import a_trainer, plain_logprobs, samples_of, trained

ONE_STEP = (
    "train.max_steps=1", "hardware.precision=fp32", "data.max_samples=32", "eval.golden_rows=0", "eval.samples=0",
    "data.split.golden=none", "train.logging_steps=1",
)  # fmt: skip


LOSSES = {
    "sigmoid": math.log(2),
    "ipo": 1 / (4 * 0.1**2),
    "hinge": 1.0,
    "robust": math.log(2),
    "nca": 2 * math.log(2),
    "exo": 0.5 * (math.log(0.5) - math.log(0.999)) + 0.5 * (math.log(0.5) - math.log(0.001)),
}


@pytest.mark.parametrize(
    ("loss_type", "method"),
    # What a method does to the reference is the same for every loss.
    across(LOSSES, ("lora", "qlora", "full"), lambda loss_type, method: method == "lora" or loss_type == "sigmoid"),
)
def test_dpo_begins_where_policy_and_reference_are_one(loss_type, method, tmp_path):
    expected = LOSSES[loss_type]
    smoothing = "0.001" if loss_type == "exo" else "0"
    run = train_run(
        tmp_path / "run", "stage=dpo", f"stage.loss_type={loss_type}", f"stage.label_smoothing={smoothing}",
        f"method={method}", *ONE_STEP, *BARE,
    )  # fmt: skip
    assert metrics(run, "loss")[0] == pytest.approx(expected, rel=2e-6)
    assert abs(metrics(run, "rewards/margins")[0]) <= 1e-6
    assert metrics(run, "grad_norm")[0] > 1e-3


def test_kto_begins_at_one_half(tmp_path):
    run = train_run(tmp_path / "run", "stage=kto", *ONE_STEP, *BARE)
    assert metrics(run, "loss")[0] == pytest.approx(0.5, abs=1e-6)
    assert metrics(run, "kl")[0] == pytest.approx(0, abs=1e-6)
    assert metrics(run, "grad_norm")[0] > 1e-3


@pytest.mark.matrix
def test_a_reference_is_computed_once_and_found_again(tmp_path, capsys):
    """Runs of a sweep that differ in the adapter that they will train have one reference."""
    cache = f"data.cache={tmp_path}/cache"
    shared = ("stage=dpo", "model=tiny", cache, *ONE_STEP)
    found = []
    for name, r in (("a", 8), ("b", 16)):
        run = train_run(tmp_path / name, *shared, f"lora.r={r}")
        found.append(metrics(run, "logps/chosen")[0])
    assert found[0] == found[1]
    files = sorted((tmp_path / "cache" / "reference").glob("*.npy"))
    assert len(files) == 2, "train and validation, once each"
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(before[0][:-40] + b"x" + before[0][-39:])
    files[1].unlink()
    files[1].mkdir()
    run = train_run(tmp_path / "c", *shared, "lora.r=8")
    assert metrics(run, "logps/chosen")[0] == found[0]
    assert [file.read_bytes() for file in files] == before
    printed = capsys.readouterr().out
    for split in ("train", "validation"):
        assert f"reference, {split} (its cache was damaged: computed anew)  " in printed


# ------------------------------------------------------------------------ against the starting model, asked plainly

PLAIN = (
    *ONE_STEP, "data.max_samples=6", "data.split.validation=none", "data.packing=false", "lora.dropout=0",
    "train.gradient_accumulation_steps=3", "train.micro_batch_size=2", "train.learning_rate=1e-3",
)  # fmt: skip


def first_loss(trainer) -> float:
    (entry,) = trained(trainer)
    assert entry["grad_norm"] > 1e-3
    return entry["loss"]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize("packing", ["data.packing=true", "data.packing=false"])
@pytest.mark.parametrize("stage", ["pt", "sft"])
def test_cross_entropy_is_that_of_torch_on_rows_that_are_not_packed(stage, packing, tmp_path):
    trainer, rows = a_trainer(tmp_path, f"stage={stage}", *PLAIN, packing, "train.gradient_accumulation_steps=500")
    assert len(rows) <= 1000, "one step has them all"
    logits, targets = [], []
    for sample in samples_of(rows):
        ids = torch.tensor(sample.input_ids, dtype=torch.long)
        with torch.no_grad():
            logits.append(trainer.model(input_ids=ids[None], use_cache=False).logits[0, :-1])
        targets.append(ids.where(torch.tensor(sample.learned), -100)[1:])
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets)).item()
    assert first_loss(trainer) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_rm_is_bradley_terry_of_its_own_scores(margin, tmp_path):
    trainer, rows = a_trainer(tmp_path, "stage=rm", *PLAIN, f"stage.margin={margin}")
    head = score_of(trainer.model)
    scores = []
    for sample in samples_of(rows):
        ids = torch.tensor(sample.input_ids[: int(sample.learned.nonzero()[0][-1]) + 1], dtype=torch.long)
        with torch.no_grad():
            hidden = trainer.model(input_ids=ids[None], use_cache=False, output_hidden_states=True).hidden_states[-1]
            scores.append(head(hidden[0, -1]).item())
    gaps = [chosen - rejected for chosen, rejected in zip(scores[0::2], scores[1::2])]
    assert len(gaps) == 6 and max(map(abs, gaps)) > 1e-3
    expected = sum(softplus(margin - gap) for gap in gaps) / 6
    assert first_loss(trainer) == pytest.approx(expected, abs=1e-5)


def test_rm_begins_at_ln_2_where_its_head_says_nothing_yet(tmp_path):
    trainer, _ = a_trainer(tmp_path, "stage=rm", *PLAIN)
    with torch.no_grad():
        score_of(trainer.model).modules_to_save["default"].weight.zero_()
    assert first_loss(trainer) == pytest.approx(math.log(2), abs=1e-7)


def simpo(chosen, rejected) -> float:
    return softplus(0.3 - 2.0 * (sum(chosen) / len(chosen) - sum(rejected) / len(rejected)))


def cpo(chosen, rejected) -> float:
    return softplus(-0.2 * (sum(chosen) - sum(rejected)))


def smoothed_cpo(chosen, rejected) -> float:
    gap = 0.2 * (sum(chosen) - sum(rejected))
    return 0.9 * softplus(-gap) + 0.1 * softplus(gap)


def dpo_with_likelihood(chosen, _) -> float:
    return math.log(2) - 0.5 * sum(chosen) / len(chosen)


def orpo(chosen, rejected) -> float:
    log_p, log_q = sum(chosen) / len(chosen), sum(rejected) / len(rejected)
    log_odds = (log_p - math.log(1 - math.exp(log_p))) - (log_q - math.log(1 - math.exp(log_q)))
    return -log_p + 0.4 * softplus(-log_odds)


@pytest.mark.parametrize(
    ("overrides", "loss"),
    [
        (("stage=dpo", "stage.loss_type=simpo", "stage.beta=2.0", "stage.simpo_gamma=0.3"), simpo),
        (("stage=dpo", "stage.loss_type=cpo", "stage.beta=0.2"), cpo),
        (("stage=dpo", "stage.loss_type=cpo", "stage.beta=0.2", "stage.label_smoothing=0.1"), smoothed_cpo),
        (("stage=dpo", "stage.sft_weight=0.5"), dpo_with_likelihood),
        (("stage=orpo", "stage.beta=0.4"), orpo),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_losses_of_the_policy_alone(overrides, loss, tmp_path):
    """Worked out pair by pair from what the starting model says of each token."""
    trainer, rows = a_trainer(tmp_path, *PLAIN, *overrides)
    logprobs = [plain_logprobs(trainer.model, sample).tolist() for sample in samples_of(rows)]
    pairs = list(zip(logprobs[0::2], logprobs[1::2]))
    assert len(pairs) == 6
    assert first_loss(trainer) == pytest.approx(sum(loss(*pair) for pair in pairs) / 6, rel=1e-5)


def test_kto_weighs_the_two_kinds_of_answers(tmp_path):
    more = ("stage.desirable_weight=3.0", "stage.undesirable_weight=0.5")
    trainer, rows = a_trainer(tmp_path, "stage=kto", *PLAIN, *more)
    good = float(np.mean(rows.labels))
    assert first_loss(trainer) == pytest.approx((3.0 * good + 0.5 * (1 - good)) / 2, abs=1e-6)


def test_kto_away_from_its_reference(tmp_path):
    """Log-ratios to another model, a KL estimate of the mismatched answers, and the loss, by hand."""
    more = ("train.micro_batch_size=6", "train.gradient_accumulation_steps=1", "stage.beta=0.5")
    trainer, _ = a_trainer(tmp_path, "stage=kto", *PLAIN, *more)
    rows = trainer.train_dataset
    draw = np.random.default_rng(0)
    log_ratios = draw.normal(0.5, 1.0, rows.views)
    policy = np.array([plain_logprobs(trainer.model, sample).sum().item() for sample in samples_of(rows)])
    order = np.concatenate([rows.view_indices(i) for i in range(len(rows))])
    reference = np.zeros(rows.views, dtype=np.float32)
    reference[order] = policy - log_ratios
    rows.attach("reference", reference)
    good = np.concatenate([row.columns["label"] for row in rows])[0::2] != 0
    kl = max(log_ratios[1::2].mean(), 0.0)
    gains = 0.5 * np.where(good, log_ratios[0::2] - kl, kl - log_ratios[0::2])
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged["kl"] == pytest.approx(kl, abs=1e-5) and kl > 0.01
    assert logged["loss"] == pytest.approx((1 / (1 + np.exp(gains))).mean(), abs=1e-5)
