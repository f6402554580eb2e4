"""What became of every row and token of a data set."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FIRST = 20  # rows named for each reason


@dataclass
class SplitLedger:
    """Counts of one split. Rows in = kept + dropped; tokens in = trained + masked + cut.

    :param dropped: reason -> how many rows. :param named: reason -> ``file:row`` of the first of them.
    :param tokens_cut: what truncation took away. :param tokens_masked: what is read but not learned.
    :param tokens_repeated: what overlapping chunks hold a second time (masked there, and in no other count).
    """

    rows_in: int = 0
    rows_kept: int = 0
    rows_truncated: int = 0
    tokens_in: int = 0
    tokens_trained: int = 0
    tokens_masked: int = 0
    tokens_cut: int = 0
    tokens_repeated: int = 0
    packed_rows: int = 0
    packed_capacity: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    named: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lengths: list[int] = field(default_factory=list)

    def drop(self, reason: str, where: str, tokens: int = 0) -> None:
        """Count a row that is not used, and its tokens (if it ever had any) as cut."""
        self.dropped[reason] += 1
        if len(self.named[reason]) < FIRST:
            self.named[reason].append(where)
        self.tokens_in += tokens
        self.tokens_cut += tokens

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def fill(self) -> float:
        """Share of the packed rows that is tokens and not padding."""
        held = self.tokens_trained + self.tokens_masked + self.tokens_repeated
        return held / self.packed_capacity if self.packed_capacity else 0.0

    def percentile(self, share: float) -> int:
        return int(np.percentile(self.lengths, share)) if self.lengths else 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": {"in": self.rows_in, "kept": self.rows_kept, "dropped": self.rows_dropped,
                     "truncated": self.rows_truncated},
            "dropped": {reason: {"rows": count, "first": self.named[reason]} for reason, count in self.dropped.items()},
            "tokens": {"in": self.tokens_in, "trained": self.tokens_trained, "masked": self.tokens_masked,
                       "cut": self.tokens_cut, "repeated": self.tokens_repeated},
            "lengths": {f"p{share}": self.percentile(share) for share in (0, 50, 90, 99, 100)},
            "packing": {"rows": self.packed_rows, "tokens_per_row": self.packed_capacity // max(self.packed_rows, 1),
                        "fill": round(self.fill, 4)},
        }  # fmt: skip


@dataclass
class Ledger:
    """:param source: the data set's name. :param splits: by name: train, validation."""

    source: str
    files: dict[str, str]
    splits: dict[str, SplitLedger]

    def as_dict(self) -> dict[str, Any]:
        splits = {name: split.as_dict() for name, split in self.splits.items()}
        return {"source": self.source, "files": self.files, "splits": splits}
