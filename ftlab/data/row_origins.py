"""Where packed rows come from, as a user calls it: ``file:row``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ftlab.data.packing.split_builder import Part
from ftlab.data.packing.store import Rows


def row_locations(parts: Sequence[Part], rows: Rows, indices: Iterable[int]) -> list[str]:
    """Return ``file:row`` of everything that packed rows hold, in order, each once. The files are read again.

    :param parts: of the split that ``rows`` are of. :param indices: of the packed rows.
    """
    units = dict.fromkeys(unit for index in indices for unit in rows.units(index).tolist())
    found = unit_locations(parts, rows, units)
    return [found[unit] for unit in units]


def unit_locations(parts: Sequence[Part], rows: Rows, units: Iterable[int]) -> dict[int, str]:
    """Return ``file:row`` of used source rows, by their indices in ``rows.kept``."""
    wanted: dict[int, dict[int, int]] = {}  # part -> ordinal -> unit
    for unit in units:
        part, ordinal, _ = rows.kept[unit].tolist()
        wanted.setdefault(part, {})[ordinal] = unit
    found: dict[int, str] = {}
    for index, of_part in wanted.items():
        for block in replace(parts[index], ordinals=sorted(of_part)).blocks():
            for ordinal, number in zip(block.ordinals, block.numbers):
                found[of_part[int(ordinal)]] = f"{block.file}:{number}"
            if len(found.keys() & set(of_part.values())) == len(of_part):
                break
    return found
