"""Whether the two answers of a pair are computed beside one prompt: decided once, when a phase has loaded its model."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.markup import escape

from ftlab.engine.output import Output
from ftlab.rundir.manifest import Manifest
from ftlab.schema import DpoStage, Run
from ftlab.stages.trainer.batching import PAIRED_STAGES

# The share of tokens from which on data.share_prompts=auto does it: attention to a prefix costs as much as some 5 % of
# the tokens of a small model on a CPU (answers of 256 tokens), or 10 % (of 64).
_PAYS = 0.1


def share_prompts(
    output: Output, manifest: Manifest, phase: str, run: Run, model: Any, pad_id: int, prepared: Any, isolation: Any
) -> None:
    """Have batches leave out prompts that stand in them already, where both answers of a pair can attend to one, and
    that pays. Which rows a step holds stays as it is; losses and gradients do, but for rounding. Told, and recorded in
    the manifest for those that resume.

    :param run: the phase's config. :param prepared: its rows. :param isolation: how packed samples are kept apart.
    """
    if run.stage.name not in PAIRED_STAGES or run.train.engine != "ftlab":
        return
    is_shared = manifest.values.get("shares_prompts", {}).get(phase)
    if is_shared is None:
        is_shared = _decide(output, run, model, pad_id, prepared.train, isolation)
        manifest.record_item("shares_prompts", phase, is_shared)
    else:
        how = "once for both answers" if is_shared else "for each answer"
        output.note(f"prompts are computed {how}, as before")
    for rows in (prepared.train, prepared.validation):
        if rows is not None:
            rows.shares_prompts = is_shared


def _decide(output: Output, run: Run, model: Any, pad_id: int, rows: Any, isolation: Any) -> bool:
    wish = run.data.share_prompts
    if wish is False:
        return False
    # kto's rows come in pairs later: each with its prompt once more, before another row's answer.
    share = float(rows.prompts.sum()) / 2 / float(rows.view_lengths().sum())
    reason = _obstacle(run, model, isolation)
    if reason is None and share and (wish is True or share >= _PAYS):
        reason = _difference(run, model, rows, pad_id)
        if reason is None:
            output.say(f"prompts are computed once for both answers: {share:.0%} fewer tokens (data.share_prompts)")
            return True
    if wish is True:
        reason = reason or "no two answers begin with the same tokens"
        line = f"data.share_prompts=true: prompts are computed for each answer all the same, since {reason}"
        output.say(f"[yellow]{escape(line)}[/yellow]")
    else:
        output.note(f"prompts are computed for each answer: {reason or f'{share:.1%} of the tokens is all they are'}")
    return False


def _obstacle(run: Run, model: Any, isolation: Any) -> str | None:
    from ftlab.data.packing.collate import BY_SEGMENT
    from ftlab.stages.trainer.router_loss import router_coefficient

    if isolation not in BY_SEGMENT:
        return f"attention does not go by segments; samples are kept apart by {isolation}"
    if isinstance(run.stage, DpoStage) and run.stage.reference_model is not None:
        return "stage.reference_model is another model, which may have another attention"
    if router_coefficient(run, model):
        return "the load-balancing loss of its routers counts the tokens of each answer"
    return None


def _difference(run: Run, model: Any, rows: Any, pad_id: int) -> str | None:
    """What a pair of the run shows."""
    import torch

    from ftlab.data.packing.store import SHARED, PackedRow
    from ftlab.model.load import compute_dtype
    from ftlab.stages.trainer.isolation import probe_sharing

    view = int(np.argmax(rows.prompts > 0))
    answers = rows.unit(int(rows.units_of(view)))
    shared = np.array([0, rows.prompts[view]])
    row, dtype = PackedRow((answers[0], answers[-1]), {SHARED: shared}), compute_dtype(run)
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):  # as in training
        return probe_sharing(model, row, pad_id)
