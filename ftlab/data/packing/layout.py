"""How samples lie in rows of a fixed capacity: packed, chunked with overlap, or wrapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ftlab.data.packing.best_fit import pack_shuffled, shuffled
from ftlab.data.tokens.encoder import Counts
from ftlab.schema import Data


@dataclass(frozen=True, slots=True)
class Views:
    """Stretches of the stored tokens, each read as one sample, and the rows that they are packed into.

    :param bounds: int64, shape (V, 3): start, end, and how many tokens at the start are not trained here.
    :param units: int64, shape (V,): the kept row that each comes from.
    :param members: int64: indices of views, row after row. :param rows: int64, shape (R + 1,): where each row begins.
    """

    bounds: Counts
    units: Counts
    members: Counts
    rows: Counts


def lay_out(counts: Counts, per_unit: int, order: Counts, data: Data, seed: int, is_text: bool) -> Views:
    """Return the views of the units in ``order``, packed as the config asks.

    Which of them share a row is drawn by seed, so that no row is of one task or length because the file is in order.
    Only where a wrapped row is read as one text its texts stay as they are in the file: there their order is content.

    :param counts: int64, shape (S,): tokens of each stored sample; ``per_unit`` of them belong together in one row.
    """
    starts = np.concatenate([[0], counts.cumsum()])
    if data.packing == "wrapped":
        if data.reset_positions:
            order = order[shuffled(len(order), seed)]
        return _wrap_texts(starts, order, data.max_length, data.reset_positions)  # the schema has it for texts only
    if is_text:
        bounds, units = _chunk_texts(starts, order, data.max_length, data.overlap)
    else:
        samples = (order[:, None] * per_unit + np.arange(per_unit)).reshape(-1)
        bounds = np.stack([starts[samples], starts[samples + 1], np.ones(len(samples), np.int64)], axis=1)
        units = np.repeat(order, per_unit)
    lengths = (bounds[:, 1] - bounds[:, 0]).reshape(-1, per_unit).sum(1)
    if data.packing:
        row_of = pack_shuffled(lengths, data.max_length * per_unit, seed)
        bins = np.argsort(row_of, kind="stable")
        firsts = np.concatenate([[0], np.bincount(row_of).cumsum()])
    else:
        bins, firsts = np.arange(len(lengths)), np.arange(len(lengths) + 1)
    members = (bins[:, None] * per_unit + np.arange(per_unit)).reshape(-1)
    return Views(bounds, units, members, firsts * per_unit)


def chunk_spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open token ranges of at most ``size`` that cover ``length`` tokens, each sharing ``overlap`` with the last.

    >>> chunk_spans(10, 4, 1)
    [(0, 4), (3, 7), (6, 10)]
    """
    spans = [(0, min(size, length))]
    while spans[-1][1] < length:
        start = spans[-1][1] - overlap
        spans.append((start, min(start + size, length)))
    return spans


def _chunk_texts(starts: Counts, order: Counts, size: int, overlap: int) -> tuple[Counts, Counts]:
    """Chunks of long texts; every token is trained in at most one of them, the shared ones in the earlier."""
    lengths = starts[order + 1] - starts[order]
    bounds = np.stack([starts[order], starts[order + 1], np.ones(len(order), np.int64)], axis=1)
    units = order
    long = np.flatnonzero(lengths > size)
    if not len(long):
        return bounds, units
    parts, owners, places = [bounds[lengths <= size]], [order[lengths <= size]], [np.flatnonzero(lengths <= size)]
    for i in long.tolist():
        spans = chunk_spans(int(lengths[i]), size, overlap)
        if spans[-1][1] - spans[-1][0] == 1:  # the end of a text cut without overlap: alone it could not be learned
            spans[-1] = (spans[-1][0] - 1, spans[-1][1])
        at = starts[order[i]]
        parts.append(np.array([(at + s, at + e, max(overlap, 1) if s else 1) for s, e in spans], dtype=np.int64))
        owners.append(np.full(len(spans), order[i]))
        places.append(np.full(len(spans), i))
    by_place = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(parts)[by_place], np.concatenate(owners)[by_place]


def _wrap_texts(starts: Counts, order: Counts, size: int, reset: bool) -> Views:
    """Texts end to end, cut every ``size`` tokens; the last row may be shorter. Its first token is never trained.

    :param reset: whether every text's part of a row stands alone, its own first token not trained either.
    """
    stream = np.concatenate([[0], (starts[order + 1] - starts[order]).cumsum()])
    cuts = np.arange(0, stream[-1], size)
    firsts = np.union1d(cuts, stream[:-1])
    place = np.searchsorted(stream, firsts, side="right") - 1
    begins = starts[order[place]] + firsts - stream[place]
    lengths = np.diff(np.append(firsts, stream[-1]))
    skips = np.ones(len(firsts), np.int64) if reset else np.isin(firsts, cuts).astype(np.int64)
    rows = np.append(np.searchsorted(firsts, cuts), len(firsts))
    return Views(np.stack([begins, begins + lengths, skips], axis=1), order[place], np.arange(len(firsts)), rows)
