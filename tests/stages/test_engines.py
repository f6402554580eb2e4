"""ftlab's trainer beside TRL's on the same rows."""

from __future__ import annotations

import pytest

from tests.runs import FAST, metrics, train_run

EXACT = ("lora.dropout=0.0", *FAST)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_both_engines_reach_the_same_losses(tmp_path, method):
    """Loss and gradient norm of every step; the same rows in the same order, under accumulation."""
    common = (*EXACT, f"method={method}", "train.micro_batch_size=2", "train.gradient_accumulation_steps=2")
    ours = train_run(tmp_path / "ours", *common)
    theirs = train_run(tmp_path / "theirs", *common, "train.engine=trl")
    losses = metrics(ours, "loss")
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1
    assert losses == pytest.approx(metrics(theirs, "loss"), abs=1e-5)
    assert metrics(ours, "grad_norm") == pytest.approx(metrics(theirs, "grad_norm"), rel=1e-4)


def test_losses_do_not_depend_on_micro_batches_and_accumulation(tmp_path):
    splits = ((4, 1), (2, 2), (1, 4))
    found = [
        metrics(
            train_run(
                tmp_path / f"{micro}x{steps}", *EXACT,
                f"train.micro_batch_size={micro}", f"train.gradient_accumulation_steps={steps}",
            ), "loss",
        ) for micro, steps in splits
    ]  # fmt: skip
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)
