"""How the samples of a packed row are kept apart: the first way that a probe of the loaded model finds right.

Not every family heeds position ids (Falcon, OPT, BLOOM and MPT do not when they make their mask), and recurrent layers
(state spaces, linear attention, convolutions over time) know no mask at all: they carry one sample into the next.

Where attention goes by segments (:mod:`ftlab.model.attention`) there is no mask. That is tried first, where the model's
attention is left to us.

Shape suffixes: B rows, L tokens of the longest row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ftlab.data.packing.collate import BY_SEGMENT, Isolation, PackedCollator
from ftlab.data.packing.store import SHARED, PackedRow, Sample, spans
from ftlab.errors import first_line
from ftlab.model.attention.interface import VARIABLE_LENGTH
from ftlab.model.attention.self_check import kernel_error, unsuited_layers, unsuited_windows
from ftlab.stages.trainer.forward import packed_hidden, segment_layout

# Root mean square of a difference that is rounding alone, as a share of the hidden states' own: packed and alone, a
# sample meets matrix products of other shapes. Another position or a sample more changes them by several per cent.
_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-6}
_ROUNDING_16_BIT = 0.03
# int8 chooses its outlier columns over the whole batch, so that another sample's tokens change the rounding of all: a
# token's hidden states by some 3 % of their size on the embedded model, where a leak changes the next sample's by 20 %.
_ROUNDING_INT8 = 0.1


TOO_LONG = "it cannot compute a row of"
BY_MASK: tuple[Isolation, ...] = ("position_ids", "block_mask")

_PROBED_SAMPLES, _PROBED_TOKENS = 4, 512


@dataclass(frozen=True)
class Probe:
    """What was found of a model.

    :param isolation: the way that its samples are kept apart. :param reasons: why each way before it was not right.
    """

    isolation: Isolation
    reasons: dict[Isolation, str] = field(default_factory=dict)


def shortened(row: PackedRow) -> PackedRow:
    """The beginnings of the first samples of a row: a long row's mask would have the square of its tokens."""
    samples = (Sample(s.input_ids[:_PROBED_TOKENS], s.learned[:_PROBED_TOKENS]) for s in row.samples[:_PROBED_SAMPLES])
    return PackedRow(tuple(samples))


def probe_isolation(
    model: Any,
    row: PackedRow,
    pad_id: int,
    ways: Sequence[Isolation] = BY_MASK,
    longest: int = 0,
    device: torch.device | None = None,
) -> Probe:
    """Try the ways in turn, in evaluation mode and without gradients, on a row of at least two samples.

    A way is right where the later samples' hidden states change by nothing at all when the first sample's tokens are
    replaced (by no more than rounding in int8); and, of a mask that the model would not have made itself, where they
    are those of each sample alone but for rounding. Attention by segments has to give what eager attention gives with a
    mask, but for rounding; the model keeps it where it does. One to a row is right for every causal model.

    :param longest: the most tokens that a sample of the run can have. :param device: where the run will train, if not
        where the model is.
    """
    assert len(row.samples) > 1
    was_training = model.training
    model.eval()
    reasons: dict[Isolation, str] = {}
    try:
        for isolation in ways:
            if isolation in BY_SEGMENT:
                reason = _unlike_eager(model, row, pad_id, isolation, longest, device or model.device)
            else:
                reason = _CHECKS[isolation](model, row, pad_id, isolation)
            if reason is None:
                return Probe(isolation, reasons)
            reasons[isolation] = reason
    finally:
        model.train(was_training)
    return Probe("one_per_row", reasons)


def _unlike_eager(
    model: Any, row: PackedRow, pad_id: int, isolation: Isolation, longest: int, device: torch.device
) -> str | None:
    """What of attention by segments is not as it should be, if anything; the model's attention is then as it was."""
    reason = unsuited_layers(model, longest) or kernel_error(model, isolation, device)
    if reason is not None:
        return reason
    before = model.config._attn_implementation
    reason = "it could not be computed"
    try:
        model.set_attn_implementation(isolation)
        reason = _unlike_eager_on(model, row, pad_id, isolation, longest)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
    finally:
        model.set_attn_implementation(before if reason is not None else isolation)
    return reason


