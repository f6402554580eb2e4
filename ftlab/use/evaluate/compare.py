"""Two evaluations on the same rows: by how much they differ, and whether that is a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftlab.measure.intervals import Difference, difference
from ftlab.rundir.compare import lower_is_better
from ftlab.use.evaluate.kept import Evaluation, Measured, json_number

_SURE = 0.05  # a p-value below it is a difference
_NO_DIRECTION = ("length",)


@dataclass(frozen=True)
class Contrast:
    """A metric of the run beside that of another. :param found: None where nothing is known of the rows."""

    name: str
    ours: float
    theirs: float
    found: Difference | None

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``differs``, where the test says so; else that it does not."""
        if self.found is None:
            return "not tested"
        if self.found.p_value >= _SURE:
            return "no difference shown"
        if self.name in _NO_DIRECTION:
            return "differs"
        return "better" if (self.found.value < 0) == lower_is_better(self.name) else "worse"

    @property
    def values(self) -> dict[str, Any]:
        found = self.found
        return {
            "value": json_number(self.ours),
            "other": json_number(self.theirs),
            "difference": json_number(found.value if found else self.ours - self.theirs),
            "low": found.low if found else None,
            "high": found.high if found else None,
            "p_value": found.p_value if found else None,
            "rows": found.rows if found else None,
            "verdict": self.verdict,
        }


def compare(ours: Evaluation, theirs: Evaluation) -> list[Contrast]:
    """The metrics that both have, on the rows that both have."""
    return [
        _contrast(name, one, theirs.measured[name], ours.seed)
        for name, one in ours.measured.items()
        if name in theirs.measured
    ]


def _contrast(name: str, ours: Measured, theirs: Measured, seed: int) -> Contrast:
    a, b = ours.score, theirs.score
    if a.numbers is None or b.numbers is None:
        return Contrast(name, a.value, b.value, None)
    places = {row: place for place, row in enumerate(theirs.rows)}
    both = [(place, places[row]) for place, row in enumerate(ours.rows) if row in places]
    a_RK, b_RK = a.numbers[[one for one, _ in both]], b.numbers[[other for _, other in both]]
    return Contrast(name, a.value, b.value, difference(a_RK, b_RK, a.statistic, seed))
