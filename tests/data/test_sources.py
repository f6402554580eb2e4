"""Every kind of file gives the same rows; folders and patterns; what is said when one is broken."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import socket
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from ftlab.data.sources.blocks import Row
from ftlab.data.sources.files import Files, sha256
from ftlab.data.sources.paths import find
from ftlab.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS = [
    {"question": "2 + 2?", "answer": "4"},
    {"question": 'Größe, "x"\n?', "answer": None},
    {"question": "é", "answer": "😀"},
]
NUL = "holds a NUL character (U+0000), where many programs end a text; remove it"


def read(location, size=1000):
    return [row for block in location.blocks(size) for row in block.rows()]


def values(location, size=1000):
    return [row.value for row in read(location, size)]


def problems(location):
    return [(row.number, row.problem) for row in read(location) if row.problem]


def text(error) -> str:
    return str(error.value)


def write_csv(path, separator):
    lines = ["question,answer", "2 + 2?,4", '"Größe, ""x""', '?",', "", "é,😀"]
    path.write_text("\n".join(lines).replace(",", separator).replace(f"Größe{separator}", "Größe,"), encoding="utf-8")


def write_arrow(path, open_writer, rows=ROWS, batches=2):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, open_writer(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batches)


KINDS = ("a.json", "a.jsonl", "a.ndjson", "a.csv", "a.tsv", "a.csv.gz", "a.jsonl.gz", "a.json.gz", "a.parquet",
         "a.arrow", "stream.arrow", "a.feather", "A.JSONL")  # fmt: skip


def write_rows(path, write):
    """The rows above in a file of the kind that its name says."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    if plain.suffix in (".csv", ".tsv"):
        write_csv(plain, "\t" if plain.suffix == ".tsv" else ",")
    elif plain.suffix == ".json":
        write(plain.name, ROWS)
    elif plain.suffix.lower() in (".jsonl", ".ndjson"):
        plain.write_bytes(write("rows.jsonl", ROWS).read_bytes())
    elif plain.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), plain, row_group_size=2)
    elif plain.suffix == ".feather":
        pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), plain)
    else:
        write_arrow(plain, pa.ipc.new_stream if "stream" in plain.name else pa.ipc.new_file)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))


def check_blocks(location, size, numbers):
    assert values(location, size) == ROWS
    blocks = list(location.blocks(size))
    assert [n for block in blocks for n in block.ordinals] == [0, 1, 2]
    assert [len(block) for block in blocks] == {1: [1, 1, 1], 2: [2, 1], 1000: [len(block) for block in blocks]}[size]
    assert [n for block in blocks for n in block.numbers] == numbers
    sent = [pickle.loads(pickle.dumps(block)).take([len(block) - 1]) for block in blocks]
    assert [row for block in sent for row in block.rows()] == [list(block.rows())[-1] for block in blocks]


def test_every_kind_of_file_gives_the_same_rows(tmp_path, write, subtests):
    for name in KINDS:
        path = tmp_path / name
        write_rows(path, write)
        with subtests.test(name):
            location = find(str(path), Path(), "data.path")
            assert location.count() == 3 and location.size() == path.stat().st_size
            assert pickle.loads(pickle.dumps(location)) == location and hash(location)
            for size in (1, 2, 1000):
                check_blocks(location, size, [2, 3, 6] if "sv" in name else [1, 2, 3])


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_block_of_a_table_takes_only_its_own_rows_along(tmp_path):
    pq.write_table(pa.table({"text": ["x" * 1000] * 5000}), tmp_path / "t.parquet")
    block = next(Files((tmp_path / "t.parquet",)).blocks(10))
    assert len(pickle.dumps(block)) < 50_000


def test_blocks_of_a_table_with_wide_rows_end_at_four_megabytes(tmp_path):
    for name, writer in (("t.parquet", pq.write_table), ("t.feather", pyarrow.feather.write_feather)):
        writer(pa.table({"text": ["x" * 1_000_000] * 10}), tmp_path / name, compression="lz4")
        assert max(map(len, Files((tmp_path / name,)).blocks())) <= 4


def test_rows_of_a_table_with_lists_and_problems(tmp_path):
    turns = [[{"role": "user", "content": "a"}], None, [{"role": "user", "content": "a\0b"}]]
    pq.write_table(pa.table({"messages": turns}), tmp_path / "t.parquet")
    assert read(Files((tmp_path / "t.parquet",))) == [
        Row(1, {"messages": turns[0]}), Row(2, {"messages": None}), Row(3, None, NUL)
    ]  # fmt: skip


