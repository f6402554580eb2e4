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
from ftlab.data.row_cache import remembered
from ftlab.data.sources.blocks import Location
from ftlab.data.sources.resolve import Source

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
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    if counts.max(initial=0) <= 1:
        return list(drawn)
    chosen: dict[int, None] = {}
    held = 0
    for group in dict.fromkeys(inverse[list(drawn)].tolist()):
        if held + counts[group] <= len(drawn):
            chosen[group] = None
            held += int(counts[group])
    if not chosen:
        alone = np.flatnonzero(counts[inverse] == 1).tolist()
        if not alone:  # all are duplicates: nothing can be kept apart
            return list(drawn)
        return draw.sample(alone, min(len(alone), len(drawn)))
    return np.flatnonzero(np.isin(inverse, list(chosen))).tolist()
