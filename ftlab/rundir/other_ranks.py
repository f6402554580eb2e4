"""A run that goes on with another number of processes than it began with: whether its steps stay what they are.

They do where a step takes the same rows and nothing is drawn at random in it: losses, gradients and weights are then
those of the whole run but for rounding, since sums are taken in another order. All else is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.distributed.world import planned_devices
from ftlab.schema import PpoStage, Run

SIZE = "train.gradient_accumulation_steps"  # of a step, together with the processes
_WITHOUT_DROPOUT = ("rm", "dpo", "orpo", "kto")
_Identity = dict[str, Any]


def has_other_ranks(here: Run, there: Run) -> bool:
    return planned_devices(here.hardware) != planned_devices(there.hardware)


def same_rows(here: Run, there: Run) -> Collection[str]:
    """Keys of which another value is no other run, because the processes make up for it."""
    return (SIZE,) if has_other_ranks(here, there) and _rows(here) == _rows(there) else ()


def why_not(here: Run, there: Run, is_under_way: bool) -> str | None:
    """Why a run cannot go on with the processes that are planned ``there``; None where it can, or they are as many.

    What the model itself draws is seen once it is loaded.

    :param is_under_way: whether it has weights, and is not finished.
    """
    if not has_other_ranks(here, there):
        return None
    name, ranks = here.stage.name, planned_devices(here.hardware)
    reason = None
    if _rows(here) != _rows(there):
        reason = _remedy_of_rows(here, there)
    elif not is_under_way:
        return None
    elif uses_deepspeed(here) or here.hardware.fsdp:
        wrapper = "hardware.fsdp=true" if here.hardware.fsdp else f"deepspeed={here.deepspeed.name}"
        reason = f"under {wrapper} each of them has saved its own share"
    elif name in ("ppo", "grpo"):
        reason = f"stage={name} has not been shown to go on exactly with others"
    elif here.train.engine == "trl":
        reason = "train.engine=trl runs in one"
    elif name == "kto":
        reason = "kto takes its KL from one micro-batch of every process, which would be another number of rows"
    elif here.method.name == "lora" and here.lora.dropout and name not in _WITHOUT_DROPOUT:
        reason = f"each of them draws its own dropout (lora.dropout={here.lora.dropout:g})"
    elif getattr(here.stage, "neftune_alpha", None):
        reason = "each of them draws its own noise (stage.neftune_alpha)"
    if reason is None:
        return None
    return (
        f"it began with {_count(ranks)}, and {planned_devices(there.hardware)} are asked for (hardware.devices): "
        f"{reason}. Go on with {_count(ranks)}, or start another run with run.if_exists=new."
    )


def _remedy_of_rows(here: Run, there: Run) -> str:
    rows, step = _rows(here), there.train.micro_batch_size * planned_devices(there.hardware)
    what = f"a step took {rows} rows and would take {_rows(there)}"
    if rows % step:
        return f"{what}, and {rows} do not go round on {_count(planned_devices(there.hardware))}"
    return f"{what}; {SIZE}={rows // step} keeps them, or train.global_batch_size={rows} from the start"


def _rows(run: Run) -> int:
    """Of a step."""
    if isinstance(run.stage, PpoStage):
        return run.stage.mini_batch_size
    return run.train.micro_batch_size * run.train.gradient_accumulation_steps * planned_devices(run.hardware)


def _count(ranks: int) -> str:
    return f"{ranks} process{'es' * (ranks > 1)}"
