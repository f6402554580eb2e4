"""An adapter that is merged computes what it computed before, also on a head that shares its matrix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftlab.model.adapter import apply_method
from ftlab.model.load import load_model
from ftlab.policy.lineage import ending_config
from tests.conftest import ROOT
from tests.runs import BARE, make_run, metrics, train_run

IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    """The embedded model's shape with one matrix for the embedding and the head."""
    folder = tmp_path_factory.mktemp("tied") / "model"
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "tiny")
    model.config.tie_word_embeddings = True
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(model.config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "models" / "tiny").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "targets", ["[lm_head,q_proj]", "[embed_tokens,q_proj]", "[lm_head,embed_tokens]", "all-linear"]
)
def test_a_merged_adapter_on_a_tied_head_computes_the_same(tmp_path, tied, targets):
    given = ("model=tiny", f"model.path={tied}", "model.architecture.tied_embeddings=true", "lora.dropout=0.0")
    run = make_run(*given, f"lora.target_modules={targets}")
    model = apply_method(load_model(run), run)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
        before = model.eval()(IDS).logits
        model.save_pretrained(tmp_path / "adapter")
        merged_run = make_run(*given, "method=full", f"model.adapter={tmp_path / 'adapter'}")
        merged = apply_method(load_model(merged_run), merged_run).eval()
        assert torch.allclose(merged(IDS).logits, before, atol=1e-4)
        merged.save_pretrained(tmp_path / "merged")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert torch.equal(again(IDS).logits, merged(IDS).logits)
    is_tied = json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    assert is_tied == (targets == "all-linear")


def test_a_phase_that_merges_a_tied_head_starts_where_the_one_before_ended(tmp_path, tied):
    phases = "[{name: a, stage: sft}, {name: b, stage: sft, start: merge}]"
    run = train_run(
        tmp_path / "run", f"model.path={tied}", "model.architecture.tied_embeddings=true", *BARE[:3],
        "data.split.golden=none", "lora.target_modules=[lm_head,q_proj]", "train.max_steps=3",
        "train.learning_rate=3e-2",
        "data.max_samples=32", "lora.dropout=0.0", "train.warmup_ratio=0.0", f"phases={phases}",
    )  # fmt: skip
    results = run.manifest()["phases"]
    ended, began = (results[name][when]["validation loss"] for name, when in (("a", "after"), ("b", "before")))
    assert began == pytest.approx(ended, abs=1e-5)
    assert results["a"]["before"]["validation loss"] - ended > 0.05
    assert Path(ending_config(run, run.plan(), "b").model.path).name == "base"
    assert metrics(run, "loss")
