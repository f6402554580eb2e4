"""DeepSpeed's config, of a run's. Pure: nothing here asks a device, and no value of it can contradict the run's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ftlab.schema import Run

_PERSISTENT = 10  # parameters of so many rows of the hidden size are not sharded: a norm, a bias (transformers' "auto")


def deepspeed_config(run: Run, precision: str, on_cpu: bool) -> dict[str, Any]:
    """What TrainingArguments takes as ``deepspeed``. The batch of a step follows from these numbers and how many
    processes there are; "auto" for it fails where parameters are sharded.

    The optimizer is the run's own, of torch: DeepSpeed's for the host's memory (``zero_force_ds_cpu_optimizer``) would
    be another, with other betas.

    :param precision: of matrix products: fp32, bf16 or fp16.
    :param on_cpu: whether it trains on one, where no memory needs to be pinned.
    """
    hidden = run.model.architecture.hidden_size
    train = run.train
    zero: dict[str, Any] = {
        "stage": run.deepspeed.stage,
        # transformers' "auto": a device then holds a matrix of the model's besides, and not 500 million numbers.
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": _PERSISTENT * hidden,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    host = {"device": "cpu", "pin_memory": not on_cpu}
    if run.deepspeed.offload_optimizer:
        zero["offload_optimizer"] = host
    if run.deepspeed.offload_parameters:
        zero["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def prepare_environment(on_cpu: bool) -> None:
    """What DeepSpeed reads when it is imported; a user's own choice wins. It would take the first accelerator that it
    finds, and looks in PATH for the ninja that was installed beside it."""
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["PATH"] = search_path()


def search_path() -> str:
    """PATH, and behind it where this Python's packages have their commands."""
    return os.pathsep.join(filter(None, (os.environ.get("PATH"), str(Path(sys.executable).parent))))
