"""What became of every row and token of a data set."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

FIRST = 20  # rows named for each reason
SHARES = (0, 25, 50, 75, 90, 95, 99, 100)
_BARS = 12  # of the histogram of lengths


@dataclass
class SplitLedger:
    """Counts of one split. Rows in = kept + dropped; tokens in = trained + masked + cut.

    :param rows_repeated: uses of a row after its first (``data.num_samples``, ``data.mix``); their tokens are counted.
    :param dropped: reason -> how many rows. :param named: reason -> ``file:row`` of the first of them.
    :param duplicates: kept rows that say what an earlier one says. :param duplicates_named: the first of them.
    :param literals: rows that spell special tokens out, which are read as text. :param literals_named: the first.
    :param left_out: what the template does not write of kept rows -> of how many ``rows``, and the ``first`` of them.
    :param needed: where rows were cut or left out for their length, the ``data.max_length`` that keeps ``most`` (99 %)
        and ``all`` of them whole.
    :param in_train: of another split than train: how many ``rows`` train has as well, the ``first`` of them, and of how
        many more it has the ``prompts`` with other answers.
    :param tokens_cut: what truncation took away, and all of rows that were dropped for what is in their tokens.
    :param tokens_masked: what is read but not learned.
    :param tokens_repeated: what overlapping chunks hold a second time (masked there, and in no other count).
    :param percentiles: share -> tokens of a sample before it is cut. :param histogram: ``[from, below, samples]``.
    """

    rows_in: int = 0
    rows_kept: int = 0
    rows_truncated: int = 0
    rows_repeated: int = 0
    duplicates: int = 0
    literals: int = 0
    tokens_in: int = 0
    tokens_trained: int = 0
    tokens_masked: int = 0
    tokens_cut: int = 0
    tokens_repeated: int = 0
    packed_rows: int = 0
    packed_capacity: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    named: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    duplicates_named: list[str] = field(default_factory=list)
    literals_named: list[str] = field(default_factory=list)
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    in_train: dict[str, Any] | None = None
    needed: dict[str, int] | None = None
    percentiles: dict[str, int] = field(default_factory=dict)
    histogram: list[list[int]] = field(default_factory=list)

    def drop(self, reason: str, where: str, tokens: int = 0) -> None:
        """Count a row that is not used, and its tokens (if it ever had any) as cut."""
        self.dropped[reason] += 1
        if len(self.named[reason]) < FIRST:
            self.named[reason].append(where)
        self.tokens_in += tokens
        self.tokens_cut += tokens

    def leave_out(self, reason: str, rows: int) -> None:
        """Count rows that were never read."""
        self.rows_in += rows
        self.dropped[reason] += rows
        self.named[reason] += []

    def measure(self, lengths: Any) -> None:
        """:param lengths: tokens of each sample before it is cut."""
        if not len(lengths):
            return
        found = np.percentile(lengths, SHARES, method="lower")
        self.percentiles = {f"p{share}": int(value) for share, value in zip(SHARES, found)}
        edges = np.unique(np.linspace(0, int(np.max(lengths)) + 1, _BARS + 1).astype(np.int64))
        counts, _ = np.histogram(lengths, edges)
        self.histogram = [[int(a), int(b), int(n)] for a, b, n in zip(edges, edges[1:], counts)]

    def measure_needed(self, lengths: Any) -> None:
        """:param lengths: tokens of the longest sample of each row, those that were left out included."""
        most, all_ = (int(value) for value in np.percentile(lengths, (99, 100), method="higher"))
        self.needed = {"most": most, "all": all_}

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def tokens_padded(self) -> int:
        """Positions that stay empty at the ends of the packed rows, if every row is as long as it may be."""
        return self.packed_capacity - self.tokens_held

    @property
    def tokens_held(self) -> int:
        return self.tokens_trained + self.tokens_masked + self.tokens_repeated

    @property
    def fill(self) -> float:
        """Share of the packed rows that is tokens and not padding."""
        return self.tokens_held / self.packed_capacity if self.packed_capacity else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": {"in": self.rows_in, "kept": self.rows_kept, "dropped": self.rows_dropped,
                     "truncated": self.rows_truncated, "duplicates": self.duplicates, "repeated": self.rows_repeated},
            "dropped": {reason: {"rows": count, "first": self.named[reason]} for reason, count in self.dropped.items()},
            "duplicates": {"rows": self.duplicates, "first": self.duplicates_named},
            "special_tokens_as_text": {"rows": self.literals, "first": self.literals_named},
            "left_out_by_template": self.left_out,
            **({"in_train": self.in_train} if self.in_train is not None else {}),
            "tokens": {"in": self.tokens_in, "trained": self.tokens_trained, "masked": self.tokens_masked,
                       "cut": self.tokens_cut, "repeated": self.tokens_repeated, "padded": self.tokens_padded},
            "lengths": {**self.percentiles, "histogram": self.histogram,
                        **({"needed": self.needed} if self.needed is not None else {})},
            "packing": {"rows": self.packed_rows, "tokens_per_row": self.packed_capacity // max(self.packed_rows, 1),
                        "fill": round(self.fill, 4)},
        }  # fmt: skip


@dataclass
class Ledger:
    """:param source: the data sets' names. :param files: by split. :param sha256: by file.
    :param splits: by name: train, validation, test, golden. :param engine: what encoded the text, and why that.
    """

    source: str
    files: dict[str, list[str]]
    sha256: dict[str, str]
    splits: dict[str, SplitLedger]
    engine: str

    def as_dict(self) -> dict[str, Any]:
        splits = {name: split.as_dict() for name, split in self.splits.items()}
        return {"source": self.source, "files": self.files, "sha256": self.sha256, "tokenized_by": self.engine,
                "splits": splits}  # fmt: skip

    def counts(self) -> dict[str, Any]:
        """Everything, for :meth:`from_counts` to read."""
        splits = {name: {f.name: getattr(split, f.name) for f in fields(split)} for name, split in self.splits.items()}
        return {**vars(self), "splits": splits}

    @classmethod
    def from_counts(cls, counts: dict[str, Any]) -> Ledger:
        return cls(**{**counts, "splits": {name: SplitLedger(**split) for name, split in counts["splits"].items()}})
