"""Files are read a piece at a time, whatever they hold: no more than one row of them is in memory."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from ftlab.data.sources.files import Files
from ftlab.data.sources.json_lists import list_items
from ftlab.data.sources.reading import LARGEST_ROW
from ftlab.errors import DataError
from tests.data.helpers import numbered

MEGABYTE = 1 << 20


def peak_of(action) -> float:
    """The most memory that Python held meanwhile, in MiB."""
    tracemalloc.start(1)
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


class Dribble(io.BytesIO):
    """A file that gives a few bytes at a time, as a pipe may."""

    def read(self, size=-1):
        return super().read(min(size, random.Random(self.tell()).randint(1, 9)))


ROWS = [
    {"text": 'é "漢字" 😀 \\ \n', "n": -1.5e-3, "none": None, "deep": [{"a": [True, False, 12345678901234567890]}]},
    *({"text": "x" * (7 * i)} for i in range(9)),
    17,
    "a string",
]


@pytest.mark.parametrize("ascii_", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_wherever_a_list_is_cut_its_rows_are_the_same(indent, ascii_):
    content = json.dumps(ROWS, indent=indent, ensure_ascii=ascii_).encode()
    items = list(list_items(Path("x.json"), Dribble(content)))
    assert [number for number, _, _ in items] == list(range(1, len(ROWS) + 1))
    assert [value for _, value, _ in items] == ROWS


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1},\n {"a": tru}]', "not JSON: Expecting value in line 2, column 8."),
        ('[{"a": 1},\n {"a": 1} {"a": 2}]', "not JSON: Expecting ',' delimiter in line 2, column 11."),
        ('[{"a": 1}, {"b": "unclosed', "not JSON: Unterminated string starting at in line 1, column 18."),
        ('[{"a": 1}', "not JSON: Expecting ',' delimiter in line 1, column 10."),
        ('[{"a": 1},', "not JSON: Expecting value in line 1, column 11."),
        ('[{"a": 1}]\n\n x', "not JSON: Extra data in line 3, column 2."),
        ("[]", "the list has no rows."),
        ('"text"', "must hold a list of rows, not a str."),
        (b'[{"a": 1},\n {"a": "\xe9"}]', "not UTF-8 at byte 19."),
    ],
)
def test_the_place_of_an_error_in_a_list_is_the_files(content, expected):
    with pytest.raises(DataError) as caught:
        list(list_items(Path("x.json"), Dribble(content if isinstance(content, bytes) else content.encode())))
    assert str(caught.value).startswith(f"x.json: {expected}")


def test_a_large_list_on_one_line_is_never_held(tmp_path):
    path, count = tmp_path / "rows.json", 20_000
    row = json.dumps({"instruction": "0123456789" * 30, "output": "0123456789" * 70})
    path.write_text(f"[{', '.join([row] * count)}]")
    assert path.stat().st_size > 19 * MEGABYTE
    rows = []
    peak = peak_of(lambda: rows.append(sum(len(block) for block in Files((path,)).blocks())))
    print(f"peak {peak:.1f} MiB")
    assert rows == [count]
    assert peak < 15  # measured 10, a block of rows and a piece of text; read whole it was 62


def test_the_first_rows_of_a_list_do_not_wait_for_its_end(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(f"[{', '.join(json.dumps(row) for row in numbered(60_000))}")  # no bracket closes it
    location = Files((path,))
    assert [row.value for block in itertools.islice(location.blocks(100), 2) for row in block.rows()] == numbered(200)
    with pytest.raises(DataError, match=r"rows\.json: not JSON: Expecting ',' delimiter in line 1, column"):
        location.count()


BOMBS = {
    "rows.jsonl.gz": (b'{"text": "', "line 1"),
    "rows.json.gz": (b'[{"text": "a"}, {"text": "', "row 2"),
    "rows.csv.gz": (b'text,label\nx,y\n"never closed\n', "the row that begins in line 3"),
    "rows.txt.gz": (b"", "line 1"),
    "rows.md.gz": (b"", None),
    "rows.jsonl": (b'{"text": "', "line 1"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_row_that_fills_memory_is_refused_within_a_bound(name, tmp_path):
    begin, place = BOMBS[name]
    path = tmp_path / name
    filling = b"a" * 4 * MEGABYTE if "csv" not in name else (b"a" * 1023 + b"\n") * 4096
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(begin) + gzip.compress(filling, 1) * 100)  # 400 MB in less than 2
        assert path.stat().st_size < 4 * MEGABYTE
    else:
        with path.open("wb") as file:
            file.write(begin)
            file.truncate(100 * MEGABYTE)
    said = []

    def read():
        with pytest.raises(DataError) as caught:
            for block in Files((path,)).blocks():
                list(block.rows())
        said.append(str(caught.value))

    peak = peak_of(read)
    print(f"{name}: peak {peak:.0f} MiB: {said[0]}")
    where = f"{path}, {place}" if place else str(path)
    assert said[0].startswith(f"{where}: is larger than 64 MB, the most that a ")
    assert peak * MEGABYTE < 4.5 * LARGEST_ROW  # csv holds a field in four bytes a character


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.feather"])
def test_a_row_of_a_table_has_the_same_bound(name, tmp_path):
    """What is large together is not: the batch as a whole, or a list of values that the rows name by number."""
    path = tmp_path / name
    shared = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), ["y" * (LARGEST_ROW // 2), "z"])

    def read(*sizes: int) -> int:
        table = pa.table({"text": ["x" * size for size in sizes], "system": shared})
        if name.endswith("parquet"):
            pq.write_table(table, path, use_dictionary=False)
        elif name.endswith("arrow"):
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        else:
            feather.write_feather(table, path)
        return sum(len(block) for block in Files((path,)).blocks())

    assert read(1, LARGEST_ROW * 3 // 4) == 2
    with pytest.raises(DataError) as caught:
        read(1, LARGEST_ROW)
    said = f"{path}, row 2: is larger than 64 MB, the most that a row may have. Split it, or take it out."
    assert str(caught.value) == said


def test_zeros_are_no_text_of_any_encoding(write):
    path = write("rows.jsonl.gz", gzip.compress(b"\0" * 10_000))
    with pytest.raises(DataError, match="begins with zeros, which no text does; it may be damaged"):
        Files((path,)).count()
