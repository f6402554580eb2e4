"""The few numbers of places that micro-batches are padded to, where a program is compiled for each of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ftlab.data.tokens.encoder import Counts

_SIZES, _MULTIPLE = 4, 64


def padded_sizes(lengths: Counts, batch: int) -> list[int]:
    """The largest micro-batch that the rows can make, and a quarter, a half and three quarters of it, from below.

    :param lengths: tokens of each row. :param batch: rows of a micro-batch.

    >>> padded_sizes(np.array([500, 512, 90]), 2)
    [256, 512, 768, 1024]
    """
    most = int(np.sort(lengths)[-batch:].sum())
    step = -(-most // (_SIZES * _MULTIPLE)) * _MULTIPLE
    return [step * n for n in range(1, _SIZES + 1)]


def padded_size(tokens: int, sizes: Sequence[int]) -> int:
    """The smallest of the sizes that has room for them; as many as there are where none has.

    >>> padded_size(300, [256, 512])
    512
    """
    return next((size for size in sizes if size >= tokens), tokens)
