"""Encoded splits on disk: flat int32 tokens and flags, and small tables of where samples begin."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ftlab.data.packing.layout import Views
from ftlab.data.tokens.encoder import Counts, Flags, Ids

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


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Samples side by side, none attending to another.

    :param columns: what else is known of them, by name: one value for each sample.
    """

    samples: tuple[Sample, ...]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return sum(len(sample.input_ids) for sample in self.samples)


class Rows(Sequence[PackedRow]):
    """Packed rows, whose samples (views, V of them in all) may be given values to travel with.

    :param views: how many samples all rows together have, those that are used again counted again.
    :param kept: int64, shape (U, 3): of each row of the source that is used (a unit), its part, ordinal and number.
    """

    def __init__(self, views: int, kept: Counts) -> None:
        self.views, self.kept = views, kept
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
        """Return how many tokens each row has, at most, int64, shape (R,)."""
        raise AssertionError("every kind of rows says so")

    def longest(self, count: int) -> list[int]:
        """Return the indices of the longest rows, of equal ones the first."""
        order: list[int] = np.argsort(-self.lengths(), kind="stable")[:count].tolist()
        return order

    def fingerprint(self) -> str:
        """A hash of every token, flag and place."""
        raise AssertionError("every kind of rows has one")

    def pack(self, index: int, samples: Sequence[Sample]) -> PackedRow:
        """Return a row of these samples, with the values attached to them."""
        members = self.view_indices(index)
        return PackedRow(tuple(samples), {name: values[members] for name, values in self._columns.items()})


class PackedRows(Rows):
    """Rows of one split, read from the store as they are asked for.

    :param labels: KTO's, shape (V,). :param joined: whether the views of a row are one text.
    """

    def __init__(
        self, ids: Ids, trained: Flags, views: Views, kept: Counts, labels: NDArray[Any], joined: bool = False
    ):
        super().__init__(len(views.bounds), kept)
        self._ids, self._trained, self._views, self._joined = ids, trained, views, joined
        self.labels = labels

    def __len__(self) -> int:
        return len(self._views.rows) - 1

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        samples = [self.view(int(view)) for view in self.view_indices(index)]
        if self._joined:
            samples = [Sample(*(np.concatenate(part) for part in zip(*((s.input_ids, s.learned) for s in samples))))]
        return self.pack(index, samples)

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
        return self.sums(self.view_lengths())

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


class Writer:
    """Tokens of one split, appended block by block."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._folder = folder
        self._ids: BinaryIO = (folder / "ids.i32").open("wb")
        self._trained: BinaryIO = (folder / "trained.u8").open("wb")

    def add(self, ids: Ids, trained: Flags) -> None:
        self._ids.write(ids.data)
        self._trained.write(trained.view(np.uint8).data)

    def close(self, views: Views, **tables: NDArray[Any]) -> None:
        self._ids.close()
        self._trained.close()
        for name, table in {**{n: getattr(views, n) for n in Views.__slots__}, **tables}.items():
            np.save(self._folder / f"{name}.npy", table)


def read_split(folder: Path, joined: bool) -> PackedRows:
    """A split as :class:`Writer` left it, its tokens mapped into memory."""
    ids, trained = _memory_map(folder / "ids.i32", np.int32), _memory_map(folder / "trained.u8", np.bool_)
    views = Views(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Views.__slots__})
    kept, labels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("kept", "label"))
    return PackedRows(ids, trained, views, kept, labels[views.units], joined)


def _memory_map(path: Path, kind: Any) -> Any:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.empty(0, kind)
    # A plain array over the mapping: slices of np.memmap cost several times as much.
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))
