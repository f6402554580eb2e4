"""Encoded splits on disk: flat int32 tokens and flags, and small tables of where samples begin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ftlab.data.packing.layout import Views
from ftlab.data.packing.tables import ArrayFile
from ftlab.data.tokens.encoder import Counts, Flags, Ids

SHARED = "shared"  # the column of what Rows.shared says, of rows whose batches leave those tokens out
IGNORE = -100  # the label of a token that is read but not learned


@dataclass(frozen=True, slots=True)
class Sample:
    """:param input_ids: int32, shape (T,). :param learned: bool, shape (T,): which tokens are labels, never the first.

    A label stands at its own token's place; the trainer shifts.
    """

    input_ids: Ids
    learned: Flags

    @property
    def labels(self) -> Ids:
        """int32, shape (T,); IGNORE where nothing is learned."""
        return np.where(self.learned, self.input_ids, np.int32(IGNORE))

    @property
    def trained(self) -> int:
        return int(np.count_nonzero(self.learned))


def spans(starts: Counts, lengths: Counts) -> Counts:
    """Return the numbers of stretches, one after the other, int64, shape (sum of the lengths,).

    >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = lengths.cumsum()
    places: Counts = np.repeat(starts - ends + lengths, lengths)
    places += np.arange(len(places))
    return places


class PackedRow:
    """Samples side by side, none attending to another: their tokens in one array, and where each ends.

    :ivar input_ids: int32, shape (T,). :ivar learned: bool, shape (T,), as of :class:`Sample`.
    :ivar lengths: int64, shape (S,): tokens of each sample. :ivar columns: what else is known of the samples, by name:
        one value for each.
    """

    __slots__ = ("columns", "input_ids", "learned", "lengths")

    def __init__(self, samples: Sequence[Sample], columns: dict[str, NDArray[Any]] | None = None) -> None:
        self.input_ids: Ids = np.concatenate([sample.input_ids for sample in samples])
        self.learned: Flags = np.concatenate([sample.learned for sample in samples])
        self.lengths: Counts = np.array([len(sample.input_ids) for sample in samples])
        self.columns: dict[str, NDArray[Any]] = columns or {}

    @classmethod
    def of_tokens(cls, input_ids: Ids, learned: Flags, lengths: Counts, columns: dict[str, NDArray[Any]]) -> Self:
        """Return the row of samples that stand one after the other in these arrays already."""
        row = cls.__new__(cls)
        row.input_ids, row.learned, row.lengths, row.columns = input_ids, learned, lengths, columns
        return row

    @property
    def samples(self) -> tuple[Sample, ...]:
        ends = self.lengths.cumsum().tolist()
        spans = zip([0, *ends], ends)
        return tuple(Sample(self.input_ids[start:end], self.learned[start:end]) for start, end in spans)

    @property
    def length(self) -> int:
        return len(self.input_ids)


class Rows(Sequence[PackedRow]):
    """Packed rows, whose samples (views, V of them in all) may be given values to travel with.

    :param views: how many samples all rows together have, those that are used again counted again.
    :param kept: int64, shape (U, 3): of each row of the source that is used (a unit), its part, ordinal and number.
    :ivar shares_prompts: whether batches are to leave out what a view has in common with the one before it.
    """

    def __init__(self, views: int, kept: Counts) -> None:
        self.views, self.kept = views, kept
        self.shares_prompts = False
        self._columns: dict[str, NDArray[Any]] = {}

    def attach(self, name: str, values: NDArray[Any]) -> None:
        """Give every view a value, shape (V,), that travels with it into batches."""
        assert len(values) == self.views
        self._columns[name] = values

    def view_indices(self, index: int) -> Counts:
        """Return the indices of the views that a row holds, in its order."""
        raise AssertionError("every kind of rows says so")

    def units(self, index: int) -> Counts:
        """Return the source rows of which a packed row holds something, as indices into ``kept``."""
        raise AssertionError("every kind of rows says so")

    def lengths(self) -> Counts:
        """Return how many tokens each row has, without those that batches leave out, int64, shape (R,)."""
        raise AssertionError("every kind of rows says so")

    def counts(self) -> Counts:
        """Return how many samples each row has, int64, shape (R,)."""
        raise AssertionError("every kind of rows says so")

    def learned(self) -> Counts:
        """Return how many tokens of each row are learned, int64, shape (R,)."""
        raise AssertionError("every kind of rows says so")

    def longest(self, count: int) -> list[int]:
        """Return the indices of the longest rows, of equal ones the first."""
        order: list[int] = np.argsort(-self.lengths(), kind="stable")[:count].tolist()
        return order

    def shared(self) -> Counts:
        """Return how many tokens at its start each view need not have, since the one before it in its row begins with
        the same and learns none of them, int64, shape (V,)."""
        raise AssertionError("rows of pairs say so")

    def fingerprint(self) -> str:
        """A hash of every token, flag and place."""
        raise AssertionError("every kind of rows has one")

    def columns(self, index: int) -> dict[str, NDArray[Any]]:
        """Return the values attached to the samples of a row, by name."""
        members = self.view_indices(index)
        return {name: values[members] for name, values in self._columns.items()}


