"""JSON: each row with its number, each problem beside its row, one message for a file of another kind. And blocks."""

from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlab.data.sources.blocks import BLOCK_BYTES, Block, Row, cut
from ftlab.data.sources.files import Files
from ftlab.errors import DataError


def read_rows(path, size=1000):
    return [row for block in Files((path,)).blocks(size) for row in block.rows()]


A, B = {"text": "a"}, {"text": "b"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.json", '[{"text": "a"}, {"text": "b"}]', [Row(1, A), Row(2, B)]),
        ("spread.json", '\n [\n{"text":\n"a"},\n\n{"text": "b"}\n]\n', [Row(1, A), Row(2, B)]),
        ("lines.jsonl", '{"text": "a"}\n{"text": "b"}\n', [Row(1, A), Row(2, B)]),
        ("no_last_newline.jsonl", '{"text": "a"}\n{"text": "b"}', [Row(1, A), Row(2, B)]),
        ("lines.json", '{"text": "a"}\n{"text": "b"}\n', [Row(1, A), Row(2, B)]),
        ("windows.jsonl", b'{"text": "a"}\r\n{"text": "b"}\r\n', [Row(1, A), Row(2, B)]),
        ("blank.jsonl", '\n{"text": "a"}\n\n  \n{"text": "b"}\n\n', [Row(2, A), Row(5, B)]),
        ("separator.jsonl", '{"text": "a\u2028\x85b"}\n', [Row(1, {"text": "a\u2028\x85b"})]),
        ("unicode.jsonl", '{"text": "é 漢字 😀"}\n', [Row(1, {"text": "é 漢字 😀"})]),
        ("escaped.json", r'[{"text": "\ud83d\ude00"}]', [Row(1, {"text": "😀"})]),
        ("with_bom.json", '\ufeff[{"text": "a"}]', [Row(1, A)]),
        ("with_bom.jsonl", '\ufeff{"text": "a"}\n{"text": "b"}\n', [Row(1, A), Row(2, B)]),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and "{" not in value else "",
)
def test_rows_and_their_numbers(write, name, content, expected):
    assert list(read_rows(write(name, content))) == expected


GOOD = b'{"text": "a"}\n'
NUL = "holds a NUL character (U+0000), where many programs end a text; remove it"
HALF_PAIR = "holds half of a surrogate pair, which no text can"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter in column 13"),
        (b"text,a", "not JSON: Expecting value in column 1"),
        (b'{"text": "a"} {"text": "b"}', "not JSON: Extra data in column 15"),
        (b'{"text": "a"},', "not JSON: Extra data in column 14 (JSON Lines has no comma between rows)"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10 of the line"),
        (b'["a"]', "is not an object with columns"),
        (b"null", "is not an object with columns"),
        (rb'{"text": "\ud83d"}', HALF_PAIR),
        (rb'{"text": ["a", {"b": "\uDE00"}]}', HALF_PAIR),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON: a number of too many digits"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (rb'{"text": "a\u0000b"}', NUL),
        (rb'{"text": [{"b": "\u0000"}]}', NUL),
        (b'{"text": "a\x00b"}', NUL),
        (b"\x00\x00\x00", NUL),
    ],
    ids=[
        "cut short",
        "csv",
        "two on a line",
        "comma",
        "latin-1",
        "list",
        "null",
        "half",
        "half inside",
        "digits",
        "deep",
        "nul",
        "nul inside",
        "nul as it is",
        "never written",
    ],
)
def test_broken_line_is_a_problem_of_its_row_only(write, line, problem):
    rows = list(read_rows(write("rows.jsonl", GOOD * 2 + line + b"\n" + GOOD)))
    assert [(row.number, row.problem) for row in rows] == [(1, None), (2, None), (3, problem), (4, None)]
    assert [row.value for row in rows if row.problem is None] == [A, A, A]


def test_a_list_keeps_what_only_looks_like_an_escape(write):
    """A backslash that is itself escaped, as in source code."""
    row = {"text": r"'\u0000' and '\ud83d'"}
    assert read_rows(write("rows.json", [row])) == [Row(1, row)]
    assert read_rows(write("rows.jsonl", [row])) == [Row(1, row)]


def test_rows_of_a_list_that_are_no_objects(write):
    rows = list(read_rows(write("rows.json", '[{"text": "a"}, "b", null, [], {"text": "\\udc00"}, {"text": "b"}]')))
    reason = "is not an object with columns"
    assert [row.problem for row in rows] == [None, reason, reason, reason, HALF_PAIR, None]
    assert (rows[0], rows[-1]) == (Row(1, A), Row(6, B))


