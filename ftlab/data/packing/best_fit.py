"""Best-fit packing over the whole data set, in an order drawn by seed: nothing cut, nothing lost, and what shares a row
does so by chance.

Longest first, as bins are packed best, puts samples of one length side by side, and with them those of one task, one
format, one source: a batch is then a batch of one kind. Only those that fill more than half a row go first: no two of
them fit together, whatever the order, and what is left of their rows is filled while there is most to choose from.
"""

from __future__ import annotations

from array import array

import numpy as np

from ftlab.data.packing.tables import Indices, index_type, pieces


def shuffled(count: int, seed: int) -> Indices:
    """Return the places 0 to ``count`` - 1 in an order drawn by seed: the one that samples are packed in."""
    order = np.arange(count, dtype=index_type(count))
    np.random.default_rng(list(f"{seed}/packing".encode())).shuffle(order)  # as its permutation, in half the bytes
    return order


def pack_shuffled(lengths: Indices, capacity: int, seed: int) -> Indices:
    """Return the packed row of each item, numbered from 0, shape as ``lengths``: those longer than half of ``capacity``
    first, then the others, both in the order of :func:`shuffled`.
    """
    order = shuffled(len(lengths), seed)
    is_large = np.empty(len(order), dtype=bool)
    for piece in pieces(len(order)):
        is_large[piece] = lengths[order[piece]] > capacity // 2
    order = np.concatenate([order[is_large], order[~is_large]])
    return best_fit(lengths, capacity, order)


def best_fit(lengths: Indices, capacity: int, order: Indices) -> Indices:
    """Put each item, in ``order``, into the fullest row that still takes it; return the row of each.

    Deterministic; O(n * capacity / 64) at most, and one loop over plain integers.

    :param lengths: shape (n,): tokens. :param order: shape (n,): each index once.
    :raises ValueError: an item longer than ``capacity``.
    """
    if (too_long := lengths > capacity).any():
        index = int(too_long.argmax())
        raise ValueError(f"item {index} has {lengths[index]} tokens, more than the capacity of {capacity}")
    # Of the rows that have s tokens of space left the one last filled is newest[s]; before it was before[that one].
    newest, before = [-1] * (capacity + 1), array("q")
    spaces = 0  # bit s is set when some row has s tokens of space left
    rows = 0
    found = np.empty(len(lengths), dtype=index_type(len(lengths)))
    for piece in pieces(len(order)):
        placed: list[int] = []
        for length in lengths[order[piece]].tolist():
            fitting = spaces >> length
            if fitting:
                space = length + ((fitting & -fitting).bit_length() - 1)
                row = newest[space]
                newest[space] = before[row]
                if before[row] < 0:
                    spaces ^= 1 << space
            else:
                space, row = capacity, rows
                rows += 1
                before.append(-1)
            placed.append(row)
            before[row] = newest[space - length]
            newest[space - length] = row
            spaces |= 1 << (space - length)
        found[order[piece]] = placed
    return found
