"""Encoded splits on disk: flat int32 tokens and flags, and small tables of where samples begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ftlab.data.arrange import Views
from ftlab.data.encode import Counts, Flags, Ids

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
    """Samples side by side, none attending to another."""

    samples: tuple[Sample, ...]

    @property
    def length(self) -> int:
        return sum(len(sample.input_ids) for sample in self.samples)


class PackedRows(Sequence[PackedRow]):
    """Rows of one split, read from the store as they are asked for.

    :param kept: int64, shape (U, 3): of each row of the source that is used, in order, its part, ordinal and number.
    :param joined: whether the views of a row are one text.
    """

    def __init__(self, ids: Ids, trained: Flags, views: Views, kept: Counts, joined: bool = False):
        self._ids, self._trained, self._views, self._joined = ids, trained, views, joined
        self.kept = kept

    def __len__(self) -> int:
        return len(self._views.rows) - 1

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        start, end = self._views.rows[index], self._views.rows[index + 1]
        samples = [self._sample(*self._views.bounds[view].tolist()) for view in self._views.members[start:end]]
        if self._joined:
            samples = [Sample(*(np.concatenate(part) for part in zip(*((s.input_ids, s.learned) for s in samples))))]
        return PackedRow(tuple(samples))

    def unit(self, index: int) -> list[Sample]:
        """The samples of one used row of the source: one, its chunks, or chosen and rejected."""
        views = np.flatnonzero(self._views.units == index)
        return [self._sample(*self._views.bounds[view].tolist()) for view in views]

    def _sample(self, start: int, end: int, skip: int) -> Sample:
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
    ids, trained = _mapped(folder / "ids.i32", np.int32), _mapped(folder / "trained.u8", np.bool_)
    views = Views(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Views.__slots__})
    return PackedRows(ids, trained, views, np.load(folder / "kept.npy", mmap_mode="r"), joined)


def _mapped(path: Path, kind: Any) -> Any:
    if path.stat().st_size == 0:  # nothing can be mapped
        return np.empty(0, kind)
    # A plain array over the mapping: slices of np.memmap cost several times as much.
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))