def _unlike_eager_on(model: Any, row: PackedRow, pad_id: int, isolation: Isolation, longest: int) -> str | None:
    batch = batch_of(model, [row], pad_id, isolation)
    layout = segment_layout(batch)
    layout.windows = []
    ours = hidden_of(model, batch)
    windows, layout.windows = layout.windows, None
    if reason := unsuited_windows(model, windows, longest):
        return reason
    first = len(row.samples[0].input_ids)
    if reason := _change(model, ours, hidden_of(model, _with_other_tokens(batch, first)), first):
        return reason
    model.set_attn_implementation("eager")
    eager = hidden_of(model, batch_of(model, [row], pad_id, "block_mask"))
    share = ((ours - eager).square().mean().sqrt() / eager.square().mean().sqrt()).item()
    return None if share <= rounding_of(model) else f"hidden states differ by {share:.2g} of their size from eager's"


def _leak(model: Any, row: PackedRow, pad_id: int, isolation: Isolation) -> str | None:
    """What the later samples notice of the first one, if anything."""
    batch = batch_of(model, [row], pad_id, isolation)
    first = len(row.samples[0].input_ids)
    return _change(model, hidden_of(model, batch), hidden_of(model, _with_other_tokens(batch, first)), first)


def _with_other_tokens(batch: dict[str, Any], count: int) -> dict[str, Any]:
    """The batch with the first tokens replaced, each of them by another."""
    ids = batch["input_ids"]
    replaced = ids.clone()
    replaced[:, :count] = torch.where(ids > 0, ids - 1, ids + 1)[:, :count]
    return {**batch, "input_ids": replaced}


def _change(model: Any, before: Tensor, after: Tensor, first: int) -> str | None:
    """How much the hidden states after the first tokens have changed, where that is more than nothing."""
    before, after = before[:, first:], after[:, first:]
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
    together = hidden_of(model, batch_of(model, [row], pad_id, isolation))[0]
    alone = torch.cat(
        [hidden_of(model, batch_of(model, [PackedRow((each,))], pad_id, "position_ids"))[0] for each in row.samples]
    )
    difference = (together[: row.length] - alone).square().mean().sqrt() / alone.square().mean().sqrt()
    share = difference.item()
    if share <= rounding_of(model):
        return None
    return f"hidden states differ by {share:.2g} of their size from the sample's alone"


def probe_sharing(model: Any, pair: PackedRow, pad_id: int) -> str | None:
    """Why two answers are others when their prompt is computed once for both, if by more than rounding. In evaluation
    mode and without gradients.

    :param model: its attention goes by segments. :param pair: with its column of what is shared.
    """
    isolation = model.config._attn_implementation
    was_training = model.training
    model.eval()
    try:
        once = hidden_of(model, batch_of(model, [pair], pad_id, isolation))[0]
        twice = hidden_of(model, batch_of(model, [PackedRow(pair.samples)], pad_id, isolation))[0]
    finally:
        model.train(was_training)
    own_S = pair.lengths - pair.columns[SHARED]
    places = torch.from_numpy(spans(pair.lengths.cumsum() - own_S, own_S)).to(twice.device)
    share = ((once - twice[places]).square().mean().sqrt() / twice.square().mean().sqrt()).item()
    return None if share <= rounding_of(model) else f"hidden states differ by {share:.2g} of their size"


def rounding_of(model: Any) -> float:
    if _is_int8(model):
        return _ROUNDING_INT8
    is_16_bit = torch.is_autocast_enabled(model.device.type)
    return _ROUNDING_16_BIT if is_16_bit else _ROUNDING.get(model.dtype, _ROUNDING_16_BIT)


_CHECKS: dict[Isolation, Callable[[Any, PackedRow, int, Isolation], str | None]] = {
    "position_ids": _leak_or_too_long,
    "block_mask": _leak_or_other_positions,
}


def batch_of(model: Any, rows: list[PackedRow], pad_id: int, isolation: Isolation) -> dict[str, Any]:
    batch = PackedCollator(pad_id, model.config._attn_implementation in VARIABLE_LENGTH, isolation)(rows)

    def on_device(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(on_device, value))
        return value.to(model.device) if isinstance(value, Tensor) else value

    return {name: on_device(value) for name, value in batch.items()}


@torch.no_grad()
def hidden_of(model: Any, batch: dict[str, Any]) -> Tensor:
    return packed_hidden(model, batch).float()