class PackedRows(Rows):
    """Rows of one split, read from the store as they are asked for.

    :param labels: KTO's, of each used source row, shape (U,). :param joined: whether the views of a row are one text.
    :param prompts: int64, shape (U,): how many tokens at the start of its samples are those of the prompt, none of them
        learned: of a pair, as far as both answers begin with them. None where there is nothing to share.
    """

    def __init__(
        self, ids: Ids, trained: Flags, views: Views, kept: Counts, labels: NDArray[Any], joined: bool = False,
        prompts: Counts | None = None,
    ):  # fmt: skip
        super().__init__(len(views.bounds), kept)
        self._ids, self._trained, self._views, self._joined = ids, trained, views, joined
        self._labels, self._prompts = labels, prompts

    @property
    def labels(self) -> NDArray[Any]:
        """KTO's, shape (V,)."""
        labels: NDArray[Any] = self._labels[self._views.units]
        return labels

    @property
    def prompts(self) -> Counts:
        """How many tokens at the start of each view are those of its prompt, int64, shape (V,)."""
        return np.zeros(self.views, np.int64) if self._prompts is None else self._prompts[self._views.units]

    def __len__(self) -> int:
        return len(self._views.rows) - 1

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        starts, lengths, skips = self.stretches(self.view_indices(index))
        ids, learned = self.tokens(starts, lengths, skips)
        lengths = lengths.sum(keepdims=True) if self._joined else lengths
        return PackedRow.of_tokens(ids, learned, lengths, self.columns(index))

    def stretches(self, views: Counts) -> tuple[Counts, Counts, Counts]:
        """Return where some views start among the stored tokens, how many tokens they have, and how many of those at
        the start are not learned; each of the shape of ``views``."""
        starts, ends, skips = self._views.bounds[views].T
        return starts, ends - starts, skips

    def tokens(self, starts: Counts, lengths: Counts, skips: Counts) -> tuple[Ids, Flags]:
        """Return stretches of the stored tokens, one after the other, and which of those tokens are learned.

        :param skips: how many at the start of each are not, int64, shape (S,), as the others.
        """
        places = spans(starts, lengths)
        learned = self._trained.take(places)
        learned[spans(lengths.cumsum() - lengths, np.minimum(skips, lengths))] = False
        return self._ids.take(places), learned

    def view_indices(self, index: int) -> Counts:
        return self._views.members[self._views.rows[index] : self._views.rows[index + 1]]

    @property
    def first_packed(self) -> int | None:
        """The index of the first row of several samples; None where there is none."""
        is_packed = np.diff(self._views.rows) > 1
        return int(is_packed.argmax()) if is_packed.any() and not self._joined else None

    def units(self, index: int) -> Counts:
        return self.units_of(self.view_indices(index))

    def lengths(self) -> Counts:
        return self.sums(self.view_lengths() - self._columns.get(SHARED, 0))

    def shared(self) -> Counts:
        return self.prompts * (np.arange(self.views) % 2)  # views are chosen and rejected answers in turns

    def counts(self) -> Counts:
        return np.ones(len(self), np.int64) if self._joined else np.diff(self._views.rows)

    def learned(self) -> Counts:
        starts, lengths, skips = self.stretches(np.arange(self.views))
        ends = starts + lengths
        return self.sums(self._trained_before(ends) - self._trained_before(np.minimum(starts + skips, ends)))

    def _trained_before(self, places: Counts) -> Counts:
        """How many of the stored tokens before each place are trained."""
        points = np.unique(np.append(places[places < len(self._trained)], 0))
        between = np.add.reduceat(self._trained.view(np.uint8), points, dtype=np.int64)
        before: Counts = np.append(0, between.cumsum())[np.searchsorted(points, places)]
        return before

    def view_lengths(self) -> Counts:
        """Return how many tokens each view has, int64, shape (V,)."""
        return self._views.bounds[:, 1] - self._views.bounds[:, 0]

    def sums(self, values: Counts) -> Counts:
        """Return the sum of a value of each view over the views of each row, shape (R,)."""
        sums: Counts = np.add.reduceat(values[self._views.members], self._views.rows[:-1])
        return sums

    def units_of(self, views: Counts) -> Counts:
        """Return, for each of some views, the index of the used source row that it comes from."""
        return self._views.units[views]

    def fingerprint(self) -> str:
        found = hashlib.sha256()
        for table in (self._ids, self._trained, *(getattr(self._views, name) for name in Views.__slots__)):
            found.update(np.ascontiguousarray(table).view(np.uint8).data)
        return found.hexdigest()

    def unit(self, index: int) -> list[Sample]:
        """Return the samples of one used source row: a single one, its chunks, or chosen and rejected."""
        views = np.flatnonzero(self._views.units == index)
        return [self.view(int(view)) for view in views]

    def start(self, index: int) -> int:
        """Return how many tokens of its source row precede a view."""
        same = np.flatnonzero(self._views.units == self._views.units[index])
        return int(self._views.bounds[index, 0] - self._views.bounds[same, 0].min())

    def view(self, index: int) -> Sample:
        """Return one sample, by its index among all views."""
        start, end, skip = self._views.bounds[index].tolist()
        learned = self._trained[start:end].copy()
        learned[:skip] = False
        return Sample(self._ids[start:end], learned)