LIST = " It must be a JSON list of rows, or JSON Lines in a file ending in .jsonl."


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.json", '[\n{"a": "b"},\n{"a" "b"}\n]', "not JSON: Expecting ':' delimiter in line 3, column 6." + LIST),
        ("rows.json", '[{"text": "a"}', "not JSON: Expecting ',' delimiter in line 1, column 15." + LIST),
        ("rows.json", "", "not JSON: Expecting value in line 1, column 1." + LIST),
        ("rows.json", "[" * 100_000, "not JSON: nested too deeply."),
        ("rows.json", "[]", "the list has no rows."),
        ("rows.json", '"text"', "must hold a list of rows, not a str."),
        ("rows.json", "5", "must hold a list of rows, not a int."),
        ("rows.jsonl", "\n  \n", "has no rows."),
        (
            "rows.jsonl",
            "\nquestion,answer\na,b\n",
            "no line is a JSON object (line 2: not JSON: Expecting value in column 1). Is it JSON Lines?",
        ),
        (
            "rows.json",
            '{\n  "text": "a"\n}\n',
            "no line is a JSON object (line 1: not JSON: Expecting property name enclosed in double quotes in column "
            "2). Is it JSON Lines?",
        ),
    ],
    ids=["broken", "cut short", "no content", "deep", "empty list", "string", "number", "blank lines", "csv",
         "one object"],
)  # fmt: skip
def test_file_of_another_kind(write, name, content, reason):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value) == f"{path}: {reason}"


def test_lines_that_are_no_json_are_another_kind_of_file_only_where_all_of_the_first_thousand_are(write):
    late = write("late.jsonl", b"x\n" * 999 + GOOD)
    assert [row.problem is None for row in read_rows(late)] == [False] * 999 + [True]
    with pytest.raises(DataError) as caught:
        next(Files((write("later.jsonl", b"x\n" * 1000 + GOOD),)).blocks(size=1))
    assert "none of the first 1000 lines is a JSON object (line 1: not JSON: Expecting value in col" in str(
        caught.value
    )


# --- blocks ----------------------------------------------------------------------------------------------------------


LINES = st.lists(st.sampled_from([b'{"text": "a"}', b"", b"  ", b'{"text": "\xc3\xa9"}', b"{", b"[]"]), max_size=12)


@given(LINES, st.integers(1, 5))
def test_blocks_are_the_same_rows_however_they_are_cut(tmp_path_factory, lines, size):
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    path.write_bytes(GOOD + b"\n".join(lines))
    blocks = list(Files((path, path)).blocks(size))
    (first, second) = list(Files((path, path)).blocks())
    assert [row for block in blocks for row in block.rows()] == [*first.rows(), *second.rows()]
    assert [n for block in blocks for n in block.ordinals] == list(range(len(first) + len(second)))
    assert sum(map(len, blocks)) == Files((path, path)).count()
    assert max(map(len, blocks)) <= size and {block.file for block in blocks} == {str(path)}


def test_rows_that_are_taken_keep_their_numbers_and_ordinals(write):
    (block,) = Files((write("rows.jsonl", b"\n" + GOOD + b"{\n\n" + GOOD),)).blocks()
    part = block.take([1, 2])
    assert (list(part.ordinals), list(part.numbers), len(part)) == ([1, 2], [3, 5], 2)
    assert list(part.rows()) == list(block.rows())[1:]


def test_a_block_ends_at_four_megabytes(write):
    path = write("wide.jsonl", [{"text": "x" * 1_000_000}] * 9 + [{"text": "x" * 10_000_000}] + [A])
    assert [len(block) for block in Files((path,)).blocks()] == [4, 4, 2, 1]
    assert [len(row.value["text"]) for row in read_rows(path)] == [1_000_000] * 9 + [10_000_000, 1]
    assert len(list(cut("f", 0, [(1, b"", BLOCK_BYTES)] * 3, "json", 9))) == 3


def test_reading_lines_holds_no_more_than_a_block(tmp_path):
    path = tmp_path / "large.jsonl"
    line = json.dumps({"text": "x" * 400}) + "\n"
    path.write_text(line * (24_000_000 // len(line)))
    tracemalloc.start()
    try:
        rows = sum(1 for block in Files((path,)).blocks(100_000) for _ in block.rows())
        assert rows == Files((path,)).count() == path.stat().st_size // len(line)
        assert Files((path,)).fingerprint().keys() == {str(path)}
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def test_blocks_travel(write):
    (block,) = Files((write("rows.jsonl", GOOD + b"{\n" + GOOD),)).blocks()
    again = pickle.loads(pickle.dumps(block))
    assert isinstance(again, Block) and again == block
    assert list(again.take([2, 1]).rows()) == [Row(3, A), *list(block.rows())[1:2]]


def test_a_gzip_says_what_the_file_says(tmp_path, write):
    content = b"\xef\xbb\xbf" + GOOD + b"\n{\n" + GOOD
    packed = write("rows.jsonl.gz", gzip.compress(content))
    assert read_rows(packed) == read_rows(write("rows.jsonl", content))
    assert Files((packed,)).count() == 3
    assert read_rows(write("rows.json.gz", gzip.compress(b"[" + GOOD + b"]"))) == [Row(1, A)]


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30] + b"xx" + b[32:], lambda b: b"no gzip"])
def test_a_damaged_gzip(write, damage):
    path = write("rows.jsonl.gz", damage(gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(1000)))))
    for read in (read_rows, lambda path: Files((path,)).count()):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: the gzip is cut short or damaged (")
        assert str(caught.value).endswith("Copy or download it again.")


def test_a_file_that_went_away(tmp_path):
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "gone.jsonl")
    assert str(caught.value) == f"{tmp_path}/gone.jsonl: cannot be read: No such file or directory."
