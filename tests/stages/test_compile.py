"""train.compile: what is refused compiles nothing; what is compiled takes a minute each, and is run with
make test-matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ftlab.data.packing.collate import PackedCollator
from ftlab.data.packing.padded_sizes import padded_sizes
from ftlab.data.packing.store import PackedRow, Sample
from ftlab.errors import NotReadyError
from ftlab.model.attention import interface
from ftlab.model.attention.layout import SegmentLayout
from ftlab.model.attention.operator import attend_by_number, number_of
from ftlab.model.compiled import compile_layers
from ftlab.preflight import packages
from tests.runs import BARE, final_hash, interrupted_run, logged, make_run, metrics, resume_run, train_run

COMPILED = "train.compile=layers"
TINY = ("model=tiny", "hardware=cpu", *BARE)
SHORT = (*TINY, "train.max_steps=4", "train.logging_steps=1", "data.max_samples=48", "train.save_steps=2",
         "data.max_length=128", "train.warmup_steps=0", "train.micro_batch_size=2", "lora.dropout=0")  # fmt: skip
FREEZE = ("method=freeze", "method.trainable_layers=2")


def test_what_layers_are_not_compiled_with_is_refused_in_words(mistakes):
    assert mistakes(f"{COMPILED} stage=dpo data=preferences method=full") == []
    for more, reasons in {
        "stage=ppo": ["calls the layers with answers of any length"],
        "train.engine=trl model.attention=sdpa hardware.devices=2 method=qlora train.activation_offload=true": [
            "needs train.engine=ftlab",
            "which model.attention=auto tries first; this is sdpa",
            "use hardware.devices=1 without deepspeed and fsdp, or none",
            "was not run together with quant=nf4; use quant=none, or none",
            "was not run together with train.activation_offload=true",
        ],
    }.items():
        found = mistakes(f"{COMPILED} {more}")
        for reason in reasons:
            assert any(told.startswith(COMPILED) and reason in told for told in found), (reason, found)


def test_without_a_compiler_the_run_does_not_begin(monkeypatch):
    run = make_run("hardware=cpu", COMPILED)
    assert packages.compiler_problems(make_run("hardware=cpu")) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    (told,) = packages.compiler_problems(run)
    assert told.startswith(
        f"{COMPILED} has torch compile programs, and there is no no-such-compiler (on Debian apt-get"
    )
    assert told.endswith("or use train.compile=none")
    monkeypatch.setattr(packages, "may_have_accelerator", lambda: True)
    monkeypatch.setattr(packages, "is_installed", lambda module: False)
    assert "the package triton" in packages.compiler_problems(make_run("hardware=auto", COMPILED))[0]


def test_an_environment_that_has_nothing_compiled_is_told(monkeypatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(NotReadyError, match="in the environment has torch compile nothing"):
        compile_layers(torch.nn.Module(), 1)


def rows_of(*lengths: int) -> list[PackedRow]:
    return [PackedRow((Sample(np.arange(5, 5 + n), np.arange(n) > 0),)) for n in lengths]


def test_a_batch_is_padded_to_a_size_without_effect_on_its_tokens():
    sizes = padded_sizes(np.array([20, 100, 60, 90]), 2)
    assert sizes == [64, 128, 192, 256], "the two longest have 190 tokens, and sizes are multiples of 64"
    plain = PackedCollator(0, isolation="segments")(rows_of(20, 60))
    padded = PackedCollator(0, isolation="segments", sizes=sizes)(rows_of(20, 60))
    assert plain["input_ids"].shape == (1, 80) and padded["input_ids"].shape == (1, 128)
    assert padded["tokens"] == plain["tokens"] == 80
    for name in ("scored", "targets", "segments", "ends", "starts", "lengths"):
        assert torch.equal(padded[name], plain[name]), name
    assert np.array_equal(padded["spans"], plain["spans"])


@pytest.mark.parametrize("groups", [1, 4])
def test_attention_by_number_is_that_of_its_layout_to_the_bit(groups):
    spans = np.array([(0, 40, 0, 0), (40, 23, 0, 17), (63, 65, 0, 0)])
    layout = SegmentLayout(spans, 160)  # with padding at the end
    draw = torch.Generator().manual_seed(0)
    states = [torch.randn(1, heads, 160, 16, generator=draw) for heads in (4, groups, groups)]
    number, found = number_of(layout), []
    for attend, by in ((attend_by_number, number), (interface.attend_on_cpu, layout)):
        inputs = [state.clone().requires_grad_() for state in states]
        out = attend(*inputs, by, None, 30)
        found.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    assert all(torch.equal(one, other) for one, other in zip(*found))


def test_a_layout_that_is_no_longer_kept_is_told():
    layout = SegmentLayout(np.array([(0, 8, 0, 0)]), 8)
    first, states = number_of(layout), [torch.ones(1, 1, 8, 4, requires_grad=True) for _ in range(3)]
    out = attend_by_number(*states, first, None, None)
    for _ in range(64):
        number_of(layout)
    with pytest.raises(RuntimeError, match=f"Micro-batch {int(first)} .* only the layouts of the last 64 are kept"):
        out.sum().backward()


def of_stage(stage: str, folder: Path) -> tuple[str, ...]:
    if stage == "pt":
        texts = [json.dumps({"text": f"{number} and {number} are {2 * number}. " * 20}) for number in range(48)]
        (folder / "texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
        return "stage=pt", f"data.path={folder / 'texts.jsonl'}", "data.format=text"
    data = {"sft": "instructions", "kto": "labels"}
    return f"stage={stage}", f"data={data.get(stage, 'preferences')}"


@pytest.mark.matrix
@pytest.mark.parametrize("stage", ["pt", "sft", "rm", "dpo", "kto", "orpo"])
def test_losses_are_those_of_layers_as_they_are_written(stage, tmp_path):
    given = (*SHORT, *of_stage(stage, tmp_path))
    plain, compiled = train_run(tmp_path / "plain", *given), train_run(tmp_path / "compiled", *given, COMPILED)
    assert metrics(compiled, "loss") == pytest.approx(metrics(plain, "loss"), abs=1e-5)
    if stage == "dpo":
        assert metrics(compiled, "rewards/margins")[0] == 0, "the reference computes by the same programs"
    assert compiled.manifest()["compiled"][stage]["layers"]
    log = compiled.log.read_text()
    assert "layers are compiled (train.compile): micro-batches are padded to" in log
    assert "compiling the layers for micro-batches of" in log and "with the first step of that size, in" in log


@pytest.mark.matrix
@pytest.mark.parametrize(
    "method", [("method=lora", "lora.dropout=0.1"), ("method=full",), FREEZE], ids=["lora", "full", "freeze"]
)
def test_a_run_that_goes_on_comes_to_the_same_bits(method, tmp_path):
    # Micro-batches of several sizes, of which those after the interruption are not those before it.
    rows = [{"prompt": "How many?", "completion": "one more " * (1 + 7 * number % 40)} for number in range(16)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = (f"data.path={tmp_path / 'rows.jsonl'}", "data.format=prompt_completion", "data.packing=false")
    given = (*SHORT, *method, *data, "train.max_steps=8", COMPILED)
    whole = train_run(tmp_path / "whole", *given)
    lines = [line for line in whole.log.read_text().splitlines() if "compiling the layers for" in line]
    assert len(lines) > 1, lines
    interrupted_run(tmp_path / "parts", 4, *given)
    parts = resume_run(tmp_path / "parts")
    assert final_hash(parts) == final_hash(whole) and logged(parts) == logged(whole)
