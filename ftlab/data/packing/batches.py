"""Rows of similar length together."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows in batches of similar length, each of at most ``budget`` tokens with its padding, or of one row.

    >>> batches_by_tokens([5, 2, 3, 9], budget=8)
    [[1, 2], [0], [3]]
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if found and (len(found[-1]) + 1) * lengths[index] <= budget:
            found[-1].append(index)
        else:
            found.append([index])
    return found
