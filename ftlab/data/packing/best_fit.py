"""Best-fit decreasing packing over the whole data set: deterministic, nothing cut, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the indices of ``lengths``, grouped into bins of at most ``capacity`` tokens.

    The longest item goes first, each into the fullest bin that still takes it (Johnson 1974: at most 11/9 of the
    optimum plus 4 bins); ties go to the earlier index. Runs in O(n log n + n * capacity / 64).

    :raises ValueError: an item longer than ``capacity``.
    """
    bins: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    spaces = 0  # bit s is set when some bin has s tokens of space left
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"item {index} has {length} tokens, more than the capacity of {capacity}")
        fitting = spaces >> length
        if fitting:
            space = length + ((fitting & -fitting).bit_length() - 1)
            place = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
        else:
            space, place = capacity, len(bins)
            bins.append([])
        bins[place].append(index)
        by_space[space - length].append(place)
        spaces |= 1 << (space - length)
    return [sorted(members) for members in bins]
