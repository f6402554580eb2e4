"""Files of rows: each row with its number, each problem beside its row, one message for a file of another kind."""

from __future__ import annotations

import pytest

from ftlab.data.read import Row, read_rows
from ftlab.errors import DataError

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
    ],
)
def test_broken_line_is_a_problem_of_its_row_only(write, line, problem):
    rows = list(read_rows(write("rows.jsonl", GOOD * 2 + line + b"\n" + GOOD)))
    assert [(row.number, row.problem) for row in rows] == [(1, None), (2, None), (3, problem), (4, None)]
    assert [row.value for row in rows if row.problem is None] == [A, A, A]


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
        ("rows.json", b'[{"text": "caf\xe9"}]', "not UTF-8 at byte 14."),
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
        ("rows.csv", "text\na\n", "files ending in .json or .jsonl can be read, not .csv."),
        ("rows", "a", "files ending in .json or .jsonl can be read, not this."),
    ],
    ids=["broken", "cut short", "no content", "deep", "empty list", "string", "number", "latin-1", "blank lines", "csv",
         "one object", "suffix", "no suffix"],
)  # fmt: skip
def test_file_of_another_kind(write, name, content, reason):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value) == f"{path}: {reason}"
