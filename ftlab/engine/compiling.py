"""``train.compile``: whether a phase can have its layers compiled, and what is told and recorded of it."""

from __future__ import annotations

from typing import Any

from ftlab.engine.packing import training_device
from ftlab.engine.session import Session
from ftlab.errors import NotReadyError
from ftlab.schema import Run

# What torch has compiled is the process's, and is let go when another run begins.
ONE_AT_A_TIME = (
    "one run of a process at a time has its layers compiled, and runs in turns are several; use none, or another "
    "hydra/launcher"
)


def check_compiled(session: Session, run: Run, model: Any, isolation: str) -> None:
    """:param run: the phase's config. :param isolation: how packed samples are kept apart.
    :raises NotReadyError: layers are to be compiled, and the run takes turns, or the attention is another, or wrong.
    """
    import torch

    from ftlab.model.attention.interface import SEGMENTS
    from ftlab.model.attention.self_check import kernel_error
    from ftlab.model.load import compute_dtype

    key = f"train.compile={run.train.compile}"
    if run.train.compile == "none":
        return
    if session.share is not None:
        raise NotReadyError(f"{key}: {ONE_AT_A_TIME}.")
    if isolation != SEGMENTS:
        raise NotReadyError(
            f"{key} needs attention by segments by the kernel of the device, and {run.model.name} keeps packed samples "
            f"apart by {isolation} here. Use train.compile=none; on a GPU such attention needs "
            "hardware.precision=bf16 or fp16."
        )
    dtype = compute_dtype(run)
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):  # as in training
        device = training_device(run, session.ranks.world)
        if reason := kernel_error(model, isolation, device, is_compiled=True):
            raise NotReadyError(f"{key}: attention as compiled layers call it is wrong here: {reason}. Use none.")


def tell_compiled(session: Session, phase: str, trainer: Any) -> None:
    """Say what micro-batches are padded to, and have the trainer say when it compiles; all recorded in the manifest."""
    session.manifest.record_item("compiled", phase, {"layers": True, "sizes": [*trainer.sizes_compiled]})
    session.output.say(f"layers are compiled (train.compile): {trainer.describe_sizes()}")
    trainer.tell_compiling(session.output.say)
