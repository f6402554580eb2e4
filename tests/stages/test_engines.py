"""ftlab's trainer beside TRL's on the same rows."""

from __future__ import annotations

import shutil

import pytest
import torch

from ftlab.config import rules
from ftlab.errors import NotReadyError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.stages import TRL_TRAINERS
from tests.runs import (
    BARE,
    FAST,
    across,
    final_hash,
    held_out,
    interrupted_run,
    logged,
    metrics,
    resume_run,
    train_run,
)
from tests.stages.trainers import a_trainer, begin, trained

EXACT = ("lora.dropout=0.0", "hardware.precision=fp32", *FAST)
SHORT = (
    "lora.dropout=0.0", "hardware.precision=fp32", "train.max_steps=4", "train.logging_steps=1", "train.warmup_ratio=0",
    "train.learning_rate=3e-4", "data.max_samples=64", "data.split.validation=none", "data.split.golden=none",
    "eval.samples=0", "eval.golden_rows=0",
)  # fmt: skip
PAIRS = ("data.packing=false", "train.micro_batch_size=2", "train.gradient_accumulation_steps=2")
PACKED = ("data.packing=true", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1", "data.max_length=96")


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.matrix)])
def test_both_engines_reach_the_same_losses(tmp_path, method):
    """Loss and gradient norm of every step; the same rows in the same order, under accumulation."""
    common = (*EXACT, *BARE, f"method={method}", "train.micro_batch_size=2", "train.gradient_accumulation_steps=2")
    ours = train_run(tmp_path / "ours", *common)
    theirs = train_run(tmp_path / "theirs", *common, "train.engine=trl")
    losses = metrics(ours, "loss")
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.1
    assert losses == pytest.approx(metrics(theirs, "loss"), abs=1e-5)
    assert metrics(ours, "grad_norm") == pytest.approx(metrics(theirs, "grad_norm"), rel=1e-4)


def both(tmp_path, *overrides: str) -> tuple[list[dict], list[dict]]:
    """What each engine logs of four steps, with equal losses and gradient norms."""
    found = []
    for engine in ("ftlab", "trl"):
        trainer, _ = a_trainer(tmp_path / engine, *SHORT, *overrides, f"train.engine={engine}")
        found.append(trained(trainer))
    ours, theirs = found
    losses = [entry["loss"] for entry in ours]
    assert len(losses) == 4 and len(set(losses)) == 4
    # By segments attention adds up in another order than TRL's with a mask: ipo squares margins of 25.
    assert losses == pytest.approx([entry["loss"] for entry in theirs], abs=1e-5, rel=3e-6)
    norms = [entry["grad_norm"] for entry in ours]
    assert norms == pytest.approx([entry["grad_norm"] for entry in theirs], rel=1e-5, abs=1e-6)
    return ours, theirs


BATCHES = {
    "lora, accumulated pairs": ("lora", PAIRS),
    "lora, packed rows": ("lora", PACKED),
    "full, accumulated pairs": ("full", PAIRS),
}


@pytest.mark.parametrize(
    ("stage", "batches"),
    # Pairs of each stage are in the tests behind this one, too.
    across(("rm", "dpo", "kto"), BATCHES, lambda stage, name: "packed" in name or (stage, name[:4]) == ("dpo", "full")),
)
def test_both_engines_reach_the_same_numbers_on_pairs_and_labels(stage, batches, tmp_path):
    method, batches = BATCHES[batches]
    # Adam's first steps go by the sign of each gradient, and so by the rounding of those that are nearly 0.
    steady = ("train.optimizer=sgd", "train.learning_rate=0.1") if method == "full" else ()
    ours, theirs = both(tmp_path, f"stage={stage}", f"method={method}", *batches, *steady)
    shared = {"rm": ("accuracy",), "dpo": ("rewards/margins", "logps/chosen"), "kto": ("kl",)}[stage]
    for name in shared:
        assert [entry[name] for entry in ours] == pytest.approx([entry[name] for entry in theirs], abs=1e-4)


