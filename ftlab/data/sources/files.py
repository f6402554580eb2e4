"""Local files of rows: what each kind of file holds, and how to tell that one is broken."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ftlab.data.sources import rows, tables
from ftlab.data.sources.blocks import BLOCK_BYTES, BLOCK_ROWS, Block, Location, cut, cut_batches
from ftlab.data.sources.rows import Broken
from ftlab.errors import DataError

# What the rows of a file look like, by how its name ends; each may be followed by .gz, except the last three.
KINDS = {
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".text": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TABLES = ("parquet", "arrow")
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_LARGEST_WHOLE = 64 << 20  # bytes of a file that is read once more, to say what is wrong with it
_HEAD = 1000  # lines of which one must be JSON, or the file is something else
_PIECE = 1 << 20

Item = tuple[int, object, int]  # number of a row, what stands there, its bytes


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name; ``document`` where the whole file is one text."""
    name = path.name.lower().removesuffix(".gz")
    return KINDS.get(Path(name).suffix, "document")


@dataclass(frozen=True)
class Files(Location):
    """Local files, one after the other.

    :param label: what the user called them, where that was one thing: a folder, a pattern.
    """

    paths: tuple[Path, ...]
    label: str = ""

    def __str__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return self.label or f"{self.paths[0]}{more}"

    def count(self) -> int:
        return sum(map(_count, self.paths))

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Block]:
        first = 0
        for path in self.paths:
            for block in _blocks(path, first, size):
                first = block.ordinals[-1] + 1
                yield block
        if first == 0:
            raise DataError(f"{self}: has no rows.")

    def fingerprint(self) -> dict[str, str]:
        return {str(path): sha256(path) for path in self.paths}

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces.

    :raises DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


def _blocks(path: Path, first: int, size: int) -> Iterator[Block]:
    file, kind = str(path), kind_of(path)
    if kind not in TABLES:
        _check_encoding(path)
    if kind == "parquet":
        return cut_batches(file, first, tables.parquet(path, size, BLOCK_BYTES), size)
    if kind == "arrow":
        return cut_batches(file, first, tables.arrow(path), size)
    if kind == "csv":
        return cut(file, first, _csv(path), "values", size)
    if kind == "text":
        return cut(file, first, _require_items(path, _lines(path, b"\r\n")), "text", size)
    if kind == "document":
        return cut(file, first, _document(path), "text", size)
    if kind == "json" and _is_list(path):
        return cut(file, first, _json_list(path), "values", size)
    _check_is_json_lines(path)
    return cut(file, first, _require_items(path, _lines(path)), "json", size)


def _check_encoding(path: Path) -> None:
    """:raises DataError: the file begins as UTF-16 or UTF-32 does."""
    with open_file(path) as file:
        begin = file.read(64)
    encoding = next((name for mark, name in _MARKS if begin.startswith(mark)), None)
    if encoding is None and len(begin) >= 4 and b"\0" in begin:
        encoding = next((name for odd, name in ((1, "UTF-16LE"), (0, "UTF-16BE")) if not any(begin[odd::2])), None)
    if encoding is not None:
        raise DataError(f"{path}: the file is {encoding}, not UTF-8. {convert_advice(path, encoding)}")


def convert_advice(path: Path | str, encoding: str) -> str:
    """Return the command that writes a file anew in UTF-8."""
    source, target = shlex.quote(str(path)), shlex.quote(f"{Path(path).stem}.utf8{Path(path).suffix}")
    kind = "If it is Latin-1, convert" if encoding == "LATIN1" else "Convert"
    if Path(path).suffix.lower() == ".gz":
        target = shlex.quote(f"utf8.{Path(path).name}")
        return f"{kind} it: gunzip -c {source} | iconv -f {encoding} -t UTF-8 | gzip > {target}"
    return f"{kind} it: iconv -f {encoding} -t UTF-8 {source} > {target}"


def rows_key_hint(path: Path) -> str | None:
    """Return what to do with a JSON object that has its rows under a key; None where the file is no such object."""
    if path.stat().st_size > _LARGEST_WHOLE:
        return None
    try:
        with open_file(path) as file:
            value = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    lists = value.items() if isinstance(value, dict) else ()
    key = next((key for key, rows_ in lists if isinstance(rows_, list) and rows_ and isinstance(rows_[0], dict)), None)
    if key is None:
        return None
    code = f"import json, sys; json.dump(json.load(sys.stdin)[{key!r}], sys.stdout)"
    read = "gunzip -c" if path.suffix.lower() == ".gz" else "cat"
    command = f"{read} {shlex.quote(str(path))} | python -c {shlex.quote(code)} > rows.json"
    return f"{path}: the rows lie under {key!r}. Take them out: {command}"


