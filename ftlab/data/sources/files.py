"""Local files of rows: what each kind of file holds, and how to tell that one is broken."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ftlab.data.sources import csv_files, json_lists, reading, rows, tables
from ftlab.data.sources.blocks import BLOCK_BYTES, BLOCK_ROWS, Block, Location, cut, cut_batches
from ftlab.data.sources.reading import Item, open_file
from ftlab.data.sources.rows import NOT_UTF8, Broken
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
_LARGEST_WHOLE = reading.LARGEST_ROW  # bytes of a file that is read once more, whole, to say what is wrong with it
# How the reasons begin of a line that is no JSON object at all; of others it is one, with something wrong in it.
_OF_NO_ROW = ("not JSON", NOT_UTF8, "is not an object")
_COARSE = 2_000_000_000  # nanoseconds within which two writes may have one time
_HEAD = 1000  # lines of which one must be JSON, or the file is something else


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name; ``document`` where the whole file is one text."""
    return KINDS.get(reading.kind_suffix(path), "document")


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
    """Return the SHA-256 of a file's bytes, which this process reads once as long as the file is the same.

    :raises DataError: it cannot be read.
    """
    try:
        now = path.stat()
        known_by = (str(path.absolute()), now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_size)
        # The clock of a file system is coarse: what was written just now may be written again at the same time.
        if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) < _COARSE:
            return _sha256.__wrapped__(*known_by)
        return _sha256(*known_by)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


@functools.lru_cache(maxsize=100_000)
def _sha256(path: str, *_known_by: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blocks(path: Path, first: int, size: int) -> Iterator[Block]:
    file, kind = str(path), kind_of(path)
    (reading.check_content if kind in TABLES else reading.check_encoding)(path)
    if kind == "parquet":
        return cut_batches(file, first, tables.parquet(path, size, BLOCK_BYTES), size)
    if kind == "arrow":
        return cut_batches(file, first, tables.arrow(path), size)
    if kind == "csv":
        return cut(file, first, csv_files.csv_rows(path), "values", size)
    if kind == "text":
        return cut(file, first, _require_items(path, reading.lines(path, b"\r\n")), "text", size)
    if kind == "document":
        return cut(file, first, reading.document(path), "text", size)
    if kind == "json" and _is_list(path):
        return cut(file, first, json_lists.json_list(path), "values", size)
    _check_is_json_lines(path)
    return cut(file, first, _require_items(path, reading.lines(path)), "json", size)


def rows_key_hint(path: Path) -> str | None:
    """Return what to do with a JSON object that has its rows under a key; None where the file is no such object."""
    with open_file(path) as file:
        content = file.read(_LARGEST_WHOLE + 1)
    if len(content) > _LARGEST_WHOLE:
        return None
    try:
        value = json.loads(content.decode("utf-8-sig"))
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
    (reading.check_content if kind in TABLES else reading.check_encoding)(path)
    if kind == "parquet":
        return tables.parquet_count(path)
    if kind == "arrow":
        return tables.arrow_count(path)
    if kind == "csv":
        return sum(1 for _ in csv_files.csv_rows(path))
    if kind == "document":
        return sum(1 for _ in reading.document(path))
    if kind == "json" and _is_list(path):
        return sum(1 for _ in json_lists.json_list(path))
    return sum(1 for _ in reading.lines(path))


def _require_items(path: Path, items: Iterator[Item]) -> Iterator[Item]:
    """:raises DataError: there is none."""
    first = next(items, None)
    if first is None:
        raise DataError(f"{path}: has no rows.")
    yield first
    yield from items


def _check_is_json_lines(path: Path) -> None:
    """:raises DataError: none of the first lines is JSON, so this is a file of another kind, and not some bad rows."""
    first_problem, advice, seen = None, " Is it JSON Lines?", 0
    for seen, (number, line, _) in enumerate(reading.lines(path), 1):
        assert isinstance(line, bytes)
        value = rows.from_json(line)
        if not isinstance(value, Broken) or not (b"\0" in line or value.problem.startswith(_OF_NO_ROW)):
            return
        if value.problem.startswith(NOT_UTF8):
            advice = f" {reading.convert_advice(path, 'LATIN1')}"
        first_problem = first_problem or f"line {number}: {value.problem}"
        if seen == _HEAD:
            break
    if first_problem:
        hint = rows_key_hint(path)
        if hint is not None:
            raise DataError(hint)
        some = "no line" if seen < _HEAD else f"none of the first {_HEAD} lines"
        raise DataError(f"{path}: {some} is a JSON object ({first_problem}).{advice}")


def _is_list(path: Path) -> bool:
    """Whether a file called .json is JSON as a whole; what starts with an object is JSON Lines."""
    with open_file(path) as file:
        begin = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8).lstrip()
        while not begin and (piece := file.read(reading.PIECE)):
            begin = piece.lstrip()
    return not begin.startswith(b"{")