@pytest.mark.parametrize(
    # The formulas are compared in test_losses_trl; here that the trainers get there, with and without smoothing.
    "loss_type",
    ["ipo", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("exo", "hinge", "robust", "nca"))],
)
def test_every_loss_that_both_have(loss_type, tmp_path):
    smoothing = {"robust": 0.1, "exo": 0.001}.get(loss_type, 0.0)
    both(tmp_path, "stage=dpo", f"stage.loss_type={loss_type}", f"stage.label_smoothing={smoothing}", *PAIRS)


@pytest.mark.parametrize(
    "overrides",
    [
        ("stage=rm", "stage.margin=0.7"),
        pytest.param(
            ("stage=dpo", "stage.beta=0.3", "method=freeze", "train.optimizer=sgd", "train.learning_rate=0.1"),
            marks=pytest.mark.matrix,
        ),
        ("stage=dpo", "method=qlora"),
        pytest.param(("stage=rm", "method=qlora"), marks=pytest.mark.matrix),
        pytest.param(("stage=dpo", "model=tiny", "lora.variant=pissa"), marks=pytest.mark.matrix),
        pytest.param(
            ("stage=kto", "stage.desirable_weight=2.0", "stage.undesirable_weight=0.5"), marks=pytest.mark.matrix
        ),
    ],
    ids=" ".join,
)
def test_what_the_stage_and_the_method_say_reaches_trl(overrides, tmp_path):
    both(tmp_path, *overrides, *PAIRS)


@pytest.mark.matrix
def test_a_reference_that_is_another_adapter(tmp_path):
    reference = train_run(tmp_path / "reference", "stage=sft", *SHORT, "train.learning_rate=1e-2").final
    ours, theirs = both(tmp_path, "stage=dpo", f"stage.reference_model={reference}", *PAIRS)
    assert abs(ours[0]["rewards/margins"]) > 1e-3
    assert ours[0]["rewards/margins"] == pytest.approx(theirs[0]["rewards/margins"], abs=1e-5)


@pytest.fixture(
    scope="module", params=["dpo", *(pytest.param(stage, marks=pytest.mark.matrix) for stage in ("rm", "kto"))]
)
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    held = held_out(folder.parent, "labels" if request.param == "kto" else "preferences")
    more = ("train.engine=trl", "train.save_steps=2", "eval.steps=100", held, *PAIRS)
    return request.param, train_run(folder, f"stage={request.param}", *SHORT, *more)


def test_a_stopped_run_of_trls_goes_on_to_the_same_weights(finished, tmp_path):
    """Its reference is still the policy that the phase started from."""
    _, whole = finished
    folder = tmp_path / "run"
    shutil.copytree(whole.path, folder, symlinks=True)
    (phase,) = (folder / "phases").iterdir()
    shutil.rmtree(phase / "checkpoint-4")
    shutil.rmtree(phase / "final")
    (folder / "final").unlink()
    Manifest(RunDir.open(folder)).record(phases={}, status="interrupted")
    went_on = resume_run(folder)
    assert final_hash(went_on) == final_hash(whole)
    for key in ("loss", "eval_loss"):
        assert metrics(went_on, key) == metrics(whole, key)


def test_only_the_policys_adapter_is_saved_and_it_loads(finished):
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification

    stage, run = finished
    (phase,) = (run.path / "phases").iterdir()
    for folder in (phase / "final", phase / "checkpoint-4"):
        assert [path.name for path in folder.iterdir() if path.is_dir()] == []
        assert (folder / "adapter_model.safetensors").is_file()
    cls = AutoPeftModelForSequenceClassification if stage == "rm" else AutoPeftModelForCausalLM
    model = cls.from_pretrained(run.final, dtype=torch.float32, **({"num_labels": 1} if stage == "rm" else {}))
    assert torch.isfinite(model(input_ids=torch.arange(5, 25)[None]).logits).all()
    (result,) = run.manifest()["phases"].values()
    assert result["tokens"] > 0 and "validation loss" in result["after"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("stage=orpo", "train.engine=trl: TRL's own trainers here are those of sft, rm, dpo, kto; stage=orpo needs "
         "train.engine=ftlab"),
        ("stage=pt", "train.engine=trl: TRL's own trainers here are those of sft, rm, dpo, kto; stage=pt needs "
         "train.engine=ftlab"),
        ("stage=dpo stage.loss_type=simpo",
         "stage.loss_type=simpo: TRL's DPO has only losses with a reference; use train.engine=ftlab"),
        ("stage=dpo stage.label_smoothing=0.1",
         "stage.label_smoothing=0.1: TRL's DPO ignores it under loss_type=sigmoid; use robust, or train.engine=ftlab"),
        ("stage=dpo stage.sft_weight=0.5",
         "stage.sft_weight=0.5: TRL averages this term over the tokens of a micro-batch and not over pairs; use "
         "train.engine=ftlab"),
        ("stage=kto train.micro_batch_size=1",
         "train.micro_batch_size=1: TRL's KTO refuses one row at a time; use 2 or more, or train.engine=ftlab"),
    ],
)  # fmt: skip
def test_what_trl_cannot_do_is_refused_before_anything_is_loaded(line, said, mistakes):
    assert mistakes(f"{line} train.engine=trl") == [said]
    assert mistakes(line) == []


