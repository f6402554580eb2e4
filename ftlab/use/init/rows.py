"""The first rows of a file, whatever their format is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ftlab.data.sources import resolve
from ftlab.data.sources.rows import Row
from ftlab.errors import DataError
from ftlab.schema import Data
from ftlab.use.init.guess import STAGES

SAMPLE = 200


@dataclass(frozen=True, slots=True)
class FirstRows:
    """:param files: of each row."""

    file: str
    rows: list[Row]
    files: list[str]

    @property
    def description(self) -> str:
        return f"the first {SAMPLE} rows" if len(self.rows) == SAMPLE else f"the {len(self.rows)} rows"

    def where(self, place: int) -> str:
        return f"{self.files[place]}:{self.rows[place].number}"


def read_first(file: str, data: Data) -> FirstRows:
    """:raises DataError: there is no such file, or it cannot be read."""
    location = None
    for format_ in ("alpaca", "text"):  # any other than text takes files of rows alone
        chosen = data.model_copy(update={"path": file, "format": format_, "name": None, "columns": {}, "tags": {}})
        try:
            location = resolve.resolve(chosen, STAGES[format_][0])[0].splits["train"]
            break
        except DataError as error:
            failure = str(error).removeprefix("data.path: ")
    if location is None:
        raise DataError(failure)
    pairs = ((row, block.file) for block in location.blocks(SAMPLE) for row in block.rows())
    first = list(itertools.islice(pairs, SAMPLE))
    return FirstRows(file, [row for row, _ in first], [name for _, name in first])
