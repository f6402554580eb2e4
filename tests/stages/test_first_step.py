"""The number that a stage's loss has to begin with, reached by its trainer and not only by its formula."""

from __future__ import annotations

import math

import pytest

from tests.runs import metrics, train_run

ONE_STEP = (
    "train.max_steps=1", "hardware.precision=fp32", "data.max_samples=32", "eval.golden_rows=0", "eval.samples=0",
    "data.split.golden=none", "train.logging_steps=1",
)  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("sigmoid", math.log(2)),
        ("ipo", 1 / (4 * 0.1**2)),
        ("hinge", 1.0),
        ("robust", math.log(2)),
        ("nca", 2 * math.log(2)),
        ("exo", 0.5 * (math.log(0.5) - math.log(0.999)) + 0.5 * (math.log(0.5) - math.log(0.001))),
    ],
)
def test_dpo_begins_where_policy_and_reference_are_one(loss_type, expected, method, tmp_path):
    smoothing = "0.001" if loss_type == "exo" else "0"
    run = train_run(
        tmp_path / "run", "stage=dpo", f"stage.loss_type={loss_type}", f"stage.label_smoothing={smoothing}",
        f"method={method}", *ONE_STEP,
    )  # fmt: skip
    assert metrics(run, "loss")[0] == pytest.approx(expected, rel=2e-6)
    assert abs(metrics(run, "rewards/margins")[0]) <= 1e-6
    assert metrics(run, "grad_norm")[0] > 1e-3


def test_kto_begins_at_one_half(tmp_path):
    run = train_run(tmp_path / "run", "stage=kto", *ONE_STEP)
    assert metrics(run, "loss")[0] == pytest.approx(0.5, abs=1e-6)
    assert metrics(run, "kl")[0] == pytest.approx(0, abs=1e-6)
    assert metrics(run, "grad_norm")[0] > 1e-3


def test_a_reference_is_computed_once_and_found_again(tmp_path):
    """Runs of a sweep that differ in the adapter that they will train have one reference."""
    cache = f"data.cache={tmp_path}/cache"
    shared = ("stage=dpo", "model=tiny", cache, *ONE_STEP)
    found = []
    for name, r in (("a", 8), ("b", 16)):
        run = train_run(tmp_path / name, *shared, f"lora.r={r}")
        found.append(metrics(run, "logps/chosen")[0])
    assert found[0] == found[1]
    assert len(list((tmp_path / "cache" / "reference").glob("*.npy"))) == 2, "train and validation, once each"
