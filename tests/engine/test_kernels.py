"""``model.kernels``: what is chosen, said and recorded; what is refused; runs whose layers Liger computes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.text import Text

from ftlab.data.packing.store import PackedRow, Sample
from ftlab.distributed.world import current_world
from ftlab.engine import kernels
from ftlab.engine.kernels import check_kernels, choose_kernels
from ftlab.errors import Interrupted, NotReadyError
from ftlab.model.kernels import liger
from ftlab.model.kernels.liger import LigerLayers
from tests.compatibility import save_family
from tests.families import family_model
from tests.interpreted import INTERPRETED, whole_interpreter
from tests.runs import BARE, Stop, final_hash, metrics, resume_run, train_run

SMALL = (
    *BARE, "hardware.precision=fp32", "lora.dropout=0", "train.logging_steps=1", "train.max_steps=2",
    "train.micro_batch_size=1", "train.gradient_accumulation_steps=1", "data.max_length=64", "data.max_samples=8",
    "data.cache=null", "train.warmup_ratio=0", "model=local",
)  # fmt: skip


class Records:
    """Of a run: what is said, and its manifest."""

    def __init__(self, **values: Any):
        self.said: list[str] = []
        self.values: dict[str, Any] = values
        self.note = self.said.append

    def say(self, markup: str) -> None:
        self.said.append(Text.from_markup(markup).plain)

    def record_item(self, key: str, name: str, value: Any) -> None:
        self.values.setdefault(key, {})[name] = value


def chosen(records: Any, run: Any) -> None:
    choose_kernels(records, records, "sft", run, None, 0, None, None, None)


@pytest.mark.parametrize(
    ("missing", "line"),
    [(["liger-kernel"], "not installed: liger-kernel (pip install 'ftlab[liger]')"), ([], "need a CUDA GPU")],
)
def test_auto_takes_the_models_own_layers_and_says_why(missing, line, make_run, monkeypatch):
    monkeypatch.setattr(kernels, "missing_liger", lambda: missing)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # which is for tests of Liger's, and not chosen by itself
    records = Records()
    chosen(records, make_run("model.kernels=auto", "hardware=cpu"))
    assert line in records.said[0] and "the model's own" in records.said[0]
    assert records.values == {"kernels": {"sft": "none"}}
    monkeypatch.setattr(kernels, "missing_liger", list)
    chosen(records, make_run("model.kernels=auto", "hardware=cpu"))
    assert len(records.said) == 1  # a run that goes on has what it began with


class Rows(list):
    first_packed = None


def test_layers_that_differ_are_taken_out_or_refused(make_run, monkeypatch):
    model = family_model("llama", 128)
    mlp = model.model.layers[1].mlp
    rows = Rows([PackedRow((Sample(np.arange(3, 23, dtype=np.int32), np.ones(20, bool)),))])

    def put(model: Any, run: Any) -> LigerLayers:
        mlp.forward = lambda given: given
        return LigerLayers(("SwiGLU",), (mlp,))

    def fail(model: Any, run: Any) -> LigerLayers:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(kernels, "_unavailable", lambda run, is_interpreted: None)
    given = (model, 0, SimpleNamespace(train=rows), current_world(), "position_ids")
    for replacement, told in (
        (put, "they differ: hidden states by "),
        (fail, "cannot be computed: RuntimeError: no such"),
    ):
        monkeypatch.setattr(liger, "put_liger_layers", replacement)
        records = Records()
        choose_kernels(records, records, "sft", make_run("model.kernels=auto", "hardware=cpu"), *given)
        assert "layers: the model's own; not Liger's: " in records.said[0] and told in records.said[0]
        assert records.values == {"kernels": {"sft": "none"}} and "forward" not in vars(mlp)
        with pytest.raises(NotReadyError, match=rf"model.kernels=liger: .*{told}.* Use model.kernels=none"):
            choose_kernels(Records(), Records(), "sft", make_run("model.kernels=liger", "hardware=cpu"), *given)


def test_a_run_does_not_go_on_without_the_layers_that_it_began_with(make_run, monkeypatch):
    monkeypatch.setattr(kernels, "missing_liger", lambda: ["liger-kernel"])
    run = make_run("model.kernels=auto")
    check_kernels(Records(kernels={"sft": "none"}), "sft", run)
    check_kernels(Records(), "sft", run)
    with pytest.raises(
        NotReadyError, match=r"Phase sft began with Liger's layers .*; not installed: liger-kernel \(pip"
    ):
        check_kernels(Records(kernels={"sft": "liger"}), "sft", run)


def test_it_is_refused_before_anything_is_loaded(make_run, mistakes, monkeypatch):
    from ftlab.preflight import devices

    (mistake,) = mistakes("model=falcon_7b model.kernels=liger")
    assert "model.kernels=liger" in mistake and "no layers for falcon" in mistake and "llama" in mistake
    assert not mistakes("model=falcon_7b model.kernels=auto")
    monkeypatch.setattr(devices, "missing_liger", lambda: ["liger-kernel"])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    no_gpu = "model.kernels=liger needs a CUDA GPU; use model.kernels=none, or auto, which needs none"
    no_package = "model.kernels=liger needs liger-kernel: pip install 'ftlab[liger]'. Or use model.kernels=none"
    run = make_run("model.kernels=liger", "hardware=cpu")
    assert [*devices.device_problems(run)] == [no_gpu], "a package would not help"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert [*devices.device_problems(run)] == [no_package]
    assert not [*devices.device_problems(make_run("model.kernels=auto", "hardware=cpu"))]


# ------------------------------------------------------------------------------------------- with Liger, interpreted


@pytest.fixture
def _interpreted() -> Iterator[None]:
    with whole_interpreter():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return f"model.path={save_family('llama', tmp_path_factory.mktemp('models') / 'llama')}"


def interpreted(*names: str) -> Any:
    return pytest.param(*names, marks=INTERPRETED)


REWARD = (
    "stage.rewards=['length:9']",
    "stage.max_new_tokens=4",
    "stage.rollout_batch_size=2",
    "stage.mini_batch_size=2",
)


@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize(
    "options",
    [
        interpreted(("stage=sft", "method=lora")),
        interpreted(("stage=sft", "method=full", "train.gradient_checkpointing=true")),
        interpreted(
            ("stage=pt", "method=freeze", "method.trainable_layers=2", "train.gradient_checkpointing=selective")
        ),
        interpreted(("stage=sft", "method=qlora")),
        interpreted(("stage=rm", "method=lora")),
        interpreted(("stage=dpo", "method=full")),
        interpreted(("stage=dpo", "method=lora", "stage.reference_model=${model.path}")),
        interpreted(("stage=kto", "method=lora", "train.engine=trl", "train.micro_batch_size=2")),
        interpreted(("stage=ppo", "method=lora", *REWARD)),
        interpreted(("stage=grpo", "method=lora", *REWARD[:2], "stage.num_generations=2", "train.micro_batch_size=2")),
        interpreted(("stage=ppo", "method=full", *REWARD)),
    ],
    ids=" ".join,
)
def test_a_run_computes_what_it_does_without(options, folder, tmp_path):
    options = (*options, folder)
    ours = train_run(tmp_path / "liger", *SMALL, *options, "model.kernels=liger")
    plain = train_run(tmp_path / "plain", *SMALL, *options)
    assert "layers: Liger's RMSNorm" in ours.log.read_text()
    phase = options[0].partition("=")[2]
    assert ours.manifest()["kernels"] == {phase: "liger"} and "kernels" not in plain.manifest()
    wanted = metrics(plain, "loss")
    assert wanted and metrics(ours, "loss") == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize("options", [interpreted(("stage=sft", "method=lora"))])
def test_a_run_that_was_stopped_goes_on_the_same_way(options, folder, tmp_path):
    given = (*SMALL, *options, folder, "model.kernels=liger", "train.save_steps=1")
    whole = train_run(tmp_path / "whole", *given)
    with pytest.raises(Interrupted):
        train_run(tmp_path / "run", *given, hooks=Stop(1))
    run = resume_run(tmp_path / "run")
    assert "as before" in run.log.read_text()
    assert final_hash(run) == final_hash(whole)


@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize("wrong", [interpreted("LigerRMSNorm"), interpreted("LigerSwiGLUMLP")])
def test_layers_that_compute_something_else_are_found_out(wrong, folder, tmp_path, monkeypatch):
    """Once by its forward, once by its backward alone."""
    import liger_kernel.transformers.monkey_patch as source
    import torch

    forward = getattr(source, wrong).forward

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, given: torch.Tensor) -> torch.Tensor:
            return given.view_as(given) if wrong == "LigerRMSNorm" else given * 1.1

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 2

    monkeypatch.setattr(getattr(source, wrong), "forward", lambda self, given: Doubled.apply(forward(self, given)))
    with pytest.raises(NotReadyError, match=r"model.kernels=liger: they differ: .* by .* of their size"):
        train_run(tmp_path / "run", *SMALL, folder, "model.kernels=liger")
