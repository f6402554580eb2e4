"""What a run asks of the machine's devices, and whether it has them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from ftlab.base.machine import compute_capabilities
from ftlab.config.rules import FP8_CAPABILITY
from ftlab.distributed.world import driver_gpus, may_have_accelerator, planned_layout
from ftlab.pretrained.liger import is_interpreted, missing_liger
from ftlab.schema import Run

# Of bitsandbytes: on a CPU it has no pages for them.
_NEED_A_GPU = ("paged_ademamix_32bit", "paged_ademamix_8bit")


def device_problems(run: Run) -> Iterator[str]:
    """Yield what of the run needs a device or a package that is not here, with what would do."""
    has_accelerator = may_have_accelerator()
    if run.hardware.name not in ("auto", "cpu") and not has_accelerator:
        yield (
            f"hardware={run.hardware.name} asks for an accelerator, and this machine has none (no driver's device in "
            "/dev, or CUDA_VISIBLE_DEVICES hides it). Use hardware=auto or cpu"
        )
    yield from _count_problems(run, has_accelerator)
    on_cpu = run.hardware.name == "cpu" or not has_accelerator
    attention, optimizer = run.model.attention, run.train.optimizer
    if attention in ("flash_attention_2", "flex_attention") and on_cpu:
        yield f"model.attention={attention} needs a GPU; use model.attention=auto or sdpa"
    elif attention == "flash_attention_2" and find_spec("flash_attn") is None and find_spec("kernels") is None:
        yield (
            f"model.attention={attention} needs the package flash-attn: pip install flash-attn --no-build-isolation. "
            "Or use model.attention=auto or sdpa"
        )
    if run.model.kernels == "liger":
        if on_cpu and not is_interpreted():
            yield "model.kernels=liger needs a CUDA GPU; use model.kernels=none, or auto, which needs none"
        elif missing := missing_liger():
            package = " and ".join(missing)
            yield f"model.kernels=liger needs {package}: pip install 'ftlab[liger]'. Or use model.kernels=none"
    if run.train.fp8 != "none" and not on_cpu and (found := compute_capabilities()) and max(found) < FP8_CAPABILITY:
        yield (
            f"train.fp8={run.train.fp8} needs a GPU of compute capability {FP8_CAPABILITY} (L4, RTX 4090, H100), and "
            f"this machine's have {max(found)}; use train.fp8=none"
        )
    if optimizer in _NEED_A_GPU and on_cpu:
        yield f"train.optimizer={optimizer} needs a GPU; on a CPU use {optimizer.removeprefix('paged_')}"
    if run.hardware.precision == "fp16" and run.deepspeed.stage is not None and on_cpu:
        yield "hardware.precision=fp16 under DeepSpeed needs a GPU; on a CPU use bf16 or fp32, or deepspeed=none"


def _count_problems(run: Run, has_accelerator: bool) -> Iterator[str]:
    name, (_, devices, _) = run.hardware.name, planned_layout(run.hardware)
    if name == "cpu" or devices == 1:
        return
    if name == "auto" and not has_accelerator:
        yield (
            f"hardware.devices={devices}, and this machine has no accelerator. hardware=cpu hardware.devices={devices} "
            "trains in as many processes of its CPU"
        )
    found = driver_gpus()
    if has_accelerator and found is not None and devices > found:
        yield (
            f"hardware.devices={devices}, and this machine shows {found} GPU{'s' * (found != 1)} (those of the driver, "
            f"less what CUDA_VISIBLE_DEVICES hides). Use hardware.devices={max(found, 1)}"
        )
