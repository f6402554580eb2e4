"""What is wrong with a whole file, or with many rows of it: one message that says so, and what to do."""

from __future__ import annotations

import gzip
import json
import os
import subprocess

import pytest

from ftlab.errors import DataError
from tests.data.helpers import MEND, alpaca, encoded, numbered, row


def refusal(bench, path, *overrides):
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path, *overrides))
    return str(caught.value)


def test_bad_rows_are_counted_and_the_first_five_named(bench, write):
    bad = [{"instruction": "1"}, {"instruction": "1", "output": None}, {"instruction": None, "output": None}]
    path = write("rows.jsonl", [*numbered(250), *bad, *bad])
    assert refusal(bench, path) == (
        f"{path}, row 251: has no column 'output'; it has 'instruction'.\n"
        f"{path}, row 252: column 'output' is null.\n"
        f"{path}, row 253: column 'instruction' is null.\n"
        f"{path}, row 254: has no column 'output'; it has 'instruction'.\n"
        f"{path}, row 255: column 'output' is null.\n"
        f"6 of 256 rows cannot be used. The first 5 are named.{MEND}"
    )


def test_bad_rows_among_the_first_are_counted_to_the_end_before_torch(bench, write):
    path = write("rows.jsonl", [{"instruction": "1"}, *numbered(300), {"instruction": "2"}])
    said = refusal(bench, path)
    assert "row 1: has no column" in said and "row 302: has no column" in said
    assert "2 of 302 rows cannot be used." in said


def test_a_null_among_several_spellings_is_said(bench, write):
    path = write("rows.jsonl", [{"prompt": "1", "chosen": "2", "rejected": None}])
    assert "'rejected' (null)" in refusal(bench, path, "data.format=preference", "stage=dpo")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_that_stands_twice_in_an_object_is_malformed(bench, write, name, nested):
    """Among good rows, and where every row has one: these are rows all the same, and each is counted."""
    bad = '{"a": {"output": 1, "output": 2}}' if nested else '{"instruction": "1", "output": "2", "output": "3"}'
    lines = [json.dumps(row("1", "2")), bad]
    path = write(name, "\n".join(lines) if name == "rows.jsonl" else f"[{','.join(lines)}]")
    assert "has the key 'output' twice in one object" in refusal(bench, path)
    path = write(name, "\n".join([bad] * 2) if name == "rows.jsonl" else f"[{bad},{bad}]")
    said = refusal(bench, path)
    assert "2 of 2 rows cannot be used." in said and "lie under" not in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_file_in_another_encoding_is_named_with_the_command_that_converts_it(bench, write, tmp_path, name, encoding):
    text = "instruction,output\n1,2\n3,é\n" if name.endswith("csv") else json.dumps(row("1", "é"), ensure_ascii=False)
    path = write(name, text.encode(encoding))
    said = refusal(bench, path)
    if encoding == "utf-32":
        assert "the file is UTF-32, not UTF-8." in said
        return
    command = said.partition("Convert it: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    converted = (tmp_path / f"rows.utf8{path.suffix}").read_text(encoding="utf-8-sig")
    assert converted == text


PACKED = {
    "gzip": (gzip.compress(b"{}" * 40), "is gzip, whatever its name says: rename it to "),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "is a zip archive, whatever its name says: unpack it."),
    "Zstandard": (b"\x28\xb5\x2f\xfd" + b"\1" * 60, "is Zstandard, whatever its name says: unpack it."),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n", "is a pointer of Git LFS"),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.txt", "rows.jsonl.gz"])
def test_a_file_that_is_packed_or_not_downloaded_is_told(bench, write, name, kind):
    """A pointer's three lines would be read as texts."""
    content, said = PACKED[kind]
    if name.endswith(".gz") and kind == "gzip":
        return
    path = write(name, content)
    given = ("data.format=text", "stage=pt") if name == "rows.txt" else ()
    assert f"{path} {said}" in refusal(bench, path, *given)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", b'[{"instruction": "caf\xe9", "output": "2"}]'),
        ("rows.jsonl", b'{"instruction": "caf\xe9", "output": "2"}\n'),
        ("some.jsonl", b'{"instruction": "1", "output": "2"}\n{"instruction": "caf\xe9", "output": "2"}\n'),
        ("rows.csv", b"instruction,caf\xe9\n1,2\n"),
        ("some.csv", b"instruction,output\n1,caf\xe9\n"),
    ],
)
def test_latin_1_is_said_with_its_command(bench, write, name, content):
    path = write(name, content)
    expected = f"If it is Latin-1, convert it: iconv -f LATIN1 -t UTF-8 {path} > {path.stem}.utf8{path.suffix}"
    assert expected in refusal(bench, path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rows.csv", "instruction;output\n1;2\n", "the separator is ';', and in a .csv it must be a comma"),
        ("rows.csv", '"instruction";"output"\n"1";"2"\n', "the separator is ';', and in a .csv it must be a comma"),
        ("rows.csv", "instruction|output\n1|2\n", "the separator is '|', and in a .csv it must be a comma"),
        ("rows.csv", "instruction\toutput\n1\t2\n", "the separator is a tab, and in a .csv it must be a comma"),
        ("rows.tsv", "instruction,output\n1,2\n", "the separator is a comma, and in a .tsv it must be a tab"),
        ("rows.csv", "What is 1?,2\n3,4\n", "the first line must name the columns, and it is 'What is 1?,2'"),
    ],
)
def test_a_csv_file_without_its_columns_says_why(bench, write, name, text, expected):
    assert expected in refusal(bench, write(name, text))


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_under_a_key_are_found_and_the_command_takes_them_out(bench, write, tmp_path, samples_of, indent):
    path = write("mine.json", json.dumps({"version": 1, "data": numbered(3)}, indent=indent))
    said = refusal(bench, path)
    assert "the rows lie under 'data'" in said
    command = next(line for line in said.splitlines() if "Take them out: " in line).partition("Take them out: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    taken = bench.prepare(*alpaca(tmp_path / "rows.json"))
    plain = bench.prepare(*alpaca(write("plain.jsonl", numbered(3))))
    assert encoded(samples_of(taken.train)) == encoded(samples_of(plain.train))


def test_a_pipe_or_a_device_is_no_file(bench, tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    assert "is a FIFO (a named pipe), not a file" in refusal(bench, tmp_path / "rows.jsonl")
    assert "/dev/null is a device, not a file" in refusal(bench, "/dev/null")


@pytest.mark.parametrize("media", ["images", "image", "videos", "video", "audios", "audio"])
def test_rows_with_media_are_refused_and_not_trained_as_text(bench, write, media):
    path = write("rows.jsonl", [{**row("1", "2"), media: []}, {**row("<image>What is it?", "2"), media: ["a.png"]}])
    said = refusal(bench, path)
    assert f"row 2: has {media}, and only text is trained" in said and "row 1" not in said
