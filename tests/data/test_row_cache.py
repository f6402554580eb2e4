"""The rows of a file that must be parsed to be counted are counted once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.data.row_cache import count_rows
from ftlab.data.sources.paths import find
from ftlab.errors import DataError
from ftlab.rundir import seals


def write(path: Path, rows: int) -> None:
    path.write_text(json.dumps([{"text": str(row)} for row in range(rows)]))


def test_a_list_is_counted_again_where_it_or_the_cache_has_changed(tmp_path):
    file, cache = tmp_path / "a.json", str(tmp_path / "cache")
    write(file, 3)
    assert count_rows(find(str(file), Path(), "data.path"), cache) == 3
    (stored,) = (tmp_path / "cache" / "rows").iterdir()
    assert seals.read_sealed(stored) == b"3"
    seals.write_sealed(stored, b"7")
    assert count_rows(find(str(file), Path(), "data.path"), cache) == 7, "it is not parsed a second time"
    assert count_rows(find(str(file), Path(), "data.path"), None) == 3
    stored.write_bytes(stored.read_bytes().replace(b"7", b"8", 1))
    assert count_rows(find(str(file), Path(), "data.path"), cache) == 3
    write(file, 4)
    assert count_rows(find(str(file), Path(), "data.path"), cache) == 4


def test_what_is_no_list_of_rows_is_refused_each_time(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('[{"text": "a"}, {"text": ')
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.json: not JSON: Expecting value in line 1, column 26\."):
            count_rows(find(str(file), Path(), "data.path"), str(tmp_path / "cache"))
