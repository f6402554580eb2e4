"""How the samples of a packed row are kept apart: the first way that a probe of the loaded model finds right.

Not every family heeds position ids (Falcon, OPT, BLOOM and MPT do not when they make their mask), and recurrent layers
(state spaces, linear attention, convolutions over time) know no mask at all: they carry one sample into the next.

Shape suffixes: B rows, L tokens of the longest row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftlab.data.packing.collate import Isolation, PackedCollator
from ftlab.data.packing.store import PackedRow
from ftlab.errors import first_line
from ftlab.stages.trainer.forward import packed_hidden

# Root mean square of a difference that is rounding alone, as a share of the hidden states' own: packed and alone, a
# sample meets matrix products of other shapes. Another position or a sample more changes them by several per cent.
_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-6}
_ROUNDING_16_BIT = 0.03
# int8 chooses its outlier columns over the whole batch, so that another sample's tokens change the rounding of all: a
# token's hidden states by some 3 % of their size on the embedded model, where a leak changes the next sample's by 20 %.
_ROUNDING_INT8 = 0.1


TOO_LONG = "it cannot compute a row of"


@dataclass(frozen=True)
class Probe:
    """What was found of a model.

    :param isolation: the way that its samples are kept apart. :param reasons: why each way before it was not right.
    """

    isolation: Isolation
    reasons: tuple[str, ...] = ()


def probe_isolation(model: Any, row: PackedRow, pad_id: int) -> Probe:
    """Try the ways in turn, in evaluation mode and without gradients, on a row of at least two samples.

    A way is right where the later samples' hidden states change by nothing at all when the first sample's tokens are
    replaced (by no more than rounding in int8); and, of a mask that the model would not have made itself, where they
    are those of each sample alone but for rounding. One to a row is right for every causal model.
    """
    assert len(row.samples) > 1
    was_training = model.training
    model.eval()
    reasons: list[str] = []
    try:
        for isolation, check in _WAYS.items():
            reason = check(model, row, pad_id, isolation)
            if reason is None:
                return Probe(isolation, tuple(reasons))
            reasons.append(f"{isolation}: {reason}")
    finally:
        model.train(was_training)
    return Probe("one_per_row", tuple(reasons))


def _leak(model: Any, row: PackedRow, pad_id: int, isolation: Isolation) -> str | None:
    """What the later samples notice of the first one, if anything."""
    batch = _batch(model, [row], pad_id, isolation)
    first = len(row.samples[0].input_ids)
    ids = batch["input_ids"]
    replaced = ids.clone()
    replaced[:, :first] = torch.where(ids > 0, ids - 1, ids + 1)[:, :first]  # each of them another token
    before, after = (_hidden(model, {**batch, "input_ids": each})[:, first : row.length] for each in (ids, replaced))
    change = (before - after).abs().max().item()
    if change <= 1e-6:
        return None
    if _is_int8(model):
        share = ((before - after).norm(dim=-1) / before.norm(dim=-1)).max().item()
        return None if share <= _ROUNDING_INT8 else f"hidden states change by {share:.0%} with another sample's tokens"
    return f"hidden states change by {change:.2g} with another sample's tokens"


def _is_int8(model: Any) -> bool:
    return any(type(module).__name__ == "Linear8bitLt" for module in model.modules())


def _leak_or_other_positions(model: Any, row: PackedRow, pad_id: int, isolation: Isolation) -> str | None:
    """Besides, how far a sample is from itself alone: a mask made outside says nothing of positions."""
    try:
        return _leak(model, row, pad_id, isolation) or _difference(model, row, pad_id, isolation)
    except torch.OutOfMemoryError:  # which is a RuntimeError, and says nothing of masks
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # Each family takes its mask in its own shape, and says so in its own way.
        return f"it takes no such mask: {type(error).__name__}: {first_line(error)}"


def _leak_or_too_long(model: Any, row: PackedRow, pad_id: int, isolation: Isolation) -> str | None:
    """Besides, whether the row is longer than a table that the model keeps of its positions, though no sample is."""
    try:
        return _leak(model, row, pad_id, isolation)
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError) as error:
        return f"{TOO_LONG} {row.length} tokens: {first_line(error)}"


def _difference(model: Any, row: PackedRow, pad_id: int, isolation: Isolation) -> str | None:
    """How far the samples of a row are from themselves alone, where that is more than rounding."""
    together = _hidden(model, _batch(model, [row], pad_id, isolation))[0]
    alone = torch.cat(
        [_hidden(model, _batch(model, [PackedRow((each,))], pad_id, "position_ids"))[0] for each in row.samples]
    )
    difference = (together[: row.length] - alone).square().mean().sqrt() / alone.square().mean().sqrt()
    limit = _ROUNDING.get(model.dtype, _ROUNDING_16_BIT)
    limit = _ROUNDING_INT8 if _is_int8(model) else limit
    share = difference.item()
    return None if share <= limit else f"hidden states differ by {share:.2g} of their size from the sample's alone"


_WAYS: dict[Isolation, Callable[[Any, PackedRow, int, Isolation], str | None]] = {
    "position_ids": _leak_or_too_long,
    "block_mask": _leak_or_other_positions,
}


def _batch(model: Any, rows: list[PackedRow], pad_id: int, isolation: Isolation) -> dict[str, Any]:
    batch = PackedCollator(pad_id, isolation=isolation)(rows)

    def on_device(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(on_device, value))
        return value.to(model.device) if isinstance(value, Tensor) else value

    return {name: on_device(value) for name, value in batch.items()}


@torch.no_grad()
def _hidden(model: Any, batch: dict[str, Any]) -> Tensor:
    return packed_hidden(model, batch).float()
