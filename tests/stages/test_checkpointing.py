"""train.gradient_checkpointing computes again what it did not keep, and changes no loss and no weight by that."""

from __future__ import annotations

import pytest

from tests.runs import BARE, FAST, metrics, train_run


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "freeze"])
def test_losses_and_gradients_are_the_same(method, tmp_path):
    given = ("model=tiny", f"method={method}", *FAST, *BARE, "train.max_steps=3", "data.max_samples=32")
    given += ("lora.dropout=0.1",)
    runs = [train_run(tmp_path / str(on), *given, f"train.gradient_checkpointing={on}") for on in ("false", "true")]
    for key in ("loss", "grad_norm"):
        plain, recomputed = (metrics(run, key) for run in runs)
        assert len(plain) == 3 and plain == pytest.approx(recomputed, abs=1e-6)
