"""What ``train.compile`` does not go with."""

from __future__ import annotations

from collections.abc import Iterator

from ftlab.distributed.world import planned_devices
from ftlab.schema import Run


def compile_obstacles(run: Run) -> Iterator[str]:
    """What the layers of the decoder are not compiled with."""
    train, stage = run.train, run.stage.name
    if stage in ("ppo", "grpo"):
        yield f"stage={stage} calls the layers with answers of any length, and each length would be compiled; use none"
    if train.engine == "trl":
        yield "needs train.engine=ftlab"
    if run.model.attention != "auto":
        yield (
            "needs attention by segments, which batches of one size are one program for, and which "
            f"model.attention=auto tries first; this is {run.model.attention}"
        )
    if run.model.architecture.experts > 1:
        yield (
            f"model={run.model.name} is a mixture of experts, each of which takes another number of tokens every time; "
            "use none"
        )
    if run.deepspeed.stage is not None or run.hardware.fsdp or planned_devices(run.hardware) > 1:
        yield "was run in one process alone; use hardware.devices=1 without deepspeed and fsdp, or none"
    if train.fp8 != "none" and stage in ("dpo", "kto"):
        yield f"was not run together with train.fp8={train.fp8} and a reference, as stage={stage} has; use none"
    others = {
        "quant": (run.quant.name, "none"),
        "model.kernels": (run.model.kernels, "none"),
        "train.gradient_checkpointing": (str(train.gradient_checkpointing).lower(), "false"),
        "train.activation_offload": (str(train.activation_offload).lower(), "false"),
    }
    for key, (value, without) in others.items():
        if value != without:
            yield f"was not run together with {key}={value}; use {key}={without}, or none"
