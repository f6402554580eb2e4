"""What ``model.kernels`` will come to: a run finds it out when its model is loaded."""

from __future__ import annotations

from ftlab.preflight.memory.device import Device
from ftlab.pretrained.liger import LIGER_FAMILIES, missing_liger
from ftlab.schema import Run


def has_liger(run: Run, device: Device) -> bool:
    """Whether Liger will compute norms and feed-forward. It keeps less of them for the backward: what goes into a norm
    as it is, and no activation of the gate (liger_kernel/ops/rms_norm.py and swiglu.py, 0.8.5)."""
    return run.model.kernels == "liger" or (run.model.kernels == "auto" and _obstacle(run, device) is None)


def foreseen_layers(run: Run, device: Device) -> str:
    """In words; empty where a run was not asked for other layers than its model's own."""
    if run.model.kernels == "none":
        return ""
    obstacle = _obstacle(run, device) if run.model.kernels == "auto" else None
    if obstacle is not None:
        return f"auto: the model's own; {obstacle}"
    return f"{run.model.kernels}: Liger's, where the run finds them to be the model's own but for rounding"


def _obstacle(run: Run, device: Device) -> str | None:
    if device.kind != "gpu":
        return "Liger's need a CUDA GPU"
    if run.model.architecture.family not in LIGER_FAMILIES:
        return f"Liger has none for {run.model.architecture.family} that were found right"
    return f"not installed: {', '.join(missing)}" if (missing := missing_liger()) else None
