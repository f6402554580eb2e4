"""Checkpoints that are quantized already: refused before torch where they cannot be trained on, each with a way out."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from ftlab.errors import NotReadyError
from ftlab.model import prequantized
from ftlab.model.adapter import apply_method, count_parameters
from ftlab.model.load import load_model
from ftlab.preflight import check
from tests.conftest import ROOT
from tests.runs import FAST, make_run, train_run

TINY = ROOT / "models" / "tiny"


def checkpoint(folder: Path, quantization: dict[str, object]) -> Path:
    """The embedded model's files, whose config says that it is quantized."""
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((TINY / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return folder


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(NotReadyError) as caught:
        check.check(make_run("model=tiny", f"model.path={path}", *overrides))
    return str(caught.value)


@pytest.mark.parametrize("kind", ["gptq", "awq"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method=full", ", and quantized weights cannot be trained themselves: use method=lora, or the unquantized"),
        ("method=freeze", ", and quantized weights cannot be trained themselves: use method=lora"),
        ("method=qlora", ": use quant=none instead of quant=nf4, which is for weights as they are"),
        ("quant=int8", ": use quant=none instead of quant=int8, which is for weights as they are"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_beforehand(kind, override, said, tmp_path):
    path = checkpoint(tmp_path / "m", {"quant_method": kind, "bits": 4})
    assert f"model.path={path} is quantized already ({kind}){said}" in refusal(path, override)


@pytest.mark.parametrize(
    ("kind", "installed", "said"),
    [
        ("gptq", {}, "needs gptqmodel>=1.4.3 and optimum>=1.24.0: pip install 'gptqmodel>=1.4.3' 'optimum>=1.24.0'"),
        ("gptq", {"gptqmodel": "7.7.0"}, "needs optimum>=1.24.0: pip install 'optimum>=1.24.0'"),
        ("awq", {"gptqmodel": "4.2.5"}, "needs gptqmodel>=5.0.0: pip install 'gptqmodel>=5.0.0'"),
        ("awq", {"gptqmodel": "5.0.0"}, None),
        ("gptq", {"gptqmodel": "7.7.0", "optimum": "2.3.0"}, None),
        ("mxfp4", {}, "adapters train on gptq, awq, bitsandbytes. Use the unquantized model"),
    ],
)
def test_packages_are_named_where_they_lack(kind, installed, said, tmp_path, monkeypatch):
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(prequantized.metadata, "version", version)
    path = checkpoint(tmp_path / "m", {"quant_method": kind})
    found = prequantized.unsupported_reason(make_run("model=tiny", f"model.path={path}"))
    assert found is None if said is None else said in str(found)


def test_weights_as_they_are_need_nothing():
    assert prequantized.unsupported_reason(make_run("method=qlora")) is None
    assert prequantized.quantization_kind(make_run("model.path=nobody/nothing").model) is None


def test_a_checkpoint_saved_in_four_bits_trains_as_the_quantized_model_does(tmp_path):
    """The one kind whose package is always here: its adapter, its counts and its losses are those of method=qlora."""
    run = make_run("model=tiny", "method=qlora")
    load_model(run).save_pretrained(tmp_path / "m")
    for file in [*TINY.glob("*token*"), TINY / "chat_template.jinja"]:
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    given = make_run("model=tiny", f"model.path={tmp_path}/m")
    assert prequantized.quantization_kind(given.model) == "bitsandbytes"
    models = []
    for one in (run, given):
        torch.manual_seed(0)
        models.append(apply_method(load_model(one), one))
    assert count_parameters(models[0]) == count_parameters(models[1])
    ids = torch.arange(20, 52)[None]
    with torch.no_grad():
        assert torch.allclose(*(model(input_ids=ids).logits for model in models), atol=1e-5)
    trained = train_run(tmp_path / "r", "model=tiny", f"model.path={tmp_path}/m", *FAST, "train.max_steps=2")
    assert trained.manifest()["status"] == "finished"
