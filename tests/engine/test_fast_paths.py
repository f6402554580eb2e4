"""What is fast computes what is plain: the same batches of every stage by the path that a run takes by itself and by
the one that it replaces. Attention by segments or with a mask; packed rows or one sample or pair to a row; a prompt for
two answers or for each; the head in chunks or all logits at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from ftlab.model.head import Logits
from ftlab.rundir.directory import RunDir
from ftlab.stages.ppo import rollout
from ftlab.stages.trainer import forward
from tests.runs import BARE, logged, metrics, train_run

pytestmark = pytest.mark.matrix

VOCABULARY = 2304
SHORT = (
    *BARE, "hardware.precision=fp32", "lora.dropout=0", "train.logging_steps=1", "train.max_steps=4",
    "train.warmup_ratio=0", "data.max_length=128", "data.max_samples=24", "data.cache=null",
)  # fmt: skip
SPLIT = ("train.micro_batch_size=2", "train.gradient_accumulation_steps=2")
# Rows that are packed otherwise are the same steps where a step takes all there are.
WHOLE = ("train.micro_batch_size=24", "train.gradient_accumulation_steps=1")
# Adam's first steps go by the sign of each gradient, and so by the rounding of those that are nearly 0.
METHODS = {
    "lora": ("method=lora",),
    "full": ("method=full", "train.optimizer=sgd", "train.learning_rate=0.05"),
}
REWARD = "stage.rewards=['length:9']"
OF_STAGE: dict[str, tuple[str, ...]] = {
    "ppo": (REWARD, "stage.max_new_tokens=8", "stage.rollout_batch_size=8", "stage.mini_batch_size=4",
            "stage.ppo_epochs=2", "stage.early_stop_kl=null"),
    "grpo": (REWARD, "stage.max_new_tokens=8", "stage.num_generations=2"),
}  # fmt: skip
PAIRED = ("rm", "dpo", "orpo", "kto")
PACKED = ("pt", "sft", *PAIRED)
STAGES = (*PACKED, "ppo", "grpo")
MASKED = ("sdpa", "eager")
CLOSE = {"loss": {"abs": 1e-5}, "grad_norm": {"rel": 1e-5}}
ROUNDED = {"rel": 1e-4, "abs": 1e-5}  # all else that a step logs


def plain_logprobs(
    hidden_ND: Tensor, targets_N: Tensor, logits: Logits, smoothing: float = 0.0, equal_weights: bool = False
) -> Tensor:
    """In place of :func:`ftlab.stages.trainer.forward.chunked_logprobs`: what its docstring says, left to autograd."""
    assert not smoothing
    return logits(hidden_ND).log_softmax(-1).gather(-1, targets_N[:, None])[:, 0]


@pytest.fixture(scope="module")
def fast(tmp_path_factory) -> Callable[..., RunDir]:
    """``fast("dpo", "lora", SPLIT)``: the run as it goes by itself, with several chunks to a batch."""
    known: dict[Any, RunDir] = {}

    def run(stage: str, method: str, batches: tuple[str, ...]) -> RunDir:
        key = (stage, method, batches)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                for module in (forward, rollout):
                    patch.setattr(module, "LOGIT_ELEMENTS", VOCABULARY * 7)
                known[key] = trained(tmp_path_factory.mktemp("fast") / "run", *key)
        return known[key]

    return run


@pytest.fixture
def plain(tmp_path, monkeypatch) -> Callable[..., RunDir]:
    """``plain("dpo", "lora", SPLIT, "model.attention=eager")``"""
    monkeypatch.setattr(forward, "chunked_logprobs", plain_logprobs)
    return lambda *given: trained(tmp_path / "run", *given)


def trained(folder: Any, stage: str, method: str, batches: tuple[str, ...], *more: str) -> RunDir:
    given = (f"stage={stage}", *METHODS[method], *SHORT, *batches, *OF_STAGE.get(stage, ()), *more)
    return train_run(folder, *given)


def check(found: RunDir, wanted: RunDir) -> None:
    """Losses, norms of gradients and all else that a step logs are equal but for rounding."""
    steps = list(zip(logged(found), logged(wanted), strict=True))
    assert len([step for step, _ in steps if "loss" in step]) == 4
    for step, other in steps:
        assert step.keys() == other.keys()
        for name, value in step.items():
            if isinstance(value, float):  # not the tokens, of which a shared prompt has fewer
                assert value == pytest.approx(other[name], **CLOSE.get(name, ROUNDED)), name
    losses = [step["loss"] for step, _ in steps if "loss" in step]
    assert len(set(losses)) == 4, "nothing was learned"


@pytest.mark.parametrize("attention", MASKED)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", STAGES)
def test_attention_by_segments_is_that_with_a_mask(stage, method, attention, fast, plain):
    ours = fast(stage, method, SPLIT)
    theirs = plain(stage, method, SPLIT, f"model.attention={attention}", "data.share_prompts=false")
    if stage in PACKED:
        assert ours.manifest()["packed_by"] == {stage: "segments"}
        assert theirs.manifest()["packed_by"] == {stage: "position_ids"}
    if stage in PAIRED:
        assert [run.manifest()["shares_prompts"][stage] for run in (ours, theirs)] == [True, False]
        assert all(a < 0.75 * b for a, b in zip(metrics(ours, "tokens"), metrics(theirs, "tokens"), strict=True))
    check(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stage", PACKED)
def test_packed_rows_are_rows_of_one_sample(stage, method, fast, plain):
    given = ("model.attention=eager", "data.share_prompts=false", "data.packing=false")
    whole = (*WHOLE, "data.max_samples=3") if stage == "pt" else WHOLE  # whose texts are cut into several rows
    ours, theirs = fast(stage, method, whole), plain(stage, method, whole, *given)
    rows, unpacked = (json.loads(run.ledger(stage).read_text())["splits"]["train"]["packing"] for run in (ours, theirs))
    assert rows["rows"] < unpacked["rows"] <= 24
    check(ours, theirs)
