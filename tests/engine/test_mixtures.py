"""Mixtures of experts, trained whole: what is saved is what was trained, and what is loaded is what was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ftlab.distributed.sharding import Sharding
from ftlab.errors import RunDirError
from ftlab.model.whole_weights import load_whole_model
from tests.mixtures import save_mixture, shape_overrides
from tests.runs import BARE, final_hash, held_out, interrupted_run, logged, metrics, resume_run, train_run

WHOLE = (
    "method=full",
    "train.logging_steps=1",
    "train.learning_rate=1e-2",
    "data.packing=false",
    "data.max_samples=16",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mixtures")
    return {family: save_mixture(folder / family, family) for family in ("mixtral", "qwen3_moe", "qwen3_next")}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "qwen3_next"])
def test_every_weight_of_a_checkpoint_is_loaded(tmp_path, folders, family):
    model, other = (AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32) for _ in range(2))
    for parameter in model.parameters():
        parameter.data.normal_()
    model.save_pretrained(tmp_path)
    load_whole_model(other, tmp_path, Sharding())
    assert [n for n, p in model.named_parameters() if not torch.equal(p, other.get_parameter(n))] == []


@pytest.mark.parametrize("change", ["lacks", "extra", "shape"])
def test_a_checkpoint_without_all_of_a_models_weights_is_refused(tmp_path, folders, change):
    model = AutoModelForCausalLM.from_pretrained(folders["mixtral"], dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    if change == "lacks":
        del tensors["model.layers.1.self_attn.q_proj.weight"]
    elif change == "extra":
        tensors["model.layers.7.self_attn.q_proj.weight"] = torch.zeros(2)
    else:
        tensors["model.norm.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunDirError, match=r"cannot be continued from: .*(q_proj|norm)\.weight"):
        load_whole_model(model, tmp_path, Sharding())


@pytest.mark.parametrize("family", ["mixtral", pytest.param("qwen3_next", marks=pytest.mark.matrix)])
def test_a_whole_mixture_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, folders, family):
    given = (*shape_overrides(folders[family], family), *BARE, *WHOLE, "train.max_steps=5", "train.save_steps=2")
    whole = train_run(tmp_path / "whole", *given)
    interrupted_run(tmp_path / "stopped", 2, *given)
    stopped = resume_run(tmp_path / "stopped")
    assert logged(stopped) == logged(whole)
    assert final_hash(stopped) == final_hash(whole)


def test_the_best_weights_of_a_mixture_are_those_that_were_measured(tmp_path, folders):
    """The rate is far too high, so the first evaluation stays the best one."""
    given = (
        *shape_overrides(folders["mixtral"], "mixtral"), *BARE[:3], *WHOLE, held_out(tmp_path, "instructions", 4),
        "data.split.golden=none", "train.max_steps=4", "eval.steps=1", "train.keep_best=true",
        "train.learning_rate=0.5",
    )  # fmt: skip
    run = train_run(tmp_path / "run", *given)
    values = metrics(run, "eval_loss")
    result = run.manifest()["phases"]["sft"]
    assert result["weights_of_step"] < 4
    assert result["after"]["validation loss"] == min(values[1:])
    again = (*given, f"model.path={run.final}", "train.learning_rate=1e-8")
    reloaded = train_run(tmp_path / "again", *again)
    assert metrics(reloaded, "eval_loss")[0] == pytest.approx(min(values[1:]), abs=1e-6)
