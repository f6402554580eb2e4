"""How sure a measured value is, and whether two differ: intervals and a paired test over the rows of an evaluation.

A metric is a function of the sum of some numbers of each row: a share of hits and rows, BLEU of its counts. So the
value of any selection of rows follows from sums, and a resample costs no second look at the texts.

Shape suffixes: R rows, K numbers of a row, S selections of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]  # sums of shape (S, K) -> values of shape (S,)

LEVEL = 0.95
RESAMPLES = 2_000
SWAPS = 10_000
_CHUNK = 1 << 22  # elements of a table of selections: 32 MiB


@dataclass(frozen=True)
class Difference:
    """The value of one side less that of the other, on the same rows.

    :param low, high: of its interval. :param p_value: how often a difference as large comes about where the sides are
        exchangeable.
    """

    value: float
    low: float
    high: float
    p_value: float
    rows: int


def mean(sums_SK: Numbers) -> Numbers:
    """Of rows of (value, weight), the weighted mean, where the value is multiplied by its weight already."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums_SK[:, 0] / sums_SK[:, 1]


def interval(numbers_RK: Numbers, statistic: Statistic, seed: int) -> tuple[float, float] | None:
    """The 95 % interval of a metric over rows that stand for others like them; None of fewer than two rows.

    Of shares of hits Wilson's (https://doi.org/10.1080/01621459.1927.10502953), which is no point where all are hits.
    Of all else the bootstrap's, its percentiles widened for the number of rows (Hesterberg 2015, section 4.4,
    https://doi.org/10.1080/00031305.2015.1089789): those of plain ones cover too rarely when rows are few.
    """
    rows = len(numbers_RK)
    if rows < 2:
        return None
    if statistic is mean and _are_hits(numbers_RK):
        counted = float(numbers_RK[:, 1].sum())
        return wilson(float(numbers_RK[:, 0].sum()), counted) if counted else None
    values_S = np.concatenate([statistic(sums_SK) for sums_SK in _resamples(numbers_RK, seed)])
    return _percentiles(values_S, rows)


def wilson(hits: float, rows: float) -> tuple[float, float]:
    """Wilson's score interval of a share.

    >>> low, high = wilson(10, 10)
    >>> round(low, 4), high
    (0.7225, 1.0)
    """
    z, share = NormalDist().inv_cdf((1 + LEVEL) / 2), hits / rows
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return middle - half if hits else 0.0, middle + half if hits < rows else 1.0


def difference(a_RK: Numbers, b_RK: Numbers, statistic: Statistic, seed: int) -> Difference | None:
    """How much the first side is above the second, on the same rows in the same order; None of fewer than two rows.

    The interval is that of the difference over resamples of rows, the same for both sides. The test exchanges the sides
    of each row at random (approximate randomization: Noreen 1989; https://aclanthology.org/W05-0908), which needs no
    assumption about how values are distributed and takes metrics of a whole corpus too.
    """
    rows = len(a_RK)
    assert rows == len(b_RK)
    if rows < 2:
        return None
    both_RK = np.concatenate([a_RK, b_RK], axis=1)
    width = a_RK.shape[1]

    def gap(sums_SK: Numbers) -> Numbers:
        return statistic(sums_SK[:, :width]) - statistic(sums_SK[:, width:])

    observed = float(gap(both_RK.sum(0, keepdims=True))[0])
    ends = _percentiles(np.concatenate([gap(sums_SK) for sums_SK in _resamples(both_RK, seed)]), rows)
    if ends is None or not math.isfinite(observed):
        return None
    changes_RK, total_K, ours_K = b_RK - a_RK, (a_RK + b_RK).sum(0), a_RK.sum(0)
    random, as_large, done = np.random.default_rng([seed, 1]), 0, 0
    while done < SWAPS:
        count = min(max(_CHUNK // rows, 1), SWAPS - done)
        swapped_SK = ours_K + random.integers(0, 2, (count, rows), np.int8).astype(np.float64) @ changes_RK
        gaps_S = statistic(swapped_SK) - statistic(total_K - swapped_SK)
        as_large += int(np.count_nonzero(np.abs(gaps_S) >= abs(observed) - 1e-9 * max(1.0, abs(observed))))
        done += count
    return Difference(observed, *ends, (as_large + 1) / (SWAPS + 1), rows)


def _resamples(numbers_RK: Numbers, seed: int) -> Iterator[Numbers]:
    """Sums over rows drawn with replacement, as many as there are, in parts of shape (s, K)."""
    rows, random, done = len(numbers_RK), np.random.default_rng([seed, 0]), 0
    shares_R = np.full(rows, 1 / rows)
    while done < RESAMPLES:
        count = min(max(_CHUNK // rows, 1), RESAMPLES - done)
        yield random.multinomial(rows, shares_R, count).astype(np.float64) @ numbers_RK
        done += count


def _percentiles(values_S: Numbers, rows: int) -> tuple[float, float] | None:
    """The widened percentiles; of a resample without a value (no row of it counts) there is nothing to tell."""
    values_S = values_S[np.isfinite(values_S)]
    if not len(values_S):
        return None
    tail = NormalDist().cdf(-math.sqrt(rows / (rows - 1)) * _t_quantile((1 + LEVEL) / 2, rows - 1))
    low, high = np.quantile(values_S, [tail, 1 - tail])
    return float(low), float(high)


def _t_quantile(probability: float, freedom: int) -> float:
    """Of Student's t, by Abramowitz and Stegun 26.7.5: to 0.4 % from three degrees of freedom on."""
    z = NormalDist().inv_cdf(probability)
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _are_hits(numbers_RK: Numbers) -> bool:
    """Whether every row is a hit or none, or does not count."""
    return bool(np.isin(numbers_RK, (0.0, 1.0)).all() and (numbers_RK[:, 0] <= numbers_RK[:, 1]).all())
