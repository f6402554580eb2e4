"""Which runs of a process can have one base model in memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable

from ftlab.distributed.sharding import sharding_of
from ftlab.model.prequantized import quantization_kind
from ftlab.schema import Run


def base_key(run: Run) -> Hashable | None:
    """Equal for runs whose base is the same and stays as it is; None where a run changes a tensor of its base: PiSSA
    takes singular vectors out of it, eight bits move from a weight to its layer in the first forward, and a sharded one
    is in pieces."""
    stays = (
        run.method.name == "lora"
        and run.model.init != "random"
        and run.lora.variant != "pissa"
        and run.quant.name in ("none", "nf4", "fp4")
        and quantization_kind(run.model) is None
        and sharding_of(run).is_whole
    )
    if not stays:
        return None
    model, hardware = run.model, run.hardware
    source = (model.path, model.revision, model.trust_remote_code, model.attention)
    return (*source, run.quant.model_dump_json(), hardware.precision, hardware.name)
