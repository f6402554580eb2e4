"""How samples lie in rows of a fixed capacity: packed, chunked with overlap, or wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ftlab.data.packing.best_fit import pack_shuffled, shuffled
from ftlab.data.packing.tables import Indices, index_type, pieces
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


class Layout:
    """The views of the units in ``order``, packed as the config asks: what :class:`Views` holds, in pieces. Use once:
    :meth:`views` to its end, then :meth:`rows`. Of each view 12 to 16 bytes are held, until its row is known.

    Which views share a row is drawn by seed, so that no row is of one task or length because the file is in order.
    Only where a wrapped row is read as one text its texts stay as they are in the file: there their order is content.

    :param starts: int64, shape (S + 1,): where each stored sample begins, and where the last ends; ``per_unit`` of them
        belong together in one row.
    """

    def __init__(self, starts: Counts, per_unit: int, order: Indices, data: Data, seed: int, is_text: bool):
        self._starts, self._order, self._per_unit = starts, order, per_unit
        self._data, self._seed, self._is_text = data, seed, is_text
        self._lengths: list[Indices] = []  # of what goes into one row together
        self._firsts: list[Counts] = []  # of wrapped rows
        self._views = 0

    def views(self) -> Iterator[tuple[Counts, Counts]]:
        """Yield bounds and units of views, in order."""
        if self._data.packing == "wrapped":  # the schema has it for texts only
            if self._data.reset_positions:
                self._order = self._order[shuffled(len(self._order), self._seed)]
            found = self._wrapped()
        else:
            found = self._whole()
        for bounds, units in found:
            self._views += len(units)
            yield bounds, units
        del self._starts, self._order

    def rows(self) -> tuple[Counts, Iterator[Counts]]:
        """Return where each row begins, int64, shape (R + 1,), and the members of the rows in pieces."""
        data, per_unit = self._data, self._per_unit
        if data.packing == "wrapped":
            return np.concatenate([*self._firsts, [self._views]]), _members(None, self._views, 1)
        groups = self._views // per_unit
        if not data.packing:
            return np.arange(0, (groups + 1) * per_unit, per_unit), _members(None, groups, per_unit)
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        del self._lengths
        firsts, bins = _by_row(pack_shuffled(lengths, data.max_length * per_unit, self._seed))
        return firsts * per_unit, _members(bins, groups, per_unit)

    def _whole(self) -> Iterator[tuple[Counts, Counts]]:
        starts, per_unit = self._starts, self._per_unit
        for piece in pieces(len(self._order)):
            order = self._order[piece].astype(np.int64)
            if self._is_text:
                bounds, units = _chunk_texts(starts, order, self._data.max_length, self._data.overlap)
            else:
                samples = (order[:, None] * per_unit + np.arange(per_unit)).reshape(-1)
                bounds = np.stack([starts[samples], starts[samples + 1], np.ones(len(samples), np.int64)], axis=1)
                units = np.repeat(order, per_unit)
            if self._data.packing:
                lengths = (bounds[:, 1] - bounds[:, 0]).reshape(-1, per_unit).sum(1)
                self._lengths.append(lengths.astype(np.int32))
            yield bounds, units

    def _wrapped(self) -> Iterator[tuple[Counts, Counts]]:
        """Texts end to end, cut every ``max_length`` tokens; the last row may be shorter. Its first token is never
        trained; with ``reset_positions`` every text's part of a row stands alone, its own first token not trained
        either.
        """
        starts, size, before = self._starts, self._data.max_length, 0
        for piece in pieces(len(self._order)):
            order = self._order[piece].astype(np.int64)
            stream = before + np.concatenate([[0], (starts[order + 1] - starts[order]).cumsum()])
            cuts = np.arange(-(-before // size) * size, stream[-1], size)
            firsts = np.union1d(cuts, stream[:-1])
            place = np.searchsorted(stream, firsts, side="right") - 1
            begins = starts[order[place]] + firsts - stream[place]
            lengths = np.diff(np.append(firsts, stream[-1]))
            begins_row = firsts % size == 0
            skips = np.ones(len(firsts), np.int64) if self._data.reset_positions else begins_row.astype(np.int64)
            self._firsts.append(self._views + np.flatnonzero(begins_row))
            before = int(stream[-1])
            yield np.stack([begins, begins + lengths, skips], axis=1), order[place]


def _members(bins: Indices | None, groups: int, per_unit: int) -> Iterator[Counts]:
    """Yield the indices of views, row after row. :param bins: of what goes into one row together; None: in order."""
    for piece in pieces(groups):
        of_piece = np.arange(piece.start, piece.stop) if bins is None else bins[piece].astype(np.int64)
        yield (of_piece[:, None] * per_unit + np.arange(per_unit)).reshape(-1)


def _by_row(row_of: Indices) -> tuple[Counts, Indices]:
    """Return where each row begins, int64, shape (R + 1,), and the items of all rows, row after row, each in order."""
    firsts = np.zeros(int(row_of.max(initial=-1)) + 2, dtype=np.int64)
    for piece in pieces(len(row_of)):
        np.add.at(firsts, row_of[piece] + 1, 1)
    np.cumsum(firsts, out=firsts)
    free = firsts[:-1].copy()  # the place of the next item of each row
    bins = np.empty(len(row_of), dtype=index_type(len(row_of)))
    for piece in pieces(len(row_of)):
        order = np.argsort(row_of[piece], kind="stable")
        rows = row_of[piece][order]
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        counts = np.diff(np.append(begins, len(rows)))
        bins[free[rows] + np.arange(len(rows)) - np.repeat(begins, counts)] = piece.start + order
        free[rows[begins]] += counts
    return firsts, bins


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
