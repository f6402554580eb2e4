"""Best-fit packing over the whole data set, in an order drawn by seed: nothing cut, nothing lost, and what shares a row
does so by chance.

Longest first, as bins are packed best, puts samples of one length side by side, and with them those of one task, one
format, one source: a batch is then a batch of one kind. Only those that fill more than half a row go first: no two of
them fit together, whatever the order, and what is left of their rows is filled while there is most to choose from.
"""

from __future__ import annotations

import numpy as np

from ftlab.data.tokens.encoder import Counts


def shuffled(count: int, seed: int) -> Counts:
    """Return the places 0 to ``count`` - 1 in an order drawn by seed, int64: the one that samples are packed in."""
    return np.random.default_rng(list(f"{seed}/packing".encode())).permutation(count)


def pack_shuffled(lengths: Counts, capacity: int, seed: int) -> Counts:
    """Return the packed row of each item, numbered from 0, shape as ``lengths``: those longer than half of ``capacity``
    first, then the others, both in the order of :func:`shuffled`.
    """
    order = shuffled(len(lengths), seed)
    is_large = 2 * lengths[order] > capacity
    return best_fit(lengths, capacity, np.concatenate([order[is_large], order[~is_large]]))


def best_fit(lengths: Counts, capacity: int, order: Counts) -> Counts:
    """Put each item, in ``order``, into the fullest row that still takes it; return the row of each.

    Deterministic; O(n * capacity / 64) at most, and one loop over plain integers.

    :param lengths: int64, shape (n,): tokens. :param order: int64, shape (n,): each index once.
    :raises ValueError: an item longer than ``capacity``.
    """
    if (too_long := lengths > capacity).any():
        index = int(too_long.argmax())
        raise ValueError(f"item {index} has {lengths[index]} tokens, more than the capacity of {capacity}")
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s is set when some row has s tokens of space left
    rows = 0
    placed: list[int] = []
    for length in lengths[order].tolist():
        fitting = spaces >> length
        if fitting:
            space = length + ((fitting & -fitting).bit_length() - 1)
            row = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, row = capacity, rows
            rows += 1
        placed.append(row)
        by_space[space - length].append(row)
        spaces |= 1 << (space - length)
    found = np.empty(len(lengths), dtype=np.int64)
    found[order] = placed
    return found
