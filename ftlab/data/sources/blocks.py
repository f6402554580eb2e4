"""Where rows come from, and the blocks they travel in.

Reading is split in two, so that several processes can share it: a :class:`Location` cuts its files into blocks of rows
that nobody has parsed yet, and a :class:`Block`, wherever it was sent, parses its own. Whatever is wrong with a row is
kept beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ftlab.data.sources import tables
from ftlab.data.sources.reading import LARGEST_ROW, too_large
from ftlab.data.sources.rows import Broken, Row, from_json, from_text, require_object
from ftlab.errors import DataError

__all__ = ["BLOCK_BYTES", "BLOCK_ROWS", "Block", "Kind", "Location", "Row", "cut", "cut_batches"]

BLOCK_ROWS = 1000
BLOCK_BYTES = 4_000_000  # a block ends at about this size, however few rows that is

Kind = Literal["json", "text", "values", "table"]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one file, not parsed yet. Picklable.

    :param file: what a user calls the place: a path, or ``hf://owner/name, split``.
    :param ordinals: the place of each row among all rows of its location, from 0. Blank lines are no rows.
    :param numbers: what a user calls each row: its line, or its place in the list or table, from 1.
    :param raw: of each row its bytes (``json``, ``text``) or its value (``values``), or a ``pyarrow.RecordBatch``
        (``table``).
    """

    file: str
    ordinals: Sequence[int]
    numbers: Sequence[int]
    raw: Any
    kind: Kind

    def __len__(self) -> int:
        return len(self.ordinals)

    def __reduce__(self) -> tuple[Any, ...]:
        raw = tables.pack(self.raw) if self.kind == "table" else self.raw
        return _unpickled, (self.file, self.ordinals, self.numbers, raw, self.kind)

    def take(self, keep: Sequence[int]) -> Block:
        """Return the block with only these rows, by their places within it; each keeps its number and its ordinal."""
        kept = self.raw.take(list(keep)) if self.kind == "table" else [self.raw[i] for i in keep]
        numbers, ordinals = [self.numbers[i] for i in keep], [self.ordinals[i] for i in keep]
        return replace(self, ordinals=ordinals, numbers=numbers, raw=kept)

    def rows(self) -> Iterator[Row]:
        """Parse. A row that cannot be parsed, or that no tokenizer could take, has a problem."""
        for number, value in zip(self.numbers, self._values()):
            yield Row(number, None, value.problem) if isinstance(value, Broken) else Row(number, value)

    def _values(self) -> Iterable[Any]:
        if self.kind == "json":
            return map(from_json, self.raw)
        if self.kind == "text":
            return map(from_text, self.raw)
        return map(require_object, self.raw if self.kind == "values" else tables.rows(self.raw))


def _unpickled(file: str, ordinals: Sequence[int], numbers: Sequence[int], raw: Any, kind: Kind) -> Block:
    return Block(file, ordinals, numbers, tables.unpack(raw) if kind == "table" else raw, kind)


class Location(ABC):
    """The source of one split's rows: local files, or a set on a hub. Picklable and hashable; ``str`` names it."""

    @abstractmethod
    def count(self) -> int:
        """Return how many rows :meth:`blocks` yields. For Parquet and Arrow files only the metadata is read.

        :raises DataError: a file that is not what its name says.
        """

    @abstractmethod
    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Block]:
        """All rows, in order. However they are cut, they are the same rows with the same numbers and ordinals.

        No more than a block is held in memory, and no row is larger than ``reading.LARGEST_ROW``.

        :param size: the most rows in a block.
        :raises DataError: a file that is not what its name says, or that has no rows.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """The sha256 of each file's bytes; of a set on a hub, the revision that its name stands for now."""

    @abstractmethod
    def size(self) -> int | None:
        """Return the stored size in bytes; None where it is unknown before reading."""


def cut(file: str, first: int, items: Iterable[tuple[int, Any, int]], kind: Kind, size: int) -> Iterator[Block]:
    """Blocks of ``(number, raw, bytes)``. :param first: the ordinal of the first of them."""
    numbers: list[int] = []
    raw: list[Any] = []
    held = 0
    for number, item, weight in items:
        numbers.append(number)
        raw.append(item)
        held += weight
        if len(raw) >= size or held >= BLOCK_BYTES:
            yield Block(file, range(first, first + len(raw)), numbers, raw, kind)
            first, numbers, raw, held = first + len(raw), [], [], 0
    if raw:
        yield Block(file, range(first, first + len(raw)), numbers, raw, kind)


def cut_batches(file: str, first: int, batches: Iterable[Any], size: int) -> Iterator[Block]:
    """Blocks of RecordBatches, each of which may be of any size.

    :raises DataError: a row is larger than rows may be.
    """
    begin = first
    for batch in batches:
        large = tables.row_larger_than(LARGEST_ROW, batch)
        if large is not None:
            raise DataError(too_large(f"{file}, row {first - begin + large + 1}"))
        step = tables.rows_within(BLOCK_BYTES, batch.nbytes, batch.num_rows, size)
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            number = first - begin + 1
            yield Block(file, range(first, first + len(part)), range(number, number + len(part)), part, "table")
            first += len(part)
