"""Preference training after fine-tuning: the reference is the fine-tuned policy, whatever the method."""

from __future__ import annotations

import pytest
import torch

from ftlab.engine.hooks import PhaseHooks
from ftlab.model.adapter import apply_method
from ftlab.model.load import load_model
from ftlab.rundir.directory import RunDir
from ftlab.stages.preference import PairTrainer
from tests.runs import across, make_run, metrics, train_run

COMMON = (
    "model=tiny", "data.max_samples=48", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1",
    "train.lr_scheduler=constant", "train.warmup_ratio=0", "train.logging_steps=1", "data.split.golden=none",
    "data.split.validation=none", "eval.golden_rows=0", "eval.samples=0", "tracker=none",
)  # fmt: skip
METHODS = {
    "lora": ("method=lora",), "qlora": ("method=qlora",), "pissa": ("lora=pissa",), "dora": ("lora=dora",),
    "full": ("method=full",), "freeze": ("method=freeze",),
}  # fmt: skip
# Tried every time; dora has an adapter like lora's, and freeze has whole weights like full.
QUICK = ("lora", "qlora", "pissa", "full")
IDS = torch.arange(20, 60)[None]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """``tuned("lora", "fp32")``: a run of sft that has learned something, once for all tests."""
    made: dict[tuple[str, str], RunDir] = {}

    def make(method: str, precision: str) -> RunDir:
        if (method, precision) not in made:
            folder = tmp_path_factory.mktemp(f"{method}-{precision}") / "run"
            given = (*METHODS[method], f"hardware.precision={precision}", "train.learning_rate=1e-3")
            made[method, precision] = train_run(folder, "stage=sft", *COMMON, *given, "train.max_steps=8")
            losses = metrics(made[method, precision], "loss")
            assert min(losses[-3:]) < losses[0] - 0.3, "it has not learned"
        return made[method, precision]

    return make


def start_from(method: str, run_dir: RunDir) -> tuple[str, ...]:
    key = "path" if method in ("full", "freeze") else "adapter"
    return (*METHODS[method], f"model.{key}={run_dir.final}")


LIMITS = {"fp32": 1e-6, "bf16": 1e-4}


@pytest.mark.parametrize(
    ("method", "precision"),
    across(METHODS, LIMITS, lambda method, precision: precision == "fp32" and method in QUICK),
)
def test_every_pairs_margin_is_nothing_at_first(method, precision, tuned, tmp_path, monkeypatch):
    """Of every pair of the data, as the training forward has them: the steps are too small to change a weight."""
    margins: list[torch.Tensor] = []
    measures = PairTrainer.measures

    def noting(self, found, sums_S):
        assert self.model.training
        margins.append(found.margins_P.detach())
        return measures(self, found, sums_S)

    monkeypatch.setattr(PairTrainer, "measures", noting)
    run_dir = train_run(
        tmp_path / "run", "stage=dpo", *COMMON, *start_from(method, tuned(method, precision)), "train.epochs=1",
        "train.micro_batch_size=4", f"hardware.precision={precision}", "train.learning_rate=1e-30",
    )  # fmt: skip
    found = torch.cat(margins).abs()
    assert len(found) == 48
    assert found.max() <= LIMITS[precision]
    assert all(norm > 1e-2 for norm in metrics(run_dir, "grad_norm"))
    assert len({round(x, 3) for x in metrics(run_dir, "logps/chosen")}) > 1, "batches that differ"


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name in QUICK else pytest.mark.matrix) for name in METHODS]
)
def test_training_goes_on_from_the_tuned_policy(method, tuned):
    """The model that dpo starts from computes what the fine-tuned one does, and not what the base does."""
    run_dir = tuned(method, "fp32")
    run = make_run("stage=dpo", *COMMON, *start_from(method, run_dir), "hardware.precision=fp32")
    with torch.no_grad():
        started = apply_method(load_model(run), run).eval()(input_ids=IDS).logits
        base = load_model(make_run(*COMMON, *METHODS[method], "hardware.precision=fp32"))
        untuned = base.eval()(input_ids=IDS).logits
        assert (started - untuned).abs().max() > 0.5
        if method in ("full", "freeze"):
            return
        from peft import PeftModel

        tuned_ = PeftModel.from_pretrained(base, run_dir.final).eval()(input_ids=IDS).logits
    torch.testing.assert_close(started, tuned_, atol=1e-5, rtol=1e-5)


def test_what_pissa_saves_is_what_it_trained(tmp_path, monkeypatch):
    """Read by PEFT alone onto the base as it is on disk."""
    from peft import AutoPeftModelForCausalLM

    given: list[torch.Tensor] = []

    class Watched(PhaseHooks):
        def final_saved(self, phase):
            with torch.no_grad():
                given.append(phase.model.eval()(input_ids=IDS).logits)

    run_dir = train_run(
        tmp_path / "run", "stage=sft", *COMMON, "lora=pissa", "hardware.precision=fp32", "train.learning_rate=1e-3",
        "train.max_steps=6", hooks=Watched(),
    )  # fmt: skip
    model = AutoPeftModelForCausalLM.from_pretrained(run_dir.final, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, given[0], atol=1e-5, rtol=1e-5)
