"""The machine and what is installed on it: processor, memory, driver, versions of packages."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ftlab.base.command import command_output


def package_version(name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_commit(package: str) -> str | None:
    """The commit that pip installed a package from; None where it came from elsewhere or is not installed."""
    try:
        written = metadata.distribution(package).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    commit: str | None = json.loads(written).get("vcs_info", {}).get("commit_id") if written else None
    return commit


def process_age() -> float:
    """Seconds since this process began; 0 where the system does not say."""
    try:
        # Field 22 of /proc/PID/stat, counted behind the name in brackets: clock ticks after the system's start.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(named, "") or platform.machine()


def has_memory_limit() -> bool:
    """Whether this process may have less memory than it asks for (ulimit -v, ulimit -d), and is told so when it does.
    Without a limit Linux gives it all, and kills the process that uses more than there is."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def memory_gib() -> float:
    """The machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def usable_memory_gib() -> float:
    """The main memory, or what the process's control group may take of it, as a container does."""
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text()) / 2**30
    except (OSError, ValueError):  # there is none, or it is "max"
        return memory_gib()
    return min(memory_gib(), limit)


def spare_memory() -> float:
    """Bytes of main memory that nobody takes, also when this process has again as much as it had at most. Infinite
    where the system does not say."""
    try:
        import resource

        told = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) * 1024.0 for line in told.splitlines() if line.startswith("MemAvailable:"))
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ImportError, StopIteration):
        return math.inf
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return min(free, _free_in_group()) - max(peak - resident, 0)


def _free_in_group() -> float:
    """What the process's control group leaves it. Pages of files that were not used lately give way."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return float(limit - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):  # there is none, or its limit is "max"
        return math.inf


@dataclass(frozen=True)
class InstalledGpu:
    """:param memory: GiB. :param used: GiB of it that are taken, by whatever process."""

    name: str
    memory: float
    used: float


def installed_gpus() -> list[InstalledGpu]:
    """What NVIDIA's driver has in this machine, whether a process may see it or not; told without torch."""
    told = command_output(["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"])
    return parse_gpus(told or "")


def parse_gpus(text: str) -> list[InstalledGpu]:
    """Of nvidia-smi's lines, in MiB; lines that are none are left out.

    >>> parse_gpus("NVIDIA A100-SXM4-80GB, 81920, 512")
    [InstalledGpu(name='NVIDIA A100-SXM4-80GB', memory=80.0, used=0.5)]
    """
    found = []
    for line in text.splitlines():
        name, *sizes = (part.strip() for part in line.split(","))
        if len(sizes) == 2 and all(size.isdigit() for size in sizes):
            found.append(InstalledGpu(name, int(sizes[0]) / 1024, int(sizes[1]) / 1024))
    return found


def compute_capabilities() -> list[float]:
    """Of NVIDIA's GPUs in this machine, as 8.9, whether a process may see them or not; empty where the driver does not
    say."""
    told = command_output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]) or ""
    return [float(line) for line in told.split() if line.replace(".", "", 1).isdigit()]


def gpu_driver() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    told = command_output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return told.split("\n")[0].strip() or None if told else None