def test_a_column_of_a_table_that_is_not_utf8(tmp_path):
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).cast(pa.binary()).buffers())
    write_batch = pa.record_batch({"text": column})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as file, pa.ipc.new_file(file, write_batch.schema) as writer:
        writer.write_batch(write_batch)
    assert read(Files((tmp_path / "t.arrow",))) == [
        Row(1, {"text": "a"}),
        Row(2, None, "not UTF-8 in one of its columns"),
    ]


def test_what_datasets_saves(tmp_path):
    """Also its columns of several types, which Arrow holds as JSON."""
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "a", "of": [{"x": 1}, {"y": "b"}]}, {"text": "b", "of": None}]
    features = {"text": datasets.Value("string"), "of": datasets.List(datasets.Json())}
    saved = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    saved.save_to_disk(tmp_path / "saved")
    assert values(find(str(tmp_path / "saved"), Path(), "data.path")) == rows
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError) as caught:
        find(str(tmp_path / "both"), Path(), "data.path")
    assert "both holds files of several splits (test, train). Give those to train on alone" in text(caught)
    assert values(find(str(tmp_path / "both" / "train"), Path(), "data.path")) == rows


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no such thing at all"])
def test_a_damaged_table(tmp_path, kind, damage):
    path = tmp_path / f"t.{kind}"
    pq.write_table(pa.Table.from_pylist(ROWS), path) if kind == "parquet" else write_arrow(path, pa.ipc.new_file)
    path.write_bytes(damage(path.read_bytes()))
    for use in (read, lambda location: location.count()):
        with pytest.raises(DataError) as caught:
            use(Files((path,)))
        said = text(caught)
        assert said.startswith(f"{path}: cannot be read as {kind.title()}, it may be cut short or damaged (")
        assert said.endswith("). Copy or download it again.") and "\n" not in said


