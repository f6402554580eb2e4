"""What makes a run take less memory: for who plans it, and for who has run out of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftlab.config.rules import cross_group_mistakes
from ftlab.distributed.world import may_have_accelerator, planned_devices
from ftlab.model import prequantized
from ftlab.schema import Run

_FEW_TOKENS = 128  # of a row; to fewer none is shortened by more than half


@dataclass(frozen=True)
class Remedy:
    """:param cost: in time and quality, relative to the others. :param override: as it would be typed.
    :param values: at dotted keys, what follows from it included."""

    cost: float
    override: str
    values: Mapping[str, Any]


def remedies(run: Run) -> list[Remedy]:
    """Every change that takes less memory and that the run could be given, the cheapest first."""
    found = sorted(_remedies(run), key=lambda one: one.cost)
    return [one for one in found if not cross_group_mistakes(run.with_values(one.values))]


def first_of_each_kind(run: Run) -> list[Remedy]:
    """Of :func:`remedies` those that change no key that a cheaper one does."""
    found, known = list[Remedy](), set[str]()
    for one in remedies(run):
        if known.isdisjoint(one.values):
            found.append(one)
            known |= one.values.keys()
    return found


def _remedies(run: Run) -> Iterator[Remedy]:
    train, length, method = run.train, run.data.max_length, run.method.name
    yield from _smaller_batches(run)
    if not train.gradient_checkpointing:
        yield Remedy(1.9, "train.gradient_checkpointing=selective", {"train.gradient_checkpointing": "selective"})
    if train.gradient_checkpointing is not True:
        yield Remedy(2, "train.gradient_checkpointing=true", {"train.gradient_checkpointing": True})
    if train.optimizer == "adamw_torch" and _may_be_gpu(
        run
    ):  # the same steps, without a root of every state beside them
        yield Remedy(0.5, "train.optimizer=adamw_torch_fused", {"train.optimizer": "adamw_torch_fused"})
    if train.optimizer in ("adamw_torch", "adamw_torch_fused"):
        yield Remedy(3, "train.optimizer=adamw_8bit", {"train.optimizer": "adamw_8bit"})
    if not train.activation_offload and _may_be_gpu(run):
        yield Remedy(3.5, "train.activation_offload=true", {"train.activation_offload": True})
    if planned_devices(run.hardware) > 1 and not run.hardware.fsdp:
        stage = run.deepspeed.stage or 0
        for wanted, cost in ((2, 2.5), (3, 4.0)):
            if stage < wanted:
                yield Remedy(cost, f"deepspeed=z{wanted}", _zero(f"z{wanted}", wanted, False))
        if not run.deepspeed.offload_parameters:
            yield Remedy(7, "deepspeed=z3_offload", _zero("z3_offload", 3, True))
    if run.hardware.precision == "fp32":
        yield Remedy(4.5, "hardware.precision=bf16", {"hardware.precision": "bf16"})
    is_plain = run.quant.name == "none" and prequantized.packing(run.model) is None and run.lora.variant != "pissa"
    if method == "lora" and is_plain:
        yield Remedy(5, "method=qlora", _QLORA)
    if method != "lora":
        yield Remedy(8, "method=lora", {"method.name": "lora"})
        yield Remedy(9, "method=qlora", {"method.name": "lora", **_QLORA})
    if method == "lora" and run.lora.r > 8:
        yield Remedy(6, "lora.r=8", {"lora.r": 8})
    shorter = [tokens for tokens in (length // 4, length // 8) if tokens >= _FEW_TOKENS]
    for place, tokens in enumerate([length // 2, *shorter]):
        yield Remedy(6.5 + 2 * place, f"data.max_length={tokens}", {"data.max_length": tokens})


def _may_be_gpu(run: Run) -> bool:
    hardware = run.hardware
    return hardware.name != "cpu" and (
        hardware.name != "auto" or hardware.memory_gb is not None or may_have_accelerator()
    )


def _smaller_batches(run: Run) -> Iterator[Remedy]:
    """Half the micro-batch or less, and one row, that make up the same rows of a step. ppo has no accumulation."""
    train = run.train
    rows = train.micro_batch_size * train.gradient_accumulation_steps
    halves = [size for size in range(train.micro_batch_size // 2, 0, -1) if rows % size == 0]
    for place, size in enumerate(dict.fromkeys([*halves[:1], *halves[-1:]])):
        override = f"train.micro_batch_size={size}"
        if train.global_batch_size is None and run.stage.name != "ppo":
            override += f" train.gradient_accumulation_steps={rows // size}"
        values = {"train.micro_batch_size": size, "train.gradient_accumulation_steps": rows // size}
        yield Remedy(1 + place / 2, override, values)


_QLORA = {"quant.name": "nf4", "quant.double_quantization": True}


def _zero(name: str, stage: int, offloads: bool) -> dict[str, Any]:
    return {
        "deepspeed.name": name, "deepspeed.stage": stage, "deepspeed.offload_optimizer": offloads,
        "deepspeed.offload_parameters": offloads,
    }  # fmt: skip
