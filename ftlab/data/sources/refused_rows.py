"""Rows that stop a run: counted, the first few named, with what their file says of the reason."""

from __future__ import annotations

from pathlib import Path

from ftlab.data.formats.columns import LACKS_COLUMNS
from ftlab.data.sources.csv_files import first_line, separator_hint
from ftlab.data.sources.files import kind_of, rows_key_hint
from ftlab.data.sources.reading import convert_advice
from ftlab.data.sources.rows import NOT_UTF8
from ftlab.errors import DataError

_MOST_NAMED = 5


class RefusedRows:
    """Collects them, so that one error tells of all."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[str] = []
        self._advice: dict[str, None] = {}
        self._hint: str | None = None

    def add(self, file: str, number: int, reason: str, advice: str, hint: str = "") -> None:
        """:param advice: what to do, once for all rows that share it. :param hint: follows the reason of this row."""
        self.count += 1
        if len(self._lines) < _MOST_NAMED:
            self._lines.append(f"{file}, row {number}: {reason.removesuffix('.')}.{hint}")
            self._advice[advice] = None
        if self._hint is None and reason.startswith(NOT_UTF8):
            self._hint = convert_advice(file, "LATIN1")
        if self.count == 1 and reason.startswith(LACKS_COLUMNS):
            self._hint = columns_hint(file)

    def check(self, rows: int) -> None:
        """:param rows: how many were read.

        :raises DataError: there are any: the first few, how many there are, and what to do.
        """
        if not self.count:
            return
        lines = list(self._lines)
        if self.count > 1:
            shown = "" if self.count == len(lines) else f" The first {len(lines)} are named."
            lines.append(f"{self.count:,} of {rows:,} rows cannot be used.{shown}")
        hint = [self._hint] if self._hint else []
        raise DataError("\n".join([*lines, *hint, *self._advice]))


def columns_hint(file: str) -> str | None:
    """What the whole of a file says of rows that lack their columns: another separator, no header, rows under a key."""
    path = Path(file)
    if not path.is_file():
        return None
    if kind_of(path) == "csv":
        return _header_hint(path)
    return rows_key_hint(path) if kind_of(path) == "json" else None


def _header_hint(path: Path) -> str | None:
    if (separator := separator_hint(path)) is not None:
        return separator
    text = first_line(path)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{path}: the first line must name the columns, and it is {shown!r}. If that is a row, there is no header."
