"""The only place that knows rank, world size and devices."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePath
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.schema import Hardware


@dataclass(frozen=True)
class World:
    """The processes of a run. :param rank: of this one, from 0. :param size: how many there are, on all nodes.
    :param local_rank: among those of its node, which is also the number of its device.
    """

    rank: int
    size: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes what all have in common."""
        return self.rank == 0

    def file_name(self, name: str) -> str:
        """The name of a file that each process has one of: ``state.pt``, or among several ``state_<rank>.pt``."""
        path = PurePath(name)
        return name if self.size == 1 else f"{path.stem}_{self.rank}{path.suffix}"


ALONE = World(0, 1, 0)  # one process, or one that does what every other does


@dataclass(frozen=True)
class Gpu:
    """:param memory: bytes."""

    name: str
    memory: int


def current_world() -> World:
    """What torchrun's variables say; one process where WORLD_SIZE is not set.

    :raises NotReadyError: one of them is no whole number, or they contradict each other.
    """
    if "WORLD_SIZE" not in os.environ:
        if "RANK" in os.environ:
            raise NotReadyError(f"RANK={os.environ['RANK']} of the environment, but no WORLD_SIZE. {_REMEDY}")
        return ALONE
    size = _variable("WORLD_SIZE", 1, least=1)
    world = World(_variable("RANK", 0), size, _variable("LOCAL_RANK", 0))
    if world.rank >= size:
        raise NotReadyError(f"RANK={world.rank} of the environment must be below WORLD_SIZE={size}. {_REMEDY}")
    return world


@dataclass(frozen=True)
class Nodes:
    """The machines of a run, as one of them sees them.

    :param rank: of this one. :param address: of the first. :param port: where the first is to be met.
    """

    rank: int
    count: int
    address: str
    port: int


def slurm_nodes() -> Nodes | None:
    """The machines of the Slurm job step that this process is a task of; None outside of one.

    :raises NotReadyError: one of Slurm's variables is no number.
    """
    if "SLURM_STEP_ID" not in os.environ:
        return None
    return Nodes(_variable("SLURM_NODEID", 0), _slurm_node_count(), *_slurm_meeting_point())


def chosen_nodes(count: int, rank: int | None, address: str | None, port: int | None) -> Nodes | None:
    """The machines of a run whose launchers are started by hand; None for one alone. What is not given is in torchrun's
    variables, or its default.

    :raises NotReadyError: it is not said which of them this is, or where the first is.
    """
    if count == 1 and rank is None:
        return None
    address = address or os.environ.get("MASTER_ADDR")
    if rank is None or not rank < count or address is None:
        given = "" if rank is None or rank < count else f"--node-rank={rank} is not below hardware.nodes={count}. "
        raise NotReadyError(
            f"{given}This run is planned for {count} machine{'s' * (count > 1)} (hardware.nodes), and each has to know "
            f"which it is and where the first is: --node-rank=0{f' to {count - 1}' * (count > 1)} --master-addr=HOST."
        )
    return Nodes(rank, count, address, _variable("MASTER_PORT", 29500, least=1) if port is None else port)


def take_slurm_variables() -> None:
    """Under srun, with a task for each process, say the same in torchrun's variables, which the libraries read."""
    size = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS")
    if {"WORLD_SIZE", "RANK"} & {*os.environ} or "SLURM_STEP_ID" not in os.environ or size in (None, "1"):
        return
    address, port = _slurm_meeting_point()
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # of each machine: 2(x3),1
    said = {
        "WORLD_SIZE": size,
        "RANK": os.environ.get("SLURM_PROCID"),
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID"),
        "LOCAL_WORLD_SIZE": re.split(r"\D", tasks)[0] or None,
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    os.environ.update({name: value for name, value in said.items() if value is not None})


def _slurm_node_count() -> int:
    return _variable("SLURM_STEP_NUM_NODES", _variable("SLURM_NNODES", 1, least=1), least=1)


def _slurm_meeting_point() -> tuple[str, int]:
    """Where the processes of a job step find each other: its first machine, and a port that no other job takes."""
    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or "localhost"
    if _slurm_node_count() == 1:
        hosts = "localhost"  # whether or not the machine can look up its own name
    step = os.environ["SLURM_STEP_ID"]
    number = _variable("SLURM_JOB_ID", 0) + (int(step) if step.isdigit() else 0)
    return os.environ.get("MASTER_ADDR") or first_host(hosts), _variable("MASTER_PORT", 20_000 + number % 10_000, 1)


def first_host(hosts: str) -> str:
    """The first of a Slurm list of machines: ``gpu[003-007,9],other`` gives ``gpu003``."""
    found = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^,]*))?", hosts)
    assert found is not None, "each part of it may be empty"
    return "".join(part or "" for part in found.groups())


