"""How a phase keeps packed samples apart: found once, when its model is loaded, and kept for the whole run."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

from rich.markup import escape

from ftlab.distributed.sharding import sharding_of
from ftlab.distributed.world import World
from ftlab.engine.output import Output
from ftlab.pretrained.architecture import is_bounded
from ftlab.rundir.manifest import Manifest
from ftlab.schema import Run
from ftlab.stages.trainer.batching import PAIRED_STAGES

_READ = 64  # rows from which the cost is told


def choose_isolation(
    output: Output, manifest: Manifest, phase: str, run: Run, model: Any, pad_id: int, prepared: Any, world: World
) -> Any:
    """The way for training and evaluation alike; told, and recorded in the manifest for those that resume.

    Attention by segments becomes the model's own where it is chosen; it is also for rows of one sample, which need no
    mask then where they are padded.

    :param run: the phase's config. :param prepared: its rows. Any of them may be the only packed one.
    :param world: of the processes that train it together.
    """
    from ftlab.data.packing.collate import BY_SEGMENT

    recorded = manifest.values.get("packed_by", {})
    if run.stage.name in ("ppo", "grpo"):
        return "position_ids"  # what they train on is generated, one answer to a row
    if phase in recorded:
        isolation = recorded[phase]
        if isolation in BY_SEGMENT and run.model.attention == "auto":
            model.set_attn_implementation(isolation)
        output.note(f"packed samples are kept apart by {isolation}, as before")
        return isolation
    row = _packed_row(run, prepared)
    isolation = _probe(output, run, model, row, pad_id, prepared, world)
    if row is not None or isolation in BY_SEGMENT:
        manifest.record_item("packed_by", phase, isolation)
    return isolation


def _packed_row(run: Run, prepared: Any) -> Any:
    """The first row of several samples in any split, as the stage packs it; None where there is none."""
    from ftlab.data.packing.store import PackedRow
    from ftlab.stages.trainer.isolation import shortened

    splits = [rows for rows in (prepared.train, prepared.validation) if rows is not None]
    found = next((rows[rows.first_packed] for rows in splits if rows.first_packed is not None), None)
    if run.stage.name in PAIRED_STAGES and len(prepared.train):
        if found is None:
            found = PackedRow(prepared.train[0].samples * 2)  # kto pairs each answer with another's only later
        shape, longest = run.model.architecture, 2 * run.data.max_length
        if is_bounded(shape.family, shape.position_embeddings) and longest > shape.max_positions:
            # Some of these families have a table as long as a row may be, and a pair can be longer than any sample.
            return PackedRow(found.samples * (shape.max_positions // found.length + 1))
    return None if found is None else shortened(found)


def _probe(output: Output, run: Run, model: Any, row: Any, pad_id: int, prepared: Any, world: World) -> Any:
    """:param row: None where no row has several samples."""
    import torch

    from ftlab.data.packing.collate import BY_SEGMENT
    from ftlab.data.packing.store import PackedRow
    from ftlab.model.load import compute_dtype
    from ftlab.stages.trainer import isolation as ways

    device, dtype = training_device(run, world), compute_dtype(run)
    if sharding_of(run).is_whole and model.device.type == "cpu":
        model.to(device)  # where training would move it to a moment later
    family, attention = model.config.model_type, model.config._attn_implementation
    # Where the user has named an attention it stays, and where the family's own is none of torch's (soft caps, sinks).
    is_free = run.model.attention == "auto" and attention == "sdpa" and run.train.engine == "ftlab"
    tried = (*(BY_SEGMENT if is_free else ()), *(() if row is None else ways.BY_MASK))
    probed = row
    if row is None and is_free and len(prepared.train):
        probed = ways.shortened(PackedRow(prepared.train[0].samples * 2))
    if probed is None or not tried:
        return "position_ids"
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):  # as in training
        found = ways.probe_isolation(model, probed, pad_id, tried, run.data.max_length, device)
    if found.isolation in BY_SEGMENT:
        output.say("attention: by segments, without a mask; on a packed row it is eager attention's, but for rounding")
        return found.isolation
    if is_free:
        output.say(escape(f"attention: {attention}; not by segments: {found.reasons['segments']}"))
    if row is None:
        return "position_ids"
    if found.isolation == "position_ids":
        output.note("packed samples do not see each other: probed on the first packed row")
        return found.isolation
    reason = found.reasons["position_ids"]
    line = f"{family} under model.attention={attention} lets packed samples see each other by positions ({reason})."
    if reason.startswith(ways.TOO_LONG):
        line = f"{family}: {reason}."
    if found.isolation == "block_mask":
        output.say(escape(f"{line} A mask of each row's samples keeps them apart, as a probe shows."))
    else:
        output.say(
            f"[yellow]{escape(f'{line} It gets each sample in a row of its own. {_cost(prepared, pad_id)}')}[/yellow]"
        )
        if "block_mask" in found.reasons:
            output.note(f"tried besides: block_mask: {found.reasons['block_mask']}")
    return found.isolation


def training_device(run: Run, world: World) -> Any:
    """Where this process will train."""
    import torch

    from ftlab.model.load import uses_cpu

    kind = None if uses_cpu(run) else torch.accelerator.current_accelerator()
    return torch.device("cpu") if kind is None else torch.device(kind.type, world.local_rank)


def _cost(prepared: Any, pad_id: int) -> str:
    """What the model computes more, of each row by itself, in the words of the one who waits for it."""
    from ftlab.data.packing.collate import PackedCollator

    collate = PackedCollator(pad_id, isolation="one_per_row")
    some = islice(chain(prepared.train), _READ)
    batches = [collate([row]) for row in some]
    calls = sum(len(batch["calls"]) for batch in batches)
    positions = sum(places.numel() for batch in batches for places in batch["calls"])
    tokens = sum(batch["tokens"] for batch in batches)
    return (
        f"A step holds the same samples as before; a packed row takes {calls / len(batches):.1f} calls of the model "
        f"on average instead of one, and {1 - tokens / positions:.0%} of what it computes is padding."
    )
