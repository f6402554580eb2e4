"""train.fp8: what is refused needs no torchao; what is trained with it is marked, and run with make test-fp8. On a CPU
products are emulated: rounded as on a GPU, and multiplied in fp32."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from benchmarks.memory import peak_bytes
from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import NotReadyError
from ftlab.model.checkpointing import checkpointing_options
from ftlab.model.fp8 import check_fp8, convert_linears
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.preflight import packages
from ftlab.preflight.devices import device_problems
from ftlab.preflight.memory.fp8 import linear_cast_bytes
from ftlab.preflight.memory.layers import Linear
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from tests.conftest import ROOT
from tests.distributed.test_ranks import start, train  # noqa: F401
from tests.runs import BARE, final_hash, interrupted_run, logged, make_run, metrics, resume_run, train_run
from tests.stages.test_checkpointing import backward
from tests.stages.trainers import a_trainer, begin
from tests.stages.waits import Between

SCALINGS = ("tensorwise", "rowwise", "rowwise_with_gw_hp")
FULL = ("model=tiny", "method=full", "hardware=cpu")
SHORT = (*FULL, *BARE, "train.max_steps=4", "train.logging_steps=1", "data.max_samples=48", "train.save_steps=2",
         "train.learning_rate=1e-4", "train.warmup_steps=0")  # fmt: skip


def of_stage(stage: str, folder: Path) -> tuple[str, ...]:
    if stage == "pt":
        texts = [json.dumps({"text": f"{number} and {number} are {2 * number}. " * 20}) for number in range(48)]
        (folder / "texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
        return "stage=pt", f"data.path={folder / 'texts.jsonl'}", "data.format=text"
    return f"stage={stage}", f"data={'labels' if stage == 'kto' else 'preferences'}"


def test_what_it_does_not_go_with_is_refused_in_words(mistakes):
    line = "train.fp8=tensorwise method=full "
    assert mistakes(line) == mistakes(f"{line} hardware=h100") == mistakes(f"{line} stage=dpo data=preferences") == []
    for more, reason in {
        "method=lora": "Use method=full or freeze",
        "method=qlora": "Use method=full or freeze",
        "stage=ppo": "in other batches, which round otherwise",
        "stage=grpo": "in other batches, which round otherwise",
        "train.engine=trl": "needs train.engine=ftlab",
        "deepspeed=z3": "use deepspeed=z2, hardware.fsdp=true, or none",
        "hardware.precision=fp16": "goes with hardware.precision=bf16",
        "hardware=8xa100": "hardware=8xa100 does not multiply in fp8: its compute capability is 8.0, and 8.9 is needed",
    }.items():
        assert any(told.startswith("train.fp8=tensorwise") and reason in told for told in mistakes(line + more)), more
    assert mistakes(f"{line} train.compile=layers") == []
    told = " ".join(mistakes(f"{line} train.compile=layers stage=dpo data=preferences"))
    assert "was not run together with train.fp8=tensorwise and a reference" in told
    assert "must be one of: none, tensorwise, rowwise" in " ".join(mistakes("train.fp8=true"))


def test_the_package_is_asked_for_before_torch_is_imported(monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: False)
    (told,) = packages.missing_fp8(make_run(*FULL, "train.fp8=rowwise"))
    assert told.startswith("train.fp8=rowwise needs the package torchao: pip install torchao")
    assert packages.missing_fp8(make_run(*FULL)) == []


def test_a_device_without_it_is_refused_by_its_name(monkeypatch):
    run = make_run("method=full", "train.fp8=tensorwise")
    check_fp8(run)  # a CPU emulates
    monkeypatch.setattr("ftlab.model.fp8.uses_cpu", lambda run: False)
    with pytest.raises(NotReadyError, match="needs a GPU of NVIDIA's, or a CPU"):
        check_fp8(run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-40GB")
    for capability in ((8, 0), (8, 6)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        with pytest.raises(NotReadyError, match=f"A100-SXM4-40GB does not multiply in fp8.*8.{capability[1]}; 8.9 is"):
            check_fp8(run)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    check_fp8(run)


def test_a_driver_that_tells_is_believed_before_anything_is_prepared(monkeypatch):
    monkeypatch.setattr("ftlab.preflight.devices.may_have_accelerator", lambda: True)
    run = make_run("method=full", "train.fp8=tensorwise")
    for told, refused in ((None, False), ("8.6\n8.6", True), ("8.6\n9.0", False), ("[N/A]", False)):
        monkeypatch.setattr("ftlab.base.machine.command_output", lambda command, told=told: told)
        problems = [line for line in device_problems(run) if line.startswith("train.fp8=tensorwise needs a GPU")]
        assert len(problems) == refused and all("this machine's have 8.6" in line for line in problems)


@pytest.fixture(scope="module")
def installed() -> None:
    pytest.importorskip("torchao")


with_torchao = [pytest.mark.fp8, pytest.mark.usefixtures("installed")]


def apply(*marks):
    def mark(function):
        for one in marks:
            function = one(function)
        return function

    return mark


@apply(*with_torchao)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_those_of_exact_products_but_for_rounding(scaling, precision, tmp_path):
    given = (*SHORT, f"hardware.precision={precision}")
    exact = train_run(tmp_path / "exact", *given)
    rounded = train_run(tmp_path / "rounded", *given, f"train.fp8={scaling}")
    losses = metrics(exact, "loss"), metrics(rounded, "loss")
    assert losses[0] == pytest.approx(losses[1], rel=0.03) and losses[0] != losses[1]
    assert rounded.manifest()["fp8"]["sft"] | {"torchao": ""} == {
        "scaling": scaling, "layers": 28, "others": 0, "is_emulated": True, "torchao": "",
    }  # fmt: skip
    assert f"28 of 28 linear layers of the decoder multiply in fp8 (train.fp8={scaling})" in rounded.log.read_text()


@apply(*with_torchao)
@pytest.mark.parametrize("stage", ["pt", "rm", "dpo", "kto", "orpo"])
def test_every_stage_that_trains_a_policy_whole_has_it(stage, tmp_path):
    given = (*SHORT, *of_stage(stage, tmp_path))
    exact = train_run(tmp_path / "exact", *given)
    rounded = train_run(tmp_path / "rounded", *given, "train.fp8=tensorwise")
    losses = metrics(exact, "loss"), metrics(rounded, "loss")
    assert losses[0] == pytest.approx(losses[1], rel=0.1, abs=0.05) and losses[0] != losses[1]
    if stage == "dpo":
        assert metrics(rounded, "rewards/margins")[0] == 0, "the reference computes in fp8, too, in the same batches"


@apply(*with_torchao)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_run_that_is_continued_is_the_same_to_the_bit(scaling, tmp_path):
    given = (*SHORT, f"train.fp8={scaling}")
    whole = train_run(tmp_path / "whole", *given)
    interrupted_run(tmp_path / "run", 2, *given)
    continued = resume_run(tmp_path / "run")
    assert final_hash(whole) == final_hash(continued) and logged(whole) == logged(continued)


@apply(*with_torchao)
def test_what_is_saved_is_an_ordinary_model(tmp_path):
    exact, rounded = (
        train_run(tmp_path / name, *SHORT, f"train.fp8={name}", "train.max_steps=2") for name in ("none", "tensorwise")
    )

    def shapes(run_dir: RunDir) -> dict[str, tuple[str, list[int]]]:
        with safe_open(run_dir.final / "model.safetensors", framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (one.get_dtype(), one.get_shape()) for name, one in found.items()}

    def config(run_dir: RunDir) -> dict[str, object]:
        return json.loads((run_dir.final / "config.json").read_text())

    assert shapes(exact) == shapes(rounded) and config(exact) == config(rounded)
    loaded = AutoModelForCausalLM.from_pretrained(rounded.final)
    assert {type(layer.mlp.up_proj) for layer in loaded.model.layers} == {torch.nn.Linear}


@apply(*with_torchao)
def test_checkpointing_changes_nothing_and_selective_keeps_products():
    run = make_run(*FULL, "train.fp8=tensorwise")
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "tiny", dtype=torch.float32)
    convert_linears(model, run)
    kept, once, selective = (
        backward(model, None if way == "false" else checkpointing_options(
            make_run(*FULL, f"train.gradient_checkpointing={way}")
        )) for way in ("false", "true", "selective")
    )  # fmt: skip
    for way in (once, selective):
        assert len(way[0]) == len(kept[0]) and all(map(torch.equal, kept[0], way[0]))
    products = [found["aten::mm"] - kept[1]["aten::mm"] for _, found in (once, selective)]
    assert products[1] < products[0]


@apply(*with_torchao)
def test_what_does_not_train_and_what_has_other_sizes_stays_exact(tmp_path):
    run = make_run(*FULL, "method=freeze", "method.trainable_layers=1", "train.fp8=tensorwise")
    model, _ = build_model(run, load_tokens(run))
    assert convert_linears(model, run).layers == 7
    assert type(model.lm_head) is torch.nn.Linear
    in_fp8 = [name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"]
    assert all(name.startswith("model.layers.3.") for name in in_fp8)
    odd, _ = build_model(make_run(*FULL), load_tokens(run))
    for layer in odd.model.layers:
        layer.mlp.gate_proj = torch.nn.Linear(128, 380, bias=False)
    assert (found := convert_linears(odd, run)).layers == 24 and found.others == 4
    with pytest.raises(NotReadyError, match="no linear layer that trains"):
        convert_linears(build_model(run, load_tokens(run))[0].requires_grad_(False), run)


@apply(*with_torchao, pytest.mark.distributed)
@pytest.mark.parametrize("wrapper", ["hardware.fsdp=false", "hardware.fsdp=true", "deepspeed=z2"])
def test_two_processes_train_it(wrapper, tmp_path, train):  # noqa: F811
    words = ("method=full", "hardware=cpu", *BARE, "train.max_steps=4", "train.logging_steps=1", "train.fp8=rowwise",
             "data.max_samples=48", "train.micro_batch_size=1", "train.learning_rate=1e-4")  # fmt: skip
    train(*words, "hardware.devices=2", wrapper, "train.gradient_accumulation_steps=1", "run.dir=two")
    train(*words, "train.gradient_accumulation_steps=2", "run.dir=one")
    one, other = (metrics(RunDir.open(Path(tmp_path / name)), "loss") for name in ("one", "two"))
    assert one == pytest.approx(other, rel=1e-3)


@apply(*with_torchao)
@pytest.mark.parametrize("scaling", ["tensorwise", "rowwise_with_gw_hp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1024, 512, 512), (256, 512, 2048), (2048, 512, 1024)])
def test_a_layers_backward_takes_what_is_predicted_of_it(tokens, inputs, outputs, dtype, scaling):
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = replace(Float8LinearConfig.from_recipe_name(scaling), emulate=True, pad_inner_dim=True)
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False)).to(dtype)
    convert_to_float8_training(layer, config=config)
    hidden = torch.randn(tokens, inputs, dtype=dtype, requires_grad=True)
    given, gradient = layer(hidden), torch.randn(tokens, outputs, dtype=dtype)
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with profile:
        given.backward(gradient)
    is_exact = scaling != "tensorwise"
    predicted = linear_cast_bytes(Linear(inputs, outputs), tokens, dtype.itemsize, is_exact, True)
    own = dtype.itemsize * tokens * inputs  # the gradient of what went in, which is there in the second product
    assert predicted * 0.98 <= peak_bytes(profile) <= (predicted + own) * 1.02


@apply(*with_torchao)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_rounding_waits_for_no_device(scaling, tmp_path):
    given = (
        *SHORT,
        f"train.fp8={scaling}",
        "train.logging_steps=10",
        "train.max_steps=5",
        "train.save_steps=100",
        "data.cache=null",
    )
    trainer, _ = a_trainer(tmp_path, *given)
    convert_linears(trainer.model, trainer.run)
    between = Between()
    trainer.add_callback(between)
    begin(trainer)
    trainer.train()
    assert trainer.state.global_step == 5 and between.waits.found == {}


@apply(*with_torchao)
def test_compiled_layers_round_too_and_a_run_goes_on_to_the_same_bits(tmp_path):
    given = (*SHORT, "train.fp8=rowwise", "data.max_length=128")
    plain = train_run(tmp_path / "plain", *given)
    compiled = train_run(tmp_path / "compiled", *given, "train.compile=layers")
    losses = metrics(plain, "loss"), metrics(compiled, "loss")
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5) and losses[0] == pytest.approx(losses[1], rel=0.02)
    interrupted_run(tmp_path / "run", 2, *given, "train.compile=layers")
    continued = resume_run(tmp_path / "run")
    assert final_hash(compiled) == final_hash(continued) and logged(compiled) == logged(continued)


class LittleMemory(PhaseHooks):
    """A device that has room for one row at a time, from the third step on."""

    def trainer_built(self, phase, trainer) -> None:
        def watch(module, args, kwargs, output) -> None:
            if trainer.state.global_step >= 2 and torch.is_grad_enabled() and output.shape[0] > 1:
                raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")

        trainer.model.model.layers[0].register_forward_hook(watch, with_kwargs=True)


@apply(*with_torchao)
def test_a_step_is_taken_again_in_halves_and_goes_on_so(tmp_path):
    given = (*SHORT, "train.fp8=rowwise", "model.attention=sdpa", "train.micro_batch_size=2")
    whole = train_run(tmp_path / "whole", *given, hooks=LittleMemory())
    assert whole.manifest()["batch_sizes"] == {"sft": [{"step": 4, "micro_batch_size": 1}]}, "the third had one row"
    spacious = train_run(tmp_path / "spacious", *given)
    assert metrics(spacious, "loss") == pytest.approx(metrics(whole, "loss"), rel=0.02)
    shutil.copytree(whole.path, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "final").unlink()
    (phase,) = (tmp_path / "run" / "phases").iterdir()
    shutil.rmtree(phase / "final")
    shutil.rmtree(phase / "checkpoint-4")
    Manifest(RunDir.open(tmp_path / "run")).record(phases={}, status="running")
    continued = resume_run(tmp_path / "run")
    assert final_hash(whole) == final_hash(continued)
