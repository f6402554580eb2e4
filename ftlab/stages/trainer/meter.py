"""Means of measures, kept on the device between two logged lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Means of measures since they were last asked for, summed on the device without waiting for it.

    ``totals`` has the sum and the count of each, shape (2,).
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, measures: dict[str, Tensor], is_complete: bool = False) -> None:
        """:param measures: one value for each item, by name; NaN where an item has none.
        :param is_complete: every item has one, and what is NaN is wrong and must be seen.
        """
        for name, values_I in measures.items():
            values_I = values_I.detach()
            if values_I.device.type != "mps":  # which has no fp64
                values_I = values_I.double()
            has_I = torch.ones_like(values_I, dtype=torch.bool) if is_complete else ~values_I.isnan()
            total = values_I.sum() if is_complete else values_I.nansum()
            found = torch.stack([total, has_I.sum().to(values_I.dtype)])
            self.totals[name] = self.totals[name] + found if name in self.totals else found

    def add_nothing(self, measures: dict[str, Tensor]) -> None:
        """Of a batch that counts for nothing: the names alone, since all ranks have to sum the same measures."""
        self.add(
            {name: torch.full_like(values_I, torch.nan, dtype=torch.float32) for name, values_I in measures.items()}
        )

    def means(self, reduce: Callable[..., Any]) -> dict[str, float]:
        """The means, over all ranks, and begin anew. :param reduce: sums a tensor over the ranks."""
        if not self.totals:
            return {}
        names = sorted(self.totals)
        totals = reduce(torch.stack([self.totals[name] for name in names]), "sum").tolist()
        self.totals = {}
        return {name: total / count for name, (total, count) in zip(names, totals) if count}