# The tables beside the tokens: the type of their numbers, and the shape of a row. The first four are those of Views.
_TABLES: dict[str, tuple[type, tuple[int, ...]]] = {
    "bounds": (np.int64, (3,)), "units": (np.int64, ()), "members": (np.int64, ()), "rows": (np.int64, ()),
    "kept": (np.int64, (3,)), "label": (np.int8, ()), "prompt": (np.int64, ()),
}  # fmt: skip


class Writer:
    """Tokens of one split, appended block by block, then its tables, piece by piece."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._ids: BinaryIO = (folder / "ids.i32").open("wb")
        self._trained: BinaryIO = (folder / "trained.u8").open("wb")
        self._tables = {name: ArrayFile(folder / f"{name}.npy", *of) for name, of in _TABLES.items()}

    def add(self, ids: Ids, trained: Flags) -> None:
        self._ids.write(ids.data)
        self._trained.write(trained.view(np.uint8).data)

    def append(self, **pieces: NDArray[Any]) -> None:
        """:param pieces: the next rows of tables, by name."""
        for name, piece in pieces.items():
            self._tables[name].append(piece)

    def close(self) -> None:
        self._ids.close()
        self._trained.close()
        for table in self._tables.values():
            table.close()


def read_split(folder: Path, joined: bool) -> PackedRows:
    """A split as :class:`Writer` left it, its tokens mapped into memory."""
    ids, trained = _memory_map(folder / "ids.i32", np.int32), _memory_map(folder / "trained.u8", np.bool_)
    tables = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _TABLES}
    views = Views(*(tables.pop(name) for name in Views.__slots__))
    return PackedRows(ids, trained, views, tables["kept"], tables["label"], joined, tables["prompt"])


def _memory_map(path: Path, kind: Any) -> Any:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.empty(0, kind)
    # A plain array over the mapping: slices of np.memmap cost several times as much.
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))
