"""Which rows, in which order, cut where: arithmetic on counts, the same however the rows were encoded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ftlab.data.encode import Counts
from ftlab.data.pack import best_fit_decreasing
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


def chosen(rows: int, data: Data, seed: int, own: set[str]) -> dict[str, list[int] | None]:
    """Ordinals of train and of the splits held out of it, each drawn by seed; None is all.

    :param own: splits that have rows of their own.
    """
    train: Sequence[int] = range(rows)
    limits = [limit for limit in (data.max_samples, data.num_samples) if limit is not None]
    if limits and min(limits) < rows:
        train = sorted(random.Random(f"{seed}/max_samples").sample(range(rows), min(limits)))
    found: dict[str, list[int] | None] = {}
    for split, how, fraction in (
        ("validation", data.split.validation, data.split.fraction),
        ("test", data.split.test, data.split.test_fraction),
    ):
        if split in own or how != "auto" or not fraction or len(train) < 2:
            continue
        drawn = set(random.Random(f"{seed}/{split}").sample(range(len(train)), max(int(len(train) * fraction), 1)))
        found[split] = [row for i, row in enumerate(train) if i in drawn]
        train = [row for i, row in enumerate(train) if i not in drawn]
    return {"train": None if len(train) == rows else list(train), **found}


def repeated(units: int, wanted: int | None, seed: int) -> Counts:
    """Units in order, all of them as often as it takes to have ``wanted``, the last time round drawn by seed."""
    if wanted is None or wanted <= units or not units:
        return np.arange(units)
    more = random.Random(f"{seed}/num_samples").sample(range(units), wanted % units)
    return np.concatenate([np.tile(np.arange(units), wanted // units), np.sort(np.array(more, dtype=np.int64))])


def mixed(orders: Sequence[Counts], how: str, probabilities: Sequence[float] | None, seed: int) -> Counts:
    """Several sets' units in one order.

    ``concat``: one set after the other. ``interleave_under`` draws from them, in turns or by ``probabilities``, until
    the first is used up; ``interleave_over`` until the last is, beginning again with those that are used up before
    (as ``datasets.interleave_datasets`` with first_exhausted and all_exhausted).
    """
    left = [i for i, order in enumerate(orders) if len(order)]  # a set that has lost all its rows takes no turn
    orders, probabilities = [orders[i] for i in left], probabilities and [probabilities[i] for i in left]
    if how == "concat" or len(orders) < 2:
        return np.concatenate([np.empty(0, np.int64), *orders])
    lengths = [len(order) for order in orders]
    if probabilities is None:
        rounds = min(lengths) if how == "interleave_under" else max(lengths)
        table = np.stack([order[np.arange(rounds) % len(order)] for order in orders], axis=1)
        return table.reshape(-1)
    shares = np.asarray(probabilities, dtype=np.float64) / sum(probabilities)
    source = np.random.default_rng(seed)
    taken, done, found = [0] * len(orders), [False] * len(orders), []
    enough = any if how == "interleave_under" else all
    while not enough(done):
        for which in source.choice(len(orders), size=1000, p=shares).tolist():
            found.append(orders[which][taken[which] % lengths[which]])
            taken[which] += 1
            done[which] = done[which] or taken[which] == lengths[which]
            if enough(done):
                break
    return np.asarray(found, dtype=np.int64)


def arranged(counts: Counts, per_unit: int, order: Counts, data: Data, is_text: bool) -> Views:
    """Views of the units in ``order``, packed as the config says.

    :param counts: int64, shape (S,): tokens of each stored sample; ``per_unit`` of them belong together in one row.
    """
    starts = np.concatenate([[0], counts.cumsum()])
    if data.packing == "wrapped":
        return _wrapped(starts, order, data.max_length, data.reset_positions)  # the schema has it for texts only
    if is_text:
        bounds, units = _chunked(starts, order, data.max_length, data.overlap)
    else:
        samples = (order[:, None] * per_unit + np.arange(per_unit)).reshape(-1)
        bounds = np.stack([starts[samples], starts[samples + 1], np.ones(len(samples), np.int64)], axis=1)
        units = np.repeat(order, per_unit)
    lengths = (bounds[:, 1] - bounds[:, 0]).reshape(-1, per_unit).sum(1)
    if data.packing:
        packed = best_fit_decreasing(lengths.tolist(), data.max_length * per_unit)
        bins = np.fromiter(chain.from_iterable(packed), dtype=np.int64, count=len(lengths))
        firsts = np.concatenate([[0], np.fromiter(map(len, packed), dtype=np.int64, count=len(packed)).cumsum()])
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


def _chunked(starts: Counts, order: Counts, size: int, overlap: int) -> tuple[Counts, Counts]:
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


def _wrapped(starts: Counts, order: Counts, size: int, reset: bool) -> Views:
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