def planned_devices(hardware: Hardware) -> int:
    """Devices on all nodes, as far as the config says: ``hardware.devices=auto`` counts as one."""
    return (1 if hardware.devices == "auto" else hardware.devices) * hardware.nodes


def planned_nodes(hardware: Hardware) -> int:
    """Machines that the config asks for."""
    return hardware.nodes


def threads_of_rank(ranks: int) -> int:
    """Threads that each of a machine's processes computes with, where the user has not said: its share of the cores."""
    return max(len(os.sched_getaffinity(0)) // ranks if hasattr(os, "sched_getaffinity") else 1, 1)


def planned_layout(hardware: Hardware) -> tuple[int, int, bool]:
    """Nodes, devices on each (``auto`` counts as one), and whether the config says that they are GPUs."""
    devices = 1 if hardware.devices == "auto" else hardware.devices
    return hardware.nodes, devices, hardware.name not in ("auto", "cpu")


def may_have_accelerator() -> bool:
    """Whether this machine may have one, told without torch: False where no driver has made a device of any kind."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") and not any(map(glob, _OTHER_DEVICES)):
        return False
    return platform.system() != "Linux" or any(map(glob, (*_NVIDIA_DEVICES, *_OTHER_DEVICES)))


_NVIDIA_DEVICES = ("/dev/nvidia[0-9]*", "/dev/dxg")  # the second is that of Windows' Linux
_OTHER_DEVICES = ("/dev/kfd", "/dev/dri/render*", "/dev/accel*", "/dev/davinci*", "/dev/hl[0-9]*")


def driver_gpus() -> int | None:
    """GPUs that NVIDIA's driver shows to this process, told without torch; None where there is no such driver."""
    count = len([*Path("/dev").glob("nvidia[0-9]*")])
    return count_gpus(count, os.environ.get("CUDA_VISIBLE_DEVICES")) if count else None


def environment_of_devices(numbers: Sequence[int], slots: int, on_cpu: bool) -> dict[str, str]:
    """The variables of a process that is to see some of this machine's devices only.

    :param numbers: which, of those that this process sees. :param slots: how many processes share the machine. On a CPU
        each has its share of the cores, unless the user has said how many.
    """
    if on_cpu:
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_of_rank(slots)))}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(number) if names is None else names[number] for number in numbers)}


def count_gpus(there: int, visible: str | None) -> int:
    """:param visible: CUDA_VISIBLE_DEVICES.

    >>> count_gpus(8, None), count_gpus(8, "0,3"), count_gpus(8, "")
    (8, 2, 0)
    """
    return there if visible is None else len([name for name in visible.split(",") if name.strip() not in ("", "-1")])


def visible_gpus() -> list[Gpu]:
    """The GPUs that torch sees, in its order."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [Gpu(device.name, device.total_memory) for device in found]


def drive_one_device(arguments: Any) -> None:
    """One process drives one device; with more in sight transformers would wrap the model in DataParallel.

    :param arguments: transformers' TrainingArguments.
    :raises NotReadyError: transformers counts other processes than the environment, as it does without LOCAL_RANK.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    world, counted = current_world(), max(arguments.world_size, 1)
    if world.size != counted:
        raise NotReadyError(
            f"WORLD_SIZE={world.size} of the environment, but {counted} process{'es' * (counted > 1)} found each other."
            f" {_REMEDY}"
        )


_REMEDY = "torchrun sets RANK, WORLD_SIZE and LOCAL_RANK for each process; unset them to train in one."


def _variable(name: str, default: int, least: int = 0) -> int:
    value = os.environ.get(name)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if number < least:
        raise NotReadyError(f"{name}={value} of the environment must be a whole number from {least} on. {_REMEDY}")
    return number
