"""``ftlab version`` and ``ftlab env``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ftlab import __version__
from ftlab.base import machine
from ftlab.base.terminal import echo, echo_json
from ftlab.config.paths import config_dir
from ftlab.distributed.world import visible_gpus
from ftlab.schema import EnvTask, Run

_PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors",
    "deepspeed", "flash-attn", "vllm", "hydra-core", "omegaconf", "pydantic", "tensorboard", "wandb", "mlflow-skinny",
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
            echo(f"  {name:<16}{value}")


def _facts() -> dict[str, dict[str, str]]:
    from huggingface_hub import constants

    disk = shutil.disk_usage(Path.cwd())
    return {
        "ftlab": {"version": __version__, "config": str(config_dir())},
        "machine": {
            "system": platform.platform(),
            "python": f"{platform.python_version()} ({sys.executable})",
            "cpus": str(os.cpu_count()),
            "memory": f"{machine.memory_gib():.1f} GiB",
            "free disk here": f"{disk.free / 2**30:.1f} GiB",
            **_devices(),
        },
        "packages": {name: machine.package_version(name) or "not installed" for name in _PACKAGES},
        "hub": {
            "cache": constants.HF_HUB_CACHE,
            "HF_TOKEN": "set" if os.environ.get("HF_TOKEN") else "not set",
            "HF_HUB_OFFLINE": "on" if constants.HF_HUB_OFFLINE else "off",
        },
    }


def _devices() -> dict[str, str]:
    found = visible_gpus()
    if not found:
        return {"devices": "cpu only"}
    return {f"cuda:{i}": f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB" for i, gpu in enumerate(found)}
