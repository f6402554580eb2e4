"""Tables as long as a split has rows, which are never whole in memory: numbers in files, written and read in pieces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from ftlab.data.tokens.block_encoder import EncodedBlock

PIECE = 1 << 14  # rows of a table in memory at a time

# What is known of each kept row: the type, and the numbers of it; None: one for each sample of the row.
_COLUMNS: dict[str, tuple[DTypeLike, int | None]] = {
    "kept": (np.int64, 2), "label": (np.int8, 1), "digest": (np.uint64, 1), "question": (np.uint64, 1),
    "literal": (np.bool_, 1), "left_out": (np.uint16, 1), "prompt": (np.int64, 1),
    "counts": (np.int32, None), "full": (np.int32, None), "learned": (np.int32, None),
}  # fmt: skip


Indices = NDArray[np.integer[Any]]  # places of rows, in the type of index_type


def pieces(count: int) -> Iterator[slice]:
    """Yield stretches of at most :data:`PIECE` places that cover 0 to ``count``, in order."""
    for start in range(0, count, PIECE):
        yield slice(start, min(start + PIECE, count))


def index_type(count: int) -> type[np.integer[Any]]:
    """Return the smallest type that has the places of so many rows."""
    return np.int32 if count < 1 << 31 else np.int64


class UnitTable:
    """What is known of every kept row (a unit) of a split until the split is laid out, appended block by block, in
    files that have no name and are gone with the process.

    Its columns are those of :class:`EncodedBlock`, lengths in 32 bits. :ivar per_unit: how many samples a unit has.
    """

    def __init__(self, folder: Path):
        self._files = {name: tempfile.TemporaryFile(dir=folder) for name in _COLUMNS}  # noqa: SIM115
        self._units, self.per_unit = 0, 1

    def __len__(self) -> int:
        return self._units

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def add(self, block: EncodedBlock) -> None:
        if not len(block.kept):
            return
        self.per_unit = len(block.counts) // len(block.kept)
        for name, (kind, _) in _COLUMNS.items():
            self._files[name].write(np.ascontiguousarray(getattr(block, name), dtype=kind).data)
        self._units += len(block.kept)

    def read(self, name: str, units: slice | None = None) -> NDArray[Any]:
        """Return a column of some consecutive units, or of all: shape (U,), of ``kept`` (U, 2), and of what each sample
        has (U * per_unit,)."""
        units = slice(0, self._units) if units is None else units
        kind, width = _COLUMNS[name]
        numbers = self.per_unit if width is None else width
        found = np.empty((units.stop - units.start) * numbers, dtype=kind)
        file = self._files[name]
        file.seek(units.start * numbers * found.itemsize)
        read = file.readinto(found.view(np.uint8).data)
        assert read == found.nbytes, "a column has a number for every unit"
        file.seek(0, 2)
        return found.reshape(-1, 2) if width == 2 else found

    def pieces(self, name: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield a column piece by piece, with the units of each."""
        for units in pieces(self._units):
            yield units, self.read(name, units)

    def sample_starts(self) -> NDArray[np.int64]:
        """Return where each sample begins among the stored tokens, and after them where they end, shape (S + 1,)."""
        starts = np.zeros(self._units * self.per_unit + 1, dtype=np.int64)
        for units, counts in self.pieces("counts"):
            first = units.start * self.per_unit
            starts[first + 1 : first + 1 + len(counts)] = counts.cumsum(dtype=np.int64) + starts[first]
        return starts


class ArrayFile:
    """An array in numpy's format, which begins empty and grows by what is appended.

    :param row: the shape of one of its rows; () for a number.
    """

    def __init__(self, path: Path, kind: DTypeLike, row: tuple[int, ...] = ()):
        self._kind, self._row, self._rows = np.dtype(kind), row, 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._kind).data)
        self._rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()  # of the same length: numpy leaves room for as many digits as there may be
        self._file.close()

    def _write_header(self) -> None:
        shape = (self._rows, *self._row)
        npy.write_array_header_1_0(
            self._file, {"descr": npy.dtype_to_descr(self._kind), "fortran_order": False, "shape": shape}
        )
