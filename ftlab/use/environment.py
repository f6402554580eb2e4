"""``ftlab version`` and ``ftlab env``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from ftlab import __version__
from ftlab.base import git, machine
from ftlab.base.redaction import is_secret_variable, redact
from ftlab.base.terminal import echo, echo_json
from ftlab.config.paths import config_dir
from ftlab.distributed.world import may_have_accelerator
from ftlab.schema import EnvTask, Run

_PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors",
    "deepspeed", "flash-attn", "liger-kernel", "vllm", "hydra-core", "omegaconf", "pydantic", "tensorboard", "wandb",
    "mlflow-skinny", "submitit", "optuna", "plotly", "torchao", "triton", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
    "numpy",
)  # fmt: skip
_PREFIXES = (
    "ACCELERATE_", "BNB_", "CUDA_", "DS_", "FTLAB_", "GLOO_", "GOMP_", "HF_", "HIP_", "HUGGINGFACE_", "KMP_", "LOCAL_",
    "MASTER_", "MKL_", "MLFLOW_", "NCCL_", "NVIDIA_", "OMP_", "PYTORCH_", "ROCR_", "SLURM_JOB_", "SLURM_NNODES",
    "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_",
    "WANDB_", "WORLD_",
)  # fmt: skip
_NAMES = (
    "COLUMNS", "HTTPS_PROXY", "HTTP_PROXY", "LD_LIBRARY_PATH", "LD_PRELOAD", "NO_PROXY", "PYTHONPATH",
    "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME", "https_proxy", "http_proxy", "no_proxy",
)  # fmt: skip


def version(run: Run, overrides: Sequence[str]) -> None:
    echo(f"ftlab {__version__}")


def environment(run: Run, overrides: Sequence[str]) -> None:
    """Print what a bug report needs; secrets are only said to be set or not."""
    facts = _facts()
    assert isinstance(run.task, EnvTask)
    if run.task.format == "json":
        echo_json(facts)
        return
    for title, values in facts.items():
        echo(title)
        for name, value in values.items():
            echo(f"  {name:<18}{value}")


def _facts() -> dict[str, dict[str, str]]:
    from huggingface_hub import constants

    return {
        "ftlab": {"version": __version__, "config": str(config_dir()), **_extras(), **_checkout()},
        "machine": {
            "system": platform.platform(),
            "python": f"{platform.python_version()} ({sys.executable})",
            "cpu": machine.cpu_name(),
            "cpus": f"{_usable_cpus()} of {os.cpu_count()}",
            "memory": f"{machine.memory_gib():.1f} GiB",
            "usable memory": f"{machine.usable_memory_gib():.1f} GiB",
            "C++ compiler": next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "none"),
            "sbatch": shutil.which("sbatch") or "none",
            **_devices(),
        },
        "disk": {name: _disk(folder) for name, folder in _folders().items()},
        "packages": {name: machine.package_version(name) or "not installed" for name in _PACKAGES},
        "hub": {
            "cache": str(_folders()["hub"]),
            "HF_TOKEN": "set" if os.environ.get("HF_TOKEN") else "not set",
            "HF_HUB_OFFLINE": "on" if constants.HF_HUB_OFFLINE else "off",
        },
        "environment": _variables(),
    }


def _extras() -> dict[str, str]:
    """Which of the package's extras are installed whole."""
    names = metadata.metadata("ftlab").get_all("Provides-Extra") or []
    return {"extras": ", ".join(name for name in sorted(names) if _is_whole(name)) or "none"}


def _is_whole(extra: str) -> bool:
    needs = [Requirement(line) for line in metadata.requires("ftlab") or ()]
    chosen = [need for need in needs if need.marker is not None and need.marker.evaluate({"extra": extra})]
    return bool(chosen) and all(machine.package_version(need.name) is not None for need in chosen)


def _checkout() -> dict[str, str]:
    """The commit that runs: of a checkout, or the one that pip installed from."""
    folder = config_dir().parent
    commit = git.head_commit(folder) if (folder / ".git").exists() else None
    if commit is None:
        return {"commit": machine.installed_commit("ftlab") or "none: installed from a package"}
    return {"commit": commit + (" with changes" if git.has_changes(folder) else "")}


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> dict[str, str]:
    gpus = machine.installed_gpus()
    if not gpus:
        return {"devices": "cpu only" if not may_have_accelerator() else "an accelerator that nvidia-smi does not show"}
    listed = {f"gpu {i}": f"{gpu.name}, {gpu.memory:.1f} GiB, {gpu.used:.1f} taken" for i, gpu in enumerate(gpus)}
    return {"driver": machine.gpu_driver() or "unknown", **listed}


def _folders() -> dict[str, Path]:
    """Where runs, prepared data, models and temporary files go."""
    from huggingface_hub import constants

    named = {
        "here": ".",
        "data.cache": os.environ.get("FTLAB_CACHE") or "~/.cache/ftlab",
        "hub": constants.HF_HUB_CACHE,
        "temporary": tempfile.gettempdir(),
    }
    return {name: Path(path).expanduser().absolute() for name, path in named.items()}


def _disk(folder: Path) -> str:
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    return f"{folder}: {shutil.disk_usage(there).free / 2**30:.1f} GiB free"


def _variables() -> dict[str, str]:
    """What of the environment changes how a run goes; of secrets only that they are set."""
    chosen = sorted(name for name in os.environ if name.startswith(_PREFIXES) or name in _NAMES)
    return {name: "set" if is_secret_variable(name) else redact(os.environ[name]) for name in chosen}
