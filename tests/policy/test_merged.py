"""Merged weights compute what base and adapter compute together, whatever the base is and the adapter has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from ftlab.model.load import DTYPES, load_model
from ftlab.policy.build import build_model
from ftlab.policy.merged import merged_model
from ftlab.policy.tokens import Tokens, load_tokens
from ftlab.schema import Run
from tests.conftest import ROOT
from tests.runs import make_run

IDS = torch.arange(3, 90)[None]
TINY = ROOT / "models" / "tiny"


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    """The embedded model's shape with one matrix for the embedding and the head."""
    folder = tmp_path_factory.mktemp("tied") / "model"
    config = AutoModelForCausalLM.from_pretrained(TINY).config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """The embedded model, stored in bf16."""
    folder = tmp_path_factory.mktemp("half") / "model"
    AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


# Words of the command line, and the largest difference of a logit in parts of the largest one.
EXACT = 1e-5
CASES: dict[str, tuple[tuple[str, ...], float]] = {
    "fp32": ((), EXACT),
    "bf16 base": (("model.path=HALF", "hardware.precision=bf16"), 2e-2),  # of products in bf16, which training has
    "nf4": (("quant=nf4",), EXACT),
    "nf4 of bf16": (("quant=nf4", "hardware.precision=bf16"), 2e-2),
    "fp4": (("quant=fp4",), EXACT),
    "int8": (("quant=int8",), 5e-2),  # int8 layers round what goes into them too
    "tied": (("model.path=TIED", "model.architecture.tied_embeddings=true"), EXACT),
    "tied head": (
        ("model.path=TIED", "model.architecture.tied_embeddings=true", "lora.target_modules=[lm_head,q_proj]"),
        EXACT,
    ),
    "added tokens": (("model.template=llama3",), EXACT),
    "tied, added tokens": (
        ("model.path=TIED", "model.architecture.tied_embeddings=true", "model.template=llama3"),
        EXACT,
    ),
    "dora": (("lora=dora",), EXACT),
    "nf4 dora": (("lora=dora", "quant=nf4"), EXACT),
    "rslora": (("lora=rslora",), EXACT),
    "pissa": (("lora=pissa",), EXACT),
}


def logits(model: Any, run: Run) -> torch.Tensor:
    dtype = DTYPES[run.hardware.precision] if run.hardware.precision != "auto" else torch.float32
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return model.eval()(IDS, use_cache=False).logits.float()


def move_a_little(model: Any) -> None:
    """Every trained weight, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def difference(run: Run, tokens: Tokens, folder: Path, dtype: torch.dtype = torch.float32) -> float:
    """Between base with adapter, and the merged model as it was saved and loaded: the largest, in parts of the largest
    logit. :param run: with ``model.adapter``."""
    model, _ = build_model(run, tokens)
    before = logits(model, run)
    merged = merged_model(run, tokens.tokenizer, torch.float32).to(dtype)
    merged.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not getattr(again, "is_quantized", False) and "quantization_config" not in again.config.to_dict()
    with torch.no_grad():
        after = again.eval()(IDS, use_cache=False).logits
    assert after.shape == before.shape
    return float((after - before).abs().max() / before.abs().max())


SLOW = ("nf4 of bf16", "fp4", "rslora", "tied")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.matrix if c in SLOW else ()) for c in CASES])
def test_merged_is_unmerged(case, tmp_path, tied, half, record_property):
    words, limit = CASES[case]
    given = [word.replace("TIED", str(tied)).replace("HALF", str(half)) for word in words]
    run = make_run("lora.dropout=0.0", *given)
    tokens = load_tokens(run)
    model, _ = build_model(run, tokens)
    plain = logits(model, run)
    move_a_little(model)
    assert (logits(model, run) - plain).abs().max() > 0.1  # the adapter does something
    model.save_pretrained(tmp_path / "adapter")
    adapted = make_run("lora.dropout=0.0", *given, f"model.adapter={tmp_path / 'adapter'}")
    found = difference(adapted, tokens, tmp_path / "merged")
    record_property("difference", found)
    print(f"{case}: {found:.1e}")
    assert found <= limit


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_what_is_written_in_fewer_bits_differs_by_their_rounding(dtype, tmp_path):
    run = make_run("lora.dropout=0.0")
    tokens = load_tokens(run)
    model, _ = build_model(run, tokens)
    move_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    adapted = make_run("lora.dropout=0.0", f"model.adapter={tmp_path / 'adapter'}")
    found = difference(adapted, tokens, tmp_path / "merged", DTYPES[dtype])
    print(f"{dtype}: {found:.1e}")
    assert 1e-5 < found < {"bf16": 2e-2, "fp16": 3e-3}[dtype]


@pytest.mark.parametrize("which", ["tied", "untied"])
def test_modules_that_were_saved_whole_are_merged_too(which, tmp_path, tied):
    """An adapter of another origin, whose head was trained beside it: on a tied base it is a matrix of its own then."""
    given = (f"model.path={tied}", "model.architecture.tied_embeddings=true") if which == "tied" else ()
    run = make_run("lora.dropout=0.0", *given)
    set_seed(0)
    model = load_model(run)
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    move_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    adapted = make_run("lora.dropout=0.0", *given, f"model.adapter={tmp_path / 'adapter'}")
    assert difference(adapted, load_tokens(adapted), tmp_path / "merged") <= EXACT


def test_a_quantized_base_is_merged_as_it_was_trained_and_not_as_it_was_before(tmp_path):
    """The weights that nf4 stands for are what the adapter was trained beside: the others are further away."""
    run = make_run("lora.dropout=0.0", "quant=nf4")
    tokens = load_tokens(run)
    model, _ = build_model(run, tokens)
    move_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    adapted = make_run("lora.dropout=0.0", "quant=nf4", f"model.adapter={tmp_path / 'adapter'}")
    before = logits(build_model(adapted, tokens)[0], adapted)
    other = make_run("lora.dropout=0.0", f"model.adapter={tmp_path / 'adapter'}")
    unquantized = logits(merged_model(other, tokens.tokenizer, torch.float32), run)
    assert (unquantized - before).abs().max() > 0.1
    assert difference(adapted, tokens, tmp_path / "merged") <= EXACT
