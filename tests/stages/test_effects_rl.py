"""What pt, ppo and grpo do for the embedded model by their defaults, on held-out rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import train_run

NO_ANSWERS = ("eval.golden_rows=0", "eval.samples=0", "tracker=none")


def measured(folder: Path, *overrides: str) -> tuple[dict[str, float], dict[str, float]]:
    """Before and after."""
    run = train_run(folder, *overrides)
    (result,) = run.manifest()["phases"].values()
    return result["before"], result["after"]


@pytest.mark.slow
def test_pt_lowers_the_perplexity_of_held_out_text(tmp_path):
    before, after = measured(tmp_path / "r", "stage=pt", "train.max_steps=100", *NO_ANSWERS)
    name = "validation perplexity"
    assert before[name] > 10_000, "the embedded model has read no such code"
    assert after[name] < 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1, 2])
def test_pt_by_its_defaults(seed, tmp_path):
    before, after = measured(tmp_path / "r", "stage=pt", f"seed={seed}", *NO_ANSWERS)
    assert after["validation perplexity"] < before["validation perplexity"] / 10_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1, 2])
@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_the_reward_of_held_out_prompts_rises_and_the_policy_stays_near(stage, seed, tmp_path):
    before, after = measured(tmp_path / "r", f"stage={stage}", f"seed={seed}", *NO_ANSWERS)
    assert 0.1 < before["validation reward"] < 0.5
    assert after["validation reward"] > before["validation reward"] + 0.3
    assert before["validation kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < after["validation kl"] < 1, "nats per token"