def test_the_rule_knows_the_trainers_that_there_are():
    assert tuple(TRL_TRAINERS) == rules.TRL_STAGES


def test_an_adapter_that_trl_would_not_see_is_refused(tmp_path):
    with pytest.raises(NotReadyError, match=r"train\.engine=trl cannot train an adapter or new tokens on the output"):
        more = ("model=tiny", "lora.target_modules=[q_proj,lm_head]", "train.engine=trl")
        a_trainer(tmp_path, "stage=dpo", *SHORT, *more)


def test_losses_do_not_depend_on_micro_batches_and_accumulation(tmp_path):
    splits = ((4, 1), (2, 2), (1, 4))
    found = [
        metrics(
            train_run(
                tmp_path / f"{micro}x{steps}", *EXACT, *BARE, "train.max_steps=3",
                f"train.micro_batch_size={micro}", f"train.gradient_accumulation_steps={steps}",
            ), "loss",
        ) for micro, steps in splits
    ]  # fmt: skip
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize("stage", ["sft", "dpo", "rm", "kto"])
def test_both_engines_measure_the_same_validation_loss(stage, tmp_path):
    """Over batches of different sizes, whose means are not the whole's mean; and nothing of the clock is among it."""
    held = held_out(tmp_path, {"sft": "instructions", "kto": "labels"}.get(stage, "preferences"), 5)
    packed = ("data.packing=false", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1")
    given = (f"stage={stage}", "model=tiny", *SHORT, held, *packed)
    found = {}
    for engine in ("ftlab", "trl"):
        trainer, _ = a_trainer(tmp_path / engine, *given, f"train.engine={engine}", validates=True)
        begin(trainer)
        found[engine] = trainer.evaluate()
    tolerance = {"abs": 2e-3} if stage == "kto" else {"rel": 1e-6}  # whose KL estimate is a batch's
    assert found["trl"]["eval_loss"] == pytest.approx(found["ftlab"]["eval_loss"], **tolerance)
    shared = found["ftlab"].keys() & found["trl"].keys()
    for name in shared - {"eval_loss"}:
        assert found["trl"][name] == pytest.approx(found["ftlab"][name], abs=2e-3 if stage == "kto" else 1e-5), name
    assert not {name for name in found["trl"] if "runtime" in name or "second" in name or "time" in name}


def test_what_a_stopped_run_of_trls_logs_is_what_the_whole_one_does(tmp_path):
    """Tokens above all, also where its checkpoint falls between two lines; and nothing that a clock says."""
    held = held_out(tmp_path, "instructions", 4)
    more = ("train.save_steps=3", "train.logging_steps=2", "train.max_steps=6", "eval.steps=2")
    given = (*SHORT, held, "train.engine=trl", *more)
    whole = train_run(tmp_path / "whole", *given)
    interrupted_run(tmp_path / "stopped", 2, *given)
    stopped = resume_run(tmp_path / "stopped")
    assert logged(stopped) == logged(whole)
    counts = metrics(whole, "num_tokens")
    assert counts == sorted(set(counts)) == [line["tokens"] for line in logged(whole) if "num_tokens" in line]
