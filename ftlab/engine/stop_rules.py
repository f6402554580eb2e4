"""Which configs of a sweep are stopped early: by how they compare at the same step. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from ftlab.schema.launchers import StopRule


def rungs(rule: StopRule, turns: int, factor: int) -> list[int]:
    """After which of their turns configs are compared. Successive halving compares after 1, ``factor``, ``factor``
    squared, ... turns (Li et al. 2018, https://arxiv.org/abs/1810.05934, with a first rung of one turn), the median
    rule after every one (Golovin et al. 2017, Google Vizier, section 3.1). After the last turn nothing is left to stop.

    >>> rungs("asha", 9, 3), rungs("median", 4, 3), rungs("none", 4, 3)
    ([1, 3], [1, 2, 3], [])
    """
    if rule == "median":
        return list(range(1, turns))
    if rule == "asha":
        return [factor**power for power in range(turns) if factor**power < turns]
    return []


def losers(rule: StopRule, values: Mapping[int, float], minimize: bool, factor: int) -> dict[int, str]:
    """The configs to stop, each with the reason.

    :param values: of the objective at one step, by config: of all that have come so far, also those that were stopped
        later or are finished. A value that is no number is worse than any.
    :param minimize: whether less is better. :param factor: of successive halving, one in so many goes on.
    """
    sign = 1.0 if minimize else -1.0
    worth = {number: math.inf if math.isnan(value) else sign * value for number, value in values.items()}
    if rule == "asha":
        kept = max(1, len(worth) // factor)
        order = sorted(worth, key=lambda number: (worth[number], number))
        return {
            number: f"{values[number]:.4g} was {place} of {len(order)}, and {kept} went on"
            for place, number in enumerate(order, 1)
            if place > kept
        }
    if rule == "median" and len(worth) > 1:
        median = statistics.median(worth.values())
        return {
            number: f"{values[number]:.4g} was worse than the median {sign * median:.4g} of {len(worth)}"
            for number, value in worth.items()
            if value > median
        }
    return {}


def value_at(lines: Sequence[Mapping[str, object]], key: str, step: int) -> float | None:
    """The last that was logged of a measure up to a step; None where there is none yet.

    :param lines: of ``metrics.jsonl``, in their order.
    """
    found = [line[key] for line in lines if key in line and int(str(line["step"])) <= step]
    return float(str(found[-1])) if found else None
