"""Which rows of a source are used, how often and in which order, before they are laid out."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Sequence

import numpy as np

from ftlab.data.packing.tables import Indices, index_type
from ftlab.schema import Data

Together = Callable[[Sequence[int], Indices, random.Random], Sequence[int]]


def select_rows(
    rows: int, data: Data, seed: int, given_splits: set[str], together: Together | None = None
) -> dict[str, Indices | None]:
    """Select the ordinals of train and of the splits held out of it, each drawn by seed and in order; None stands for
    all rows.

    :param given_splits: splits that have rows of their own.
    :param together: makes of rows that were drawn, among all that there are, some that have no duplicate elsewhere; its
        third argument is what drew them.
    """
    kind = index_type(rows)
    train = np.arange(rows, dtype=kind)
    limits = [limit for limit in (data.max_samples, data.num_samples) if limit is not None]
    if limits and min(limits) < rows:
        train = np.sort(np.array(random.Random(f"{seed}/max_samples").sample(range(rows), min(limits)), dtype=kind))
    held_out: dict[str, Indices | None] = {}
    for split, how, fraction in (
        ("validation", data.split.validation, data.split.fraction),
        ("test", data.split.test, data.split.test_fraction),
    ):
        if split in given_splits or how != "auto" or not fraction or len(train) < 2:
            continue
        draw = random.Random(f"{seed}/{split}")
        places = draw.sample(range(len(train)), max(int(len(train) * fraction), 1))
        is_drawn = np.zeros(len(train), dtype=bool)
        is_drawn[places if together is None else together(places, train, draw)] = True
        held_out[split], train = train[is_drawn], train[~is_drawn]
    return {"train": None if len(train) == rows else train, **held_out}


def repeat_units(units: int, wanted: int | None, seed: int) -> Indices:
    """Return the units in order, repeated until there are ``wanted``; the last, partial round is drawn by seed."""
    every = np.arange(units, dtype=index_type(units))
    if wanted is None or wanted <= units or not units:
        return every
    more = random.Random(f"{seed}/num_samples").sample(range(units), wanted % units)
    return np.concatenate([np.tile(every, wanted // units), np.sort(np.array(more, dtype=every.dtype))])


def mix_sources(orders: Sequence[Indices], how: str, probabilities: Sequence[float] | None, seed: int) -> Indices:
    """Mix the units of several data sets into one order.

    ``concat``: one set after the other. ``interleave_under`` draws from them, in turns or by ``probabilities``, until
    the first is used up; ``interleave_over`` until the last is, beginning again with those that are used up before
    (as ``datasets.interleave_datasets`` with first_exhausted and all_exhausted).
    """
    left = [i for i, order in enumerate(orders) if len(order)]  # a set that has lost all its rows takes no turn
    orders, probabilities = [orders[i] for i in left], probabilities and [probabilities[i] for i in left]
    if how == "concat" or len(orders) < 2:
        return np.concatenate(orders) if orders else np.empty(0, np.int64)
    lengths = [len(order) for order in orders]
    if probabilities is None:
        rounds = min(lengths) if how == "interleave_under" else max(lengths)
        table = np.stack([order[np.arange(rounds) % len(order)] for order in orders], axis=1)
        return table.reshape(-1)
    shares = np.asarray(probabilities, dtype=np.float64) / sum(probabilities)
    source = np.random.default_rng(seed)
    taken, done, found = [0] * len(orders), [False] * len(orders), array("q")
    enough = any if how == "interleave_under" else all
    while not enough(done):
        for which in source.choice(len(orders), size=1000, p=shares).tolist():
            found.append(int(orders[which][taken[which] % lengths[which]]))
            taken[which] += 1
            done[which] = done[which] or taken[which] == lengths[which]
            if enough(done):
                break
    return np.asarray(found, dtype=np.int64)
