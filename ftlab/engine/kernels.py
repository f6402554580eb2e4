"""Which layers of a phase's model another package computes (``model.kernels``): found once, when the model is loaded,
and kept for the whole run."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.markup import escape

from ftlab.distributed.sharding import sharding_of
from ftlab.distributed.world import World
from ftlab.engine.output import Output
from ftlab.engine.packing import training_device
from ftlab.errors import NotReadyError, first_line
from ftlab.pretrained.liger import LIGER_FAMILIES, is_interpreted, missing_liger
from ftlab.rundir.manifest import Manifest
from ftlab.schema import Run

_KEY = "kernels"  # of the manifest: what each phase has come to, where one was chosen


def check_kernels(manifest: Manifest, phase: str, run: Run) -> None:
    """:raises NotReadyError: the phase began with layers that are not to be had here, and without them its losses would
    have other last digits."""
    if _recorded(manifest, phase) == "liger" and (reason := _unavailable(run, is_interpreted())):
        raise NotReadyError(
            f"Phase {phase} began with Liger's layers (model.kernels={run.model.kernels}); {reason}. Continue it where "
            "they are to be had, or begin anew with model.kernels=none run.if_exists=new."
        )


def choose_kernels(
    output: Output, manifest: Manifest, phase: str, run: Run, model: Any, pad_id: int, prepared: Any, world: World,
    isolation: Any,
) -> None:  # fmt: skip
    """Put them into the model; told, and recorded in the manifest for those that resume.

    :param run: the phase's config. :param prepared: its rows. :param isolation: how packed samples are kept apart.
    :raises NotReadyError: layers that were asked for are not to be had here, or give something else than the model's.
    """
    from ftlab.model.kernels.liger import put_liger_layers

    asked, recorded = run.model.kernels, _recorded(manifest, phase)
    if asked == "none" or recorded == "none":
        return
    if recorded is not None:
        layers = put_liger_layers(model, run)
        output.note(f"layers: Liger's {_listed(layers.names)}, as before")
        return
    reason = _unavailable(run, asked == "liger" and is_interpreted())
    if reason is None:
        reason = _put_checked(output, run, model, pad_id, prepared, world, isolation)
    if reason is not None:
        if asked == "liger":
            raise NotReadyError(f"model.kernels=liger: {reason}. Use model.kernels=none.")
        output.say(escape(f"layers: the model's own; not Liger's: {reason}"))
    manifest.record_item(_KEY, phase, "liger" if reason is None else "none")


def _recorded(manifest: Manifest, phase: str) -> str | None:
    found: str | None = manifest.values.get(_KEY, {}).get(phase)
    return found


def _unavailable(run: Run, is_interpreted: bool) -> str | None:
    """Why Liger's layers are not to be had here, with what would do."""
    import torch

    from ftlab.model.load import uses_cpu

    if missing := missing_liger():
        return f"not installed: {', '.join(missing)} (pip install 'ftlab[liger]')"
    if run.model.architecture.family not in LIGER_FAMILIES:
        return f"it has none for {run.model.architecture.family} that were found right"
    if (uses_cpu(run) or not torch.cuda.is_available()) and not is_interpreted:
        return "they need a CUDA GPU"
    return None


def _put_checked(
    output: Output, run: Run, model: Any, pad_id: int, prepared: Any, world: World, isolation: Any
) -> str | None:
    """Why the model has its own layers as before, if it has."""
    import torch

    from ftlab.data.packing.store import PackedRow
    from ftlab.model.kernels.liger import put_liger_layers
    from ftlab.model.load import compute_dtype
    from ftlab.stages.trainer.isolation import shortened
    from ftlab.stages.trainer.layer_check import compute

    device, dtype = training_device(run, world), compute_dtype(run)
    at = prepared.train.first_packed
    row = PackedRow(shortened(prepared.train[0 if at is None else at]).samples)
    is_whole = sharding_of(run).is_whole and model.device.type == device.type
    computed = partial(compute, model, row, pad_id, isolation, device, is_whole)
    layers = None
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):  # as in training
            own = computed()
            layers = put_liger_layers(model, run)
            difference = own.difference(computed())
        reason = None if difference is None else f"they differ: {difference}"
    except torch.OutOfMemoryError:
        raise
    except NotReadyError as error:
        reason = str(error)
    except Exception as error:  # a kernel that cannot be compiled raises whatever its compiler does
        reason = f"they cannot be computed: {type(error).__name__}: {first_line(error)}"
    if layers is None or reason is not None:
        if layers is not None:
            layers.remove()
        return reason
    found = f"layers: Liger's {_listed(layers.names)}; on a row of the run they are the model's own"
    output.say(f"{found}, forward and backward, but for rounding")
    return None


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
