"""The device that a run is predicted for: of what kind, how large, how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftlab.base.machine import installed_gpus, usable_memory_gib
from ftlab.distributed.world import may_have_accelerator, planned_devices
from ftlab.schema import Run

GIB = 2**30
# What is held beside what PyTorch counts as allocated: on a GPU the driver's context, libraries and the allocator's
# gaps, on a CPU Python and what it has imported. About that much on either.
CONTEXT = GIB // 2


@dataclass(frozen=True)
class Device:
    """:param memory: bytes of one device; None where nobody knows.
    :param is_given: whether the config says how much that is; else it is this machine's.
    :param count: devices on all nodes. :param precision: bytes of an element in matrix products.
    """

    kind: Literal["cpu", "gpu"]
    memory: float | None
    is_given: bool
    count: int
    precision: int


def device_of(run: Run, is_here: bool = False) -> Device:
    """The device that ``hardware`` names. ``memory_gb`` is binary gigabytes, as the names of cards have it.

    :param is_here: whether the run is to start on this machine now; else a GPU that the config gives the size of counts
        as one even where there is none.
    """
    hardware = run.hardware
    is_named = hardware.name not in ("auto", "cpu") or (hardware.memory_gb is not None and not is_here)
    is_cpu = hardware.name == "cpu" or not (is_named or may_have_accelerator())
    memory = None if hardware.memory_gb is None else hardware.memory_gb * GIB
    if memory is None and is_cpu:
        memory = usable_memory_gib() * GIB
    elif memory is None and (gpus := installed_gpus()):
        memory = min(gpu.memory for gpu in gpus) * GIB
    bits = {"fp32": 4, "bf16": 2, "fp16": 2, "auto": 4 if is_cpu else 2}
    precision = bits[hardware.precision]
    is_given = hardware.memory_gb is not None
    return Device("cpu" if is_cpu else "gpu", memory, is_given, planned_devices(hardware), precision)
