"""FSDP2: weights in parts, each process with its own. Runs against one process, killed and continued: test_ranks.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from ftlab.distributed import fsdp
from ftlab.distributed.sharding import sharding_of
from ftlab.model.modules import decoder_layers
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.preflight.memory import predict
from ftlab.stages.trainer.forward import packed_logprobs
from tests.conftest import ROOT
from tests.distributed.test_ranks import BASE, check_equal, lines, start, train  # noqa: F401
from tests.runs import make_run

# --------------------------------------------------------------------------- in one process that is a group of its own


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def batch() -> dict[str, Any]:
    ids = torch.arange(24).reshape(2, 12) + 300
    positions = torch.arange(12).expand(2, 12)
    scored = torch.arange(23)
    return {"input_ids": ids, "position_ids": positions, "scored": scored, "targets": ids.reshape(-1)[scored + 1]}


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=pytest.mark.distributed) for method in ("full", "lora")] + ["qlora"]
)
def test_a_step_in_shards_is_the_step_of_a_whole_model(group, method):
    """The head is called outside of what is sharded, also in an evaluation before training; its weights are there."""
    run = make_run("hardware=cpu", f"method={method}", "lora.dropout=0")
    after = []
    for is_sharded in (False, True):
        model, _ = build_model(run, load_tokens(run))
        base = model if method == "full" else model.get_base_model()
        if is_sharded:
            fsdp.shard_model(base, decoder_layers(model), torch.device("cpu"), in_16_bits=False)
            assert fsdp.sharded_units(model) == 5
        with torch.no_grad():
            before = packed_logprobs(model.eval(), model, batch())
        fsdp.release(model)
        trained = [p for p in model.train().parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(2):
            packed_logprobs(model, model, batch()).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        state = {name: fsdp.whole(p).clone() for name, p in model.named_parameters() if p.requires_grad}
        after.append((before, state))
    (before, state), (sharded_before, sharded_state) = after
    torch.testing.assert_close(before, sharded_before, rtol=0, atol=0)
    assert state.keys() == sharded_state.keys()
    for name, weight in state.items():
        torch.testing.assert_close(weight, sharded_state[name], rtol=1e-5, atol=1e-6)


def test_what_one_process_saves_of_an_optimizer_is_what_it_loads(group, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    model.config = None
    fsdp.shard_model(model, [model[0]], torch.device("cpu"), in_16_bits=False)

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.1)

    first = optimizer()
    model(torch.ones(4, 3)).sum().backward()
    first.step()
    torch.save(fsdp.local_states(first.state_dict()), tmp_path / "optimizer.pt")
    second = optimizer()
    second.load_state_dict(fsdp.sharded_states(torch.load(tmp_path / "optimizer.pt", weights_only=True), second))
    for left, right in zip(first.state.values(), second.state.values(), strict=True):
        assert left.keys() == right.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert type(left["exp_avg"]) is type(right["exp_avg"])
        for name in left:
            assert torch.equal(fsdp.whole(left[name]), fsdp.whole(right[name]))


def test_values_are_put_where_they_are_kept(group):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    fsdp.shard_model(model, [], torch.device("cpu"), in_16_bits=False)
    values = torch.arange(15.0).reshape(5, 3)
    fsdp.put(model[0].weight, values)
    assert torch.equal(fsdp.whole(model[0].weight), values)
    fsdp.put(model[0].bias, torch.zeros(5))
    assert torch.equal(model(torch.eye(3)), values.T)


# ------------------------------------------------------------------------------------------------ what is planned


def test_what_the_handshake_expects():
    sharding = sharding_of(make_run("hardware=cpu", "hardware.devices=2", "hardware.fsdp=true"))
    assert sharding.wrapper == "fully_shard" and not sharding.is_whole
    assert sharding.layout == "weights, gradients and optimizer states in 2 parts, 5 gathered one by one"
    # Nobody has sharded it: the run would stop at its first step.
    assert sharding.found_layout(torch.nn.Linear(2, 2)) == "nothing is sharded"
    assert sharding.found_wrapper(torch.nn.Linear(2, 2)) == "Linear"


@pytest.mark.parametrize(("method", "each"), [("full", 16), ("lora", 2)])
def test_what_a_device_holds_is_an_eighth(method, each):
    """Of 7 billion parameters in bf16: 4 + 4 + 8 bytes of each that trains, 2 of each that does not."""
    run = make_run("model=llama2_7b", f"method={method}", "hardware=8xh100", "hardware.fsdp=true")
    prediction = predict(run)
    states = ("weights", "gradients", "optimizer states")
    held = sum(size for name, size in prediction.parts.items() if name.startswith(states))
    held += 0 if "gradients" in prediction.parts else 4 * prediction.trainable / 8
    assert held * 8 / 6.738e9 == pytest.approx(each, rel=0.1)
    # Embedding and head whole, two layers of 202 million, and what their gradients need.
    gathered = {"full": 2 * 4 * 262e6 + 3 * 2 * 202e6 + 4 * 202e6, "lora": 2 * 262e6 + 2 * 2 * 202e6}[method]
    assert prediction.parts["gather buffers"] == pytest.approx(gathered, rel=0.02)


# -------------------------------------------------------------------------------------------------- in two processes


SMALL = (*BASE, "train.learning_rate=1e-4", "train.max_steps=4", "train.micro_batch_size=2")
TWO = ("hardware.devices=2", "hardware.fsdp=true", "train.gradient_accumulation_steps=2")


@pytest.mark.distributed
@pytest.mark.parametrize(
    "words",
    [
        ("method=full", "train.gradient_checkpointing=true"),
        ("method=qlora", "train.gradient_checkpointing=true"),
        ("method=freeze", "method.trainable_layers=1"),
        ("lora=dora",),
        ("lora=loraplus", "train.optimizer=sgd"),
        ("data.num_samples=43", "data.packing=false", "train.micro_batch_size=4"),
        ("train.max_grad_norm=0",),
        ("stage=dpo", "data=preferences", "method=qlora"),
        ("train.max_steps=2", "data.split.validation=auto", "eval.steps=1", "train.keep_best=true", "method=full"),
    ],
)
def test_as_one_process(tmp_path, train, words):  # noqa: F811
    """Checkpointing, a part of the layers, other adapters and optimizers, rows that do not go round, no clipping, a
    reference, evaluations between steps whose best weights are kept."""
    train(*SMALL, *words, "train.gradient_accumulation_steps=4", "run.name=one")
    train(*SMALL, *words, *TWO, "run.name=two")
    check_equal(tmp_path / "outputs/one", tmp_path / "outputs/two", 1e-4)


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_golden_answers_of_a_sharded_model(tmp_path, train, method):  # noqa: F811
    """Each process takes part in every token of every answer."""
    words = (*SMALL, f"method={method}", "eval.golden_rows=6", "eval.samples=6", "eval.generate_every=2")
    train(*words, "train.gradient_accumulation_steps=4", "run.name=one")
    train(*words, *TWO, "run.name=two")
    one, two = tmp_path / "outputs/one", tmp_path / "outputs/two"
    check_equal(one, two, 1e-4)
    names = sorted(path.name for path in (one / "samples").iterdir())
    assert names == sorted(path.name for path in (two / "samples").iterdir()) and len(names) == 4
    for name in names:
        left, right = (json.loads((run_dir / "samples" / name).read_text()) for run_dir in (one, two))
        assert left["samples"] == right["samples"] and len(left["samples"]) == 6
    log = (two / "log.txt").read_text()
    assert "wrapper fully_shard, sharding weights, gradients and optimizer states in 2 parts, 5 gathered" in log


@pytest.mark.distributed
def test_what_is_saved_is_a_model_as_any_other(tmp_path, train):  # noqa: F811
    """Whole files, from which a run of one process starts, to the losses that the sharded run ended with."""
    train(*SMALL, *TWO, "method=full", "run.name=two", "train.save_steps=2")
    final = tmp_path / "outputs/two/final"
    assert json.loads((final / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    checkpoint = tmp_path / "outputs/two/phases/01-sft/checkpoint-4"
    assert (checkpoint / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()
    assert {path.name for path in checkpoint.glob("optimizer*")} == {"optimizer_0.pt", "optimizer_1.pt"}
    parts = [torch.load(path, weights_only=True)["state"] for path in sorted(checkpoint.glob("optimizer*"))]
    whole = sum(p.numel() for p in _weights(final).values())
    assert sum(one["exp_avg"].numel() for part in parts for one in part.values()) == whole
    train(*BASE, f"model.path={final}", "train.max_steps=1", "run.name=next")


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["full", "lora"])
def test_in_16_bits(tmp_path, train, method):  # noqa: F811
    """Layers of a whole model are gathered in bf16, and gradients are summed in fp32: losses as one process has them
    but for bf16's rounding."""
    words = (*SMALL, f"method={method}", "hardware.precision=bf16", "eval.golden_rows=2")
    train(*words, "train.gradient_accumulation_steps=4", "run.name=one")
    train(*words, *TWO, "run.name=two")
    left, right = (lines(tmp_path / "outputs" / name) for name in ("one", "two"))
    for a, b in zip(left, right, strict=True):
        if "loss" in a:
            assert b["loss"] == pytest.approx(a["loss"], rel=5e-3)
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=3e-2)


@pytest.mark.distributed
def test_a_reference_of_its_own(tmp_path, train):  # noqa: F811
    """It is sharded beside the policy."""
    words = (
        *SMALL,
        "stage=dpo",
        "data=preferences",
        f"stage.reference_model={ROOT / 'models/tiny'}",
        "model=tiny_instruct",
    )
    train(*words, "train.gradient_accumulation_steps=4", "run.name=one")
    train(*words, *TWO, "run.name=two")
    check_equal(tmp_path / "outputs/one", tmp_path / "outputs/two", 1e-4)