def _count(path: Path) -> int:
    kind = kind_of(path)
    if kind not in TABLES:
        _check_encoding(path)
    if kind == "parquet":
        return tables.parquet_count(path)
    if kind == "arrow":
        return tables.arrow_count(path)
    if kind == "csv":
        return sum(1 for _ in _csv(path))
    if kind == "document":
        return sum(1 for _ in _document(path))
    if kind == "json" and _is_list(path):
        return sum(1 for _ in _json_list(path))
    return sum(1 for _ in _lines(path))


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """:raises DataError: the file cannot be read, or is gzip that is cut short or damaged."""
    try:
        with path.open("rb", buffering=_PIECE) as file:
            is_gzip = path.suffix.lower() == ".gz"
            yield io.BufferedReader(gzip.GzipFile(fileobj=file), _PIECE) if is_gzip else file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        said = str(error).rstrip(".")
        raise DataError(f"{path}: the gzip is cut short or damaged ({said}). Copy or download it again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines(path: Path, end: bytes = b"\n") -> Iterator[Item]:
    """Every line that is not blank. :param end: what ends it, and is no part of it."""
    with open_file(path) as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content.rstrip(end), len(content)


def _require_items(path: Path, items: Iterator[Item]) -> Iterator[Item]:
    """:raises DataError: there is none."""
    first = next(items, None)
    if first is None:
        raise DataError(f"{path}: has no rows.")
    yield first
    yield from items


def _check_is_json_lines(path: Path) -> None:
    """:raises DataError: none of the first lines is JSON, so this is a file of another kind, and not one bad row."""
    first_problem = None
    seen = 0
    for seen, (number, line, _) in enumerate(_lines(path), 1):
        assert isinstance(line, bytes)
        value = rows.from_json(line)
        if not isinstance(value, Broken):
            return
        first_problem = first_problem or f"line {number}: {value.problem}"
        if seen == _HEAD:
            break
    if first_problem:
        hint = rows_key_hint(path)
        if hint is not None:
            raise DataError(hint)
        some = "no line" if seen < _HEAD else f"none of the first {_HEAD} lines"
        raise DataError(f"{path}: {some} is a JSON object ({first_problem}). Is it JSON Lines?")


# --- a JSON list -----------------------------------------------------------------------------------------------------


def _is_list(path: Path) -> bool:
    """Whether a file called .json is JSON as a whole; what starts with an object is JSON Lines."""
    with open_file(path) as file:
        for line in file:
            begin = line.removeprefix(codecs.BOM_UTF8).lstrip()
            if begin:
                return not begin.startswith(b"{")
    return True


def _json_list(path: Path) -> Iterator[Item]:
    with open_file(path) as file:
        content = file.read().removeprefix(codecs.BOM_UTF8)
    size, is_suspect = len(content), rows.may_be_unusable(content)
    values = _parse_list(path, content)
    del content  # as large as the rows, which are held until they are used
    for number, value in enumerate(values, 1):
        yield number, rows.check_usable(value) if is_suspect else value, size // len(values)


def _parse_list(path: Path, content: bytes) -> list[object]:
    try:
        values = rows.load_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}. {convert_advice(path, 'LATIN1')}") from None
    except rows.RepeatedKey as error:
        raise DataError(f"{path}: a row {error}. Remove one of the two.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "It must be a JSON list of rows, or JSON Lines in a file ending in .jsonl."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {rows.is_reader_limit(error)}.") from None
    if not isinstance(values, list):
        raise DataError(f"{path}: must hold a list of rows, not a {type(values).__name__}.")
    if not values:
        raise DataError(f"{path}: the list has no rows.")
    return values


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[Item]:
    """Rows under a header; all values are strings, and an empty one is None."""
    csv.field_size_limit(1 << 30)  # Python's own limit is 128 KB, less than a long document
    with open_file(path) as file:
        text = (line.decode("utf-8", "surrogateescape") for line in file)
        tab = kind_suffix(path) == ".tsv"
        reader = csv.reader(text, delimiter="\t" if tab else ",", strict=True)
        header = _header(path, reader)
        begins, seen = reader.line_num + 1, False
        while (fields := _fields(reader)) is not None:
            if isinstance(fields, Broken) or fields:  # a blank line has no fields
                seen = True
                yield _csv_row(begins, header, fields)
            begins = reader.line_num + 1
    if not seen:
        raise DataError(f"{path}: has no rows under its header ({', '.join(header)}).")


def kind_suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    fields: list[str] | Broken | None = []
    while fields == []:
        fields = _fields(reader)
    if fields is None:
        raise DataError(f"{path}: has no rows.")
    if isinstance(fields, Broken):
        raise DataError(f"{path}: the header is {fields.problem}.")
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
            return Broken("not UTF-8; save the file as UTF-8")
    return None


# --- documents -------------------------------------------------------------------------------------------------------


def _document(path: Path) -> Iterator[Item]:
    """The whole file, unless it is blank."""
    with open_file(path) as file:
        content = file.read().removeprefix(codecs.BOM_UTF8)
    if content.strip():
        yield 1, content, len(content)