def test_a_damaged_page_of_a_table(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [str(i) for i in range(10_000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[2000:3000] = b"\xaa" * 1000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as Parquet"):
        read(Files((path,)))


def test_two_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        read(Files((tmp_path / "t.parquet",)))
    assert text(caught) == f"{tmp_path}/t.parquet: two columns are called 'x'; rename one."


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_rows_of_csv_that_are_broken(write):
    path = write(
        "a.csv", b'\xef\xbb\xbfa, b\n1,2\n\n"x\ny",3\n4\n5,6,7\n\xff,8\n\x00,9\n"a"b,1\n10,11\n12,"13\n14,15\n'
    )
    assert [(row.number, row.value or row.problem) for row in read(Files((path,)))] == [
        (2, {"a": "1", "b": "2"}),
        (4, {"a": "x\ny", "b": "3"}),
        (6, "has 1 field where the header has 2"),
        (7, "has 3 fields where the header has 2"),
        (8, "not UTF-8; save the file as UTF-8"),
        (9, NUL),
        (10, "not CSV: ',' expected after '\"'"),
        (11, {"a": "10", "b": "11"}),
        (12, "not CSV: a quote that opens in this row is never closed"),
    ]


def test_a_field_of_csv_may_be_long(write):
    assert values(Files((write("a.csv", f"text\n{'x' * 1_000_000}\n"),))) == [{"text": "x" * 1_000_000}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,b\n", "has no rows under its header (a, b)."),
        ("\n\n", "has no rows."),
        ("a,b,a\n1,2,3\n", "two columns are called 'a'; rename one. The first line must name them all."),
    ],
)
def test_csv_that_is_broken_as_a_whole(write, content, reason):
    path = write("a.csv", content)
    with pytest.raises(DataError) as caught:
        read(Files((path,)))
    assert text(caught) == f"{path}: {reason}"


# --- texts -----------------------------------------------------------------------------------------------------------


def test_a_line_of_text_is_a_row(write):
    path = write("a.txt", b"\xef\xbb\xbfone\r\n\n  two \n \t\n\xff\n\x00\nlast")
    assert read(Files((path,))) == [
        Row(1, {"text": "one"}), Row(3, {"text": "  two "}), Row(5, None, "not UTF-8 at byte 0; is it text?"),
        Row(6, None, NUL), Row(7, {"text": "last"}),
    ]  # fmt: skip
    assert Files((path,)).count() == 5


def tree(folder, **files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


SOURCES = {"b.py": b"b = 1\n", "a/a.py": b"\xef\xbb\xbfa\r\n\n", "a/empty.py": b"", "a/blank.md": b"\n "}
OTHERS = {"a/z.bin": b"\0", ".git/x.py": b"x", "__pycache__/y.py": b"y", "README.md": b"#"}


def test_a_file_of_source_code_is_a_row(tmp_path):
    """As a folder, a pattern or alone, but only as format text. What is blank or hidden is left out."""
    folder = tree(tmp_path / "src", **SOURCES, **OTHERS)
    documents = [Row(1, {"text": "a\r\n\n"}), Row(1, {"text": "b = 1\n"})]
    for spec in (folder, f"{folder}/**/[ab].py", f"{folder}/**/[!y]*.py"):
        location = find(spec, Path(), "data.path", documents=True)
        assert (read(location), location.count(), str(location)) == (documents, 2, spec)
        assert [block.file for block in location.blocks()] == [f"{folder}/a/a.py", f"{folder}/b.py"]
    assert read(find(f"{folder}/b.py", Path(), "data.path", documents=True)) == documents[1:]
    assert problems(find(f"{folder}/a/z.bin", Path(), "data.path", documents=True)) == [(1, NUL)]
    with pytest.raises(DataError) as caught:
        find(f"{folder}/b.py", Path(), "data.path")
    assert text(caught) == (
        f"data.path: {folder}/b.py: Files ending in .json, .jsonl, .ndjson, .csv, .tsv, .txt, .text, .parquet, .arrow "
        "or .feather can be read, all but the last three also as .gz. With data.format=text any other file is one text."
    )


def test_a_folder_of_rows_and_of_source_code_asks_which(tmp_path):
    folder = tree(tmp_path / "src", **SOURCES, **OTHERS, **{"notes.txt": b"a\n", "a/b.json": b"[]"})
    with pytest.raises(DataError) as caught:
        find(folder, Path(), "data.path", documents=True)
    assert f"{folder} holds 2 files (.json, .txt) and 4 files (.py, .md); of" in text(caught).replace(
        ".txt, .json", ".json, .txt"
    )
    assert f"Say which with a pattern: '{folder}/**/*.py'" in text(caught)
    assert values(find(f"{folder}/*.txt", Path(), "data.path", documents=True)) == [{"text": "a"}]


def test_the_standard_library_is_a_corpus():
    stdlib = Path(os.__file__).parent
    location = find(f"{stdlib}/*.py", Path(), "data.path", documents=True)
    rows = read(location)
    assert len(rows) == location.count() > 100 and problems(location) == []
    assert Row(1, {"text": Path(os.__file__).read_text(encoding="utf-8")}) in rows


# --- folders and patterns --------------------------------------------------------------------------------------------


def line(word):
    return b'{"text": "%s"}\n' % word.encode()


def test_a_folder_is_its_files_in_order(tmp_path):
    files = {"b.jsonl": line("b1") + line("b2"), "a/c.jsonl": line("c"), "a.json": b"[" + line("a") + b"]"}
    passed_over = {".x.jsonl": b"{", "none.jsonl": b"", "README.md": b"#", "dataset_info.json": b"{}"}
    folder = tree(tmp_path / "d", **files, **passed_over)
    location = find(folder, Path(), "data.path")
    assert [row["text"] for row in values(location)] == ["c", "a", "b1", "b2"]
    assert [list(block.ordinals) for block in location.blocks()] == [[0], [1], [2, 3]]
    assert (location.count(), str(location)) == (4, folder)
    assert sorted(location.fingerprint()) == [f"{folder}/{name}" for name in ("a.json", "a/c.jsonl", "b.jsonl")]
    assert values(find("[ab].json*", tmp_path / "d", "x")) == [{"text": "a"}, {"text": "b1"}, {"text": "b2"}]
    assert values(find(["b.jsonl", "a"], tmp_path / "d", "x"))[-1] == {"text": "c"}


def test_the_folder_of_a_pattern_is_no_pattern_itself(tmp_path):
    """Whatever is in its name."""
    folder = tree(tmp_path / "d[1]*", **{"a.jsonl": line("a"), "in/b.jsonl": line("b")})
    assert values(find("**/*.jsonl", Path(folder), "x")) == [{"text": "a"}, {"text": "b"}]
    assert values(find(f"{folder}/in/?.jsonl", Path(), "x")) == [{"text": "b"}]
    assert values(find(f"{tmp_path}/d*/in/[a-c].jsonl", Path(), "x")) == [{"text": "b"}]


def test_links_in_a_folder_are_followed_once(tmp_path):
    folder = Path(tree(tmp_path / "d", **{"a.jsonl": line("a")}))
    tree(tmp_path / "elsewhere", **{"b.jsonl": line("b")})
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    assert values(find("d", tmp_path, "x")) == [{"text": "a"}, {"text": "b"}]
    (folder / "c.jsonl").symlink_to(folder / "nothing")
    with pytest.raises(DataError, match=r"d/c\.jsonl cannot be read: it is a link to a file that does not exist\."):
        find("d", tmp_path, "x")


def test_what_cannot_be_found(tmp_path):
    tree(tmp_path, **{"empty.jsonl": b"", "d/e.jsonl": b"", "x/y.docx": b"x", "t.parquet.gz": b"x"})
    tree(tmp_path / "m", **{"train-0.jsonl": b"{}", "test-0.jsonl": b"{}"})
    said = {}
    for spec in ("no.jsonl", "*.csv", "empty.jsonl", "d", "x", "x/y.docx", "t.parquet.gz", "m"):
        with pytest.raises(DataError) as caught:
            find(spec, tmp_path, "data.path", " Look again.")
        said[spec] = text(caught).removeprefix("data.path: ").replace(f"{tmp_path}/", "")
    assert said["no.jsonl"] == "no.jsonl does not exist. Look again."
    assert said["*.csv"] == "no file matches *.csv. Look again."
    assert said["empty.jsonl"] == "empty.jsonl is empty."
    assert said["d"] == "every file of d is empty."
    assert said["x"].startswith("the folder x holds no file that can be read. Files ending in .json, ")
    assert said["x/y.docx"].startswith("x/y.docx: Files ending in .json, ")
    assert said["t.parquet.gz"] == "t.parquet.gz: unpack it first (gunzip); parquet is read in place."
    assert said["m"].startswith("m holds files of several splits (test, train).") and said["m"].endswith(
        "data.path=hf://m"
    )


def socket_at(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


SPECIAL = {
    "a FIFO (a named pipe), not a file": os.mkfifo,
    "a socket, not a file": socket_at,
    "a device, not a file": lambda path: path.symlink_to("/dev/zero"),
    "it is a link to a file that does not exist": lambda path: path.symlink_to("rows.jsonl"),  # itself
}


@pytest.mark.parametrize("spec", ["rows.jsonl", ".", "*.jsonl"])
@pytest.mark.parametrize("said", SPECIAL)
def test_what_is_no_file_is_refused_alone_in_a_folder_and_by_a_pattern(said, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 100 characters
    SPECIAL[said](Path("rows.jsonl"))
    Path("other.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError) as caught:
        find(spec, Path(), "data.path")
    assert text(caught).startswith("data.path: rows.jsonl ") and said in text(caught)


@pytest.mark.parametrize("spec", [os.fsdecode(b"\xff'.jsonl"), ".", "*.jsonl", os.fsdecode(b"caf\xe9")])
def test_a_name_that_is_not_utf_8_is_shown_with_the_command_that_renames_it(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(spec) if spec.startswith("caf") else Path()
    folder.mkdir(exist_ok=True)
    (folder / os.fsdecode(b"\xff'.jsonl" if folder == Path() else b"a.jsonl")).write_text('{"text": "a"}\n')
    with pytest.raises(DataError) as caught:
        find(spec, Path(), "data.path")
    shown = r"\xff'.jsonl" if folder == Path() else r"caf\xe9/a.jsonl"
    assert text(caught).startswith(f"data.path: the name of {shown} is not UTF-8. Rename it: mv ")
    subprocess.run(["bash", "-c", text(caught).partition("Rename it: ")[2]], check=True)
    renamed = find("_'.jsonl" if folder == Path() else "caf_", Path(), "data.path")
    assert values(renamed) == [{"text": "a"}]


def test_a_name_that_is_too_long_is_told(tmp_path):
    with pytest.raises(DataError, match=r"data\.path: .*x\.jsonl cannot be read: File name too long\."):
        find("x" * 300 + ".jsonl", tmp_path, "data.path")


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes that a process reads")
def test_a_file_is_hashed_once_as_long_as_it_is_the_same(tmp_path):
    weights = Path(__file__).parents[2] / "models" / "tiny" / "model.safetensors"

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    first = sha256(weights)
    before = bytes_read()
    assert sha256(weights) == first == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert bytes_read() - before < 1.5 * weights.stat().st_size, "the file was read again, and not by this test alone"
    # Written over and over within one tick of the file system's clock, at one size.
    path = tmp_path / "rows.jsonl"
    for number in range(300):
        path.write_text(f"{number:05}")
        assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_within_that_may_not_be_read_is_not_passed_over(tmp_path):
    tree(tmp_path, **{"a.jsonl": b"{}", "in/b.jsonl": b"{}"})
    (tmp_path / "in").chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        find(".", tmp_path, "data.path")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    tree(tmp_path, **{"a.jsonl": b"{}"})
    (tmp_path / "a.jsonl").chmod(0)
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read: permission denied\."):
        find("a.jsonl", tmp_path, "data.path")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_real_files():
    counts = {path.name: Files((path,)).count() for path in sorted(SHARED.glob("*.json*"))}
    assert counts == {"alpaca_en_demo.json": 999, "c4_demo.jsonl": 300, "dpo_zh_demo.json": 300,
                      "glaive_toolcall_en_demo.json": 300, "kto_en_demo.json": 300}  # fmt: skip
    whole = find(str(SHARED), Path(), "data.path")
    assert [row.problem for row in read(whole)] == [None] * 2199 == [None] * whole.count()
