"""What a machine's own memory must hold: its processes, the model that each of them loads, and what is offloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftlab.base.machine import usable_memory_gib
from ftlab.distributed.sharding import uses_deepspeed
from ftlab.distributed.world import may_have_accelerator, planned_devices, planned_layout
from ftlab.preflight.memory import states
from ftlab.preflight.memory.device import CONTEXT, GIB, Device
from ftlab.preflight.memory.layers import adapter_elements, critic_elements, packing_of
from ftlab.preflight.memory.peak import Prediction
from ftlab.pretrained import shape as counts
from ftlab.pretrained.files import stored_dtype
from ftlab.schema import Run
from ftlab.stages.trainer.optimizers import bytes_of_states


@dataclass(frozen=True)
class Host:
    """The main memory of one machine, when it holds most.

    :param moment: when that is. :param processes: that work there. :param each: bytes of one process.
    :param once: bytes besides, of the first alone. :param memory: bytes that there are; None where nobody knows.
    :param is_given: whether the config says how much that is.
    """

    moment: str
    processes: int
    each: float
    once: float
    memory: float | None
    is_given: bool

    @property
    def needed(self) -> float:
        return self.processes * self.each + self.once


def predict_host(run: Run, found: Prediction, is_here: bool = False) -> Host:
    """:param found: of one of the devices. :param is_here: whether the run is to start on this machine now; else its
    memory counts where the config leaves everything to it."""
    hardware = run.hardware
    _, processes, _ = planned_layout(hardware)
    is_given = hardware.host_memory_gb is not None
    memory = None if hardware.host_memory_gb is None else hardware.host_memory_gb * GIB
    is_auto = hardware.name == "auto" and (hardware.memory_gb is None or may_have_accelerator())
    if memory is None and (is_here or is_auto or hardware.name == "cpu"):
        memory = usable_memory_gib() * GIB
    moments = [Host(name, processes, each, once, memory, is_given) for name, each, once in _moments(run, found)]
    return max(moments, key=lambda one: one.needed)


def _moments(run: Run, found: Prediction) -> Iterator[tuple[str, float, float]]:
    """When, bytes of each process, and bytes of the first besides."""
    device = found.device
    training = CONTEXT + found.host + (found.total if device.kind == "cpu" else 0.0)
    yield "as it trains", training, 0.0
    yield "as the model is loaded", CONTEXT + _loaded(run, device), 0.0
    is_sharded = states.sharded(run, device)[2] > 1
    if is_sharded and run.method.name != "lora":  # one by one, but kept until they are written
        halves = uses_deepspeed(run) and device.precision == 2
        whole = (2.0 if halves else 4.0) * counts.parameter_count(run.model.architecture)
        yield "as the final weights are gathered", training, whole


def checkpoint_copy_bytes(run: Run, found: Prediction) -> float:
    """What a process takes while a checkpoint is written beside training: a copy of the weights that it holds, which
    are all of the model's without an adapter, of the optimizer's states, and of ppo's critic with its own. It is made
    where that is free and else not at all (ftlab/stages/trainer/checkpoints.py), so no run needs it. 0 where several
    processes train, or DeepSpeed does: training waits there.

    :param found: of the device.
    """
    if planned_devices(run.hardware) > 1 or uses_deepspeed(run):
        return 0.0
    saved = adapter_elements(run) if run.method.name == "lora" else counts.parameter_count(run.model.architecture)
    critic = critic_elements(run)
    return 4.0 * (saved + critic) + bytes_of_states(run.train.optimizer, found.trainable + critic)


def _loaded(run: Run, device: Device) -> float:
    """Bytes of a model that a process has for itself before it goes to the device, or is sharded. Weights that are
    loaded as the file has them are pages of the file (safetensors maps it), which all processes share and which the
    system takes back where it needs room; converted or drawn ones are a copy in each process. What is quantized goes
    to a GPU part by part, unless FSDP is to shard it."""
    adapter = 4.0 * adapter_elements(run) if run.method.name == "lora" else 0.0
    if packing_of(run) is not None:
        on_device = device.kind == "gpu" and not run.hardware.fsdp
        return 0.0 if on_device else adapter + sum(states.weight_bytes(run, device).values())
    each = device.precision if run.method.name == "lora" else 4
    is_rewritten = run.model.init != "pretrained" or (run.lora.variant == "pissa" and run.method.name == "lora")
    if not is_rewritten and _is_stored_so(run, each):
        return adapter
    return adapter + each * counts.parameter_count(run.model.architecture)


def _is_stored_so(run: Run, each: int) -> bool:
    """Whether the file has the weights in the type that they are loaded in. One that is not here is taken to have 16
    bits, of the kind that is asked for. :param each: bytes of a weight in that type."""
    wanted = "float32" if each == 4 else "float16" if run.hardware.precision == "fp16" else "bfloat16"
    stored = stored_dtype(run.model.path, run.model.revision)
    return each == 2 if stored is None else stored == wanted
