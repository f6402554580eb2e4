"""CSV and TSV: rows under a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ftlab.data.sources import rows
from ftlab.data.sources.reading import (
    LARGEST_ROW,
    Item,
    convert_advice,
    kind_suffix,
    lines,
    open_file,
    raw_lines,
    too_large,
)
from ftlab.data.sources.rows import Broken
from ftlab.errors import DataError

_SEPARATORS = {",": "a comma", ";": "';'", "\t": "a tab", "|": "'|'"}


class _Lines:
    """Decoded lines for csv's reader, which joins those of a field in quotes, to the end of the file where a quote is
    never closed.

    :ivar in_row: the bytes that have been read since a row began.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._lines = path, enumerate(raw_lines(path, file), 1)
        self.in_row, self._begins = 0, 1

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            self._begins = self._begins if self.in_row else number
            self.in_row += len(line)
            if self.in_row > LARGEST_ROW:
                where = f"{self._path}, the row that begins in line {self._begins}"
                raise DataError(f"{too_large(where)} Perhaps a quote that opens in it is never closed.")
            yield line.decode("utf-8", "surrogateescape")


def csv_rows(path: Path) -> Iterator[Item]:
    """Rows under a header; all values are strings, and an empty one is None."""
    csv.field_size_limit(LARGEST_ROW)  # Python's own limit is 128 KB, less than a long document
    with open_file(path) as file:
        text = _Lines(path, file)
        tab = kind_suffix(path) == ".tsv"
        reader = csv.reader(text, delimiter="\t" if tab else ",", strict=True)
        header = _header(path, reader)
        begins, seen = reader.line_num + 1, False
        while (fields := _fields(reader)) is not None:
            text.in_row = 0
            if isinstance(fields, Broken) or fields:  # a blank line has no fields
                seen = True
                yield _csv_row(begins, header, fields)
            begins = reader.line_num + 1
    if not seen:
        raise DataError(f"{path}: has no rows under its header ({', '.join(header)}).")


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    fields: list[str] | Broken | None = []
    while fields == []:
        fields = _fields(reader)
    if fields is None:
        raise DataError(f"{path}: has no rows.")
    if isinstance(fields, Broken):
        raise DataError(separator_hint(path) or f"{path}: the header is {fields.problem}.")
    header = [name.strip() for name in fields]
    header[0] = header[0].removeprefix("\ufeff").strip()
    if isinstance(_decoding_problem("".join(header)), Broken):
        raise DataError(
            f"{path}: the header is not text in UTF-8; save the file as UTF-8. {convert_advice(path, 'LATIN1')}"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}; rename one. The first line must name them all.")
    return header


def separator_hint(path: Path) -> str | None:
    """Return which separator the first line has in place of the one that the file's name says; None where it has it."""
    text = first_line(path)
    suffix = kind_suffix(path)
    given = "\t" if suffix == ".tsv" else ","
    used = next((one for one in _SEPARATORS if one in text), None) if given not in text else None
    if used is None:
        return None
    ends = ".tsv" if used == "\t" else ".csv" if used == "," else None
    mend = f"rename the file to {path.stem}{ends}" if ends else "save it with commas"
    return f"{path}: the separator is {_SEPARATORS[used]}, and in a {suffix} it must be {_SEPARATORS[given]}: {mend}."


def first_line(path: Path) -> str:
    """The first line that is not blank."""
    line = next((line for _, line, _ in lines(path)), b"")
    assert isinstance(line, bytes)
    return line.decode("utf-8", "replace").strip()


def _fields(reader: Iterator[list[str]]) -> list[str] | Broken | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        unclosed = "unexpected end of data" in str(error)
        return Broken(f"not CSV: {'a quote that opens in this row is never closed' if unclosed else error}")


def _csv_row(number: int, header: list[str], fields: list[str] | Broken) -> Item:
    if isinstance(fields, Broken):
        return number, fields, 0
    if len(fields) != len(header):
        many = f"has {len(fields)} field{'s' * (len(fields) != 1)} where the header has {len(header)}"
        return number, Broken(many), 0
    whole = "".join(fields)
    bad = _decoding_problem(whole)
    return number, bad or {name: field or None for name, field in zip(header, fields)}, len(whole)


def _decoding_problem(text: str) -> Broken | None:
    """What is wrong with text that was decoded with its errors kept."""
    if "\0" in text:
        return Broken(rows.NUL)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Broken(f"{rows.NOT_UTF8}; save the file as UTF-8")
    return None
