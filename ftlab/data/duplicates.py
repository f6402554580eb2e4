"""Rows that are the same: those of one file, so that none is held out of another; those of two splits, to be told."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.data.formats import CONVERTERS, Columns, RowError
from ftlab.data.formats.records import content_hash
from ftlab.data.packing.tables import pieces
from ftlab.data.row_cache import remembered
from ftlab.data.sources.blocks import Location
from ftlab.data.sources.resolve import Source
from ftlab.data.tokens.encoder import Counts

Hashes = NDArray[np.uint64]


def row_hashes(source: Source, location: Location, count: int, cache: str | None, progress: Any) -> Hashes:
    """A hash of each row's content, shape (count,): equal for rows that become the same record, whatever else differs.

    A malformed row is like no other. Found again in the cache as long as the file and how it is read are the same.

    :param count: of the rows. :param progress: of bars; None for none.
    """
    read = [location.fingerprint(), source.format, source.columns, source.tags, source.merges]
    stored = remembered(cache, "npy", read, lambda: _dump(_row_hashes(source, location, count, progress)))
    return np.load(io.BytesIO(stored))


def _dump(hashes: Hashes) -> bytes:
    content = io.BytesIO()
    np.save(content, hashes)
    return content.getvalue()


def _row_hashes(source: Source, location: Location, count: int, progress: Any) -> Hashes:
    found = np.zeros(count, dtype=np.uint64)
    convert = CONVERTERS[source.format]
    with progress("comparing rows", count, "rows") if progress else nullcontext() as bar:
        for block in location.blocks():
            for ordinal, row in zip(block.ordinals, block.rows()):
                try:
                    if row.problem is not None:
                        raise RowError(row.problem)
                    found[ordinal] = content_hash(
                        convert(Columns(row.value, source.columns, source.tags, source.merges))
                    )
                except RowError:
                    found[ordinal] = content_hash(None, str(ordinal))
            if bar is not None:
                bar.advance(len(block))
    return found


def keep_groups_whole(drawn: Sequence[int], hashes: Hashes, draw: random.Random) -> list[int]:
    """Of drawn places those whose duplicates all fit among as many, with these duplicates; in no order.

    Without duplicates that is what was drawn. A group that does not fit stays behind whole; where none fits, as many
    are drawn of the rows that have no duplicate.

    :param drawn: places in ``hashes``, in the order in which they were drawn. :param draw: what drew them.
    """
    known, firsts = np.unique(hashes[list(drawn)], return_index=True)
    counts = np.zeros(len(known) + 1, dtype=np.int64)  # the last is that of all others
    for piece in pieces(len(hashes)):
        np.add.at(counts, _places(known, hashes[piece]), 1)
    is_chosen = np.zeros(len(known) + 1, dtype=bool)
    held = 0
    for group in np.argsort(firsts).tolist():
        if held + counts[group] <= len(drawn):
            is_chosen[group] = True
            held += int(counts[group])
    if not held:
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        alone = np.flatnonzero(counts[inverse] == 1).tolist()
        if not alone:  # all are duplicates: nothing can be kept apart
            return list(drawn)
        return draw.sample(alone, min(len(alone), len(drawn)))
    return [
        place
        for piece in pieces(len(hashes))
        for place in (piece.start + np.flatnonzero(is_chosen[_places(known, hashes[piece])])).tolist()
    ]


def _places(known: Hashes, hashes: Hashes) -> Counts:
    """Where each hash stands among those that are known, in their order; of one that is not, how many there are."""
    nearest = np.searchsorted(known[:-1], hashes)
    return np.where(known[nearest] == hashes, nearest, len(known))
