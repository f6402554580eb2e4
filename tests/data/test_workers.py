"""The same rows from one process, from several, from a stream and from gzip; and what is said when a process fails."""

from __future__ import annotations

import gzip
import json
import os
import signal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftlab.data.prepare import Part
from ftlab.data.sources import blocks as read
from ftlab.data.tokens import workers
from ftlab.data.tokens.encoder import Encoder
from ftlab.errors import DataError
from tests.data.helpers import MEND, alpaca, numbered, options, python_sources, row, rows_in, train_ledger

SIZE, OVERLAP = 32_768, 2_048


@pytest.fixture(scope="module")
def documents():
    """1.5 MB of the standard library, some of it longer than a block."""
    found = [path.read_text(encoding="utf-8", errors="replace") for path in python_sources(1_500_000)]
    assert sum(map(len, found)) > 1_200_000 and max(map(len, found)) > 200_000
    return found


@pytest.fixture(scope="module")
def file(documents, tmp_path_factory):
    path = tmp_path_factory.mktemp("sources") / "sources.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


def blocks_of_32k(path, *more):
    return options("text", path, "stage=pt", "data.packing=true", f"data.max_length={SIZE}",
                   f"data.overlap={OVERLAP}", f"model.architecture.max_positions={SIZE}", *more)  # fmt: skip


@pytest.fixture(scope="module")
def alone(bench, file):
    """By one process, from blocks of the usual size."""
    return bench.prepare(*blocks_of_32k(file, "data.workers=1"))


@pytest.fixture
def many_blocks(monkeypatch):
    """Blocks so small that every process gets some, and that documents of one row come from different ones."""
    monkeypatch.setattr(read, "BLOCK_BYTES", 60_000)


def same(one, other, same_rows):
    same_rows(one.train, other.train)
    assert one.train.fingerprint() == other.train.fingerprint(), "the tables on disk, byte for byte"
    assert one.train[0].samples[0].input_ids.dtype == np.int32
    mine, theirs = (prepared.ledger.splits["train"].as_dict() for prepared in (one, other))
    assert mine == theirs


# --- the same blocks -------------------------------------------------------------------------------------------------


def test_nothing_is_lost_or_overwritten_and_every_token_is_trained_once(bench, alone, documents, check_prepared):
    check_prepared(alone)
    end = bench.tokenizer.eos_token_id
    most = 0
    for unit, text in enumerate(documents):
        chunks = alone.train.unit(unit)
        most = max(most, len(chunks))
        assert all(len(chunk.input_ids) == SIZE for chunk in chunks[:-1])
        for before, after in pairwise(chunks):
            assert np.array_equal(before.input_ids[-OVERLAP:], after.input_ids[:OVERLAP])
            assert not after.learned[:OVERLAP].any() and after.learned[OVERLAP:].all()
        assert not chunks[0].learned[0] and chunks[0].learned[1:].all()
        rebuilt = np.concatenate([chunks[0].input_ids, *(chunk.input_ids[OVERLAP:] for chunk in chunks[1:])])
        theirs = bench.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert rebuilt.tolist() == [*theirs, end]
        assert sum(chunk.trained for chunk in chunks) == len(theirs)
    assert most >= 3, "some documents have several chunks"
    tokens = train_ledger(alone)["tokens"]
    assert tokens["masked"] == len(documents) and tokens["cut"] == 0 and tokens["repeated"] > 0
    held = sum(tokens[name] for name in ("trained", "masked", "repeated"))
    assert len(alone.train) == -(-held // SIZE), "no fewer rows could hold them"


def test_an_end_stands_only_where_a_document_ends(bench, alone, documents, samples_of):
    end = bench.tokenizer.eos_token_id
    samples = samples_of(alone.train)
    ends = [np.flatnonzero(sample.input_ids == end) for sample in samples]
    assert all(len(places) == 0 or places.tolist() == [len(s.input_ids) - 1] for places, s in zip(ends, samples))
    assert sum(map(len, ends)) == len(documents)


@pytest.mark.parametrize("count", [2, 7])
def test_the_blocks_of_several_processes_are_those_of_one(bench, file, alone, same_rows, many_blocks, count):
    pids = set()

    def watch(description, total, unit):
        class Bar:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

            def advance(self, rows):
                pids.update(process.pid for process in workers.multiprocessing.active_children())

        return Bar()

    prepared = bench.prepare(*blocks_of_32k(file, f"data.workers={count}"), progress=watch)
    assert 2 <= len(pids) <= count
    same(prepared, alone, same_rows)


def test_the_blocks_of_a_stream_are_those_of_a_file(
    bench, documents, alone, same_rows, tmp_path, monkeypatch, many_blocks
):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "owner" / "sources"
    (folder / "data").mkdir(parents=True)
    middle = len(documents) // 2
    for part, texts in enumerate((documents[:middle], documents[middle:])):
        pq.write_table(
            pa.table({"text": texts}), folder / "data" / f"train-{part:05}-of-00002.parquet", row_group_size=10
        )
    for streaming in (True, False):
        prepared = bench.prepare(*blocks_of_32k(f"hf://{folder}", f"data.hub.streaming={streaming}"))
        same(prepared, alone, same_rows)


def test_the_blocks_of_gzip_and_of_a_folder_of_files_are_those_of_a_file(
    bench, file, documents, alone, same_rows, tmp_path, many_blocks
):
    path = tmp_path / "sources.jsonl.gz"
    path.write_bytes(gzip.compress(file.read_bytes()))
    same(bench.prepare(*blocks_of_32k(path)), alone, same_rows)
    for number, text in enumerate(documents):
        (tmp_path / f"{number:05}.py").write_text(text, encoding="utf-8")
    prepared = bench.prepare(*blocks_of_32k(f"{tmp_path}/*.py"))
    assert prepared.train.fingerprint() == alone.train.fingerprint()


# --- failures --------------------------------------------------------------------------------------------------------


def test_rows_of_all_kinds_are_the_same_from_two_processes(bench, write, same_rows, check_prepared, monkeypatch):
    """Rows that are bad, cut, said twice, held out, or have the id of an earlier one in another block."""
    rows = [{**one, "id": str(n % 45)} for n, one in enumerate(numbered(50))]
    rows[20:20] = [row("1", ""), row("5", "6" * 200), row("0", "9"), {"instruction": 1}]
    path = write("rows.jsonl", rows)
    monkeypatch.setattr(read, "BLOCK_BYTES", 300)
    overrides = alpaca(path, "data.on_invalid=drop", "data.split.validation=auto", "data.packing=true")
    one, two = (bench.prepare(*overrides, f"data.workers={count}") for count in (1, 2))
    assert train_ledger(one)["dropped"]["has the id of an earlier row"]["rows"] >= 3
    assert rows_in(one)["truncated"] == rows_in(one)["duplicates"] == 1
    assert one.ledger.as_dict() == two.ledger.as_dict()
    for split in ("train", "validation"):
        same_rows(one.rows[split], two.rows[split])
    check_prepared(two)


def test_a_bad_row_found_by_another_process_stops_the_run_as_in_one(bench, write, monkeypatch):
    path = write("rows.jsonl", [*numbered(40), row("1", ""), *numbered(40), row("", "1")])
    monkeypatch.setattr(read, "BLOCK_BYTES", 300)
    said = []
    for count in (1, 2):
        with pytest.raises(DataError) as caught:
            bench.prepare(*alpaca(path, f"data.workers={count}"))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{path}, row 41: column 'output' is empty.\n") and said[0].endswith(MEND)


class Deadly:
    """In place of a block: whoever unpickles it dies, as one does that the kernel kills for want of memory."""

    def __reduce__(self):
        return _die, (os.getpid(),)


def _die(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return Deadly()


def test_a_process_that_is_killed_is_said_in_words(bench, write, monkeypatch):
    blocks = Part.blocks

    def with_deadly(part):
        yield from blocks(part)
        yield Deadly()

    path = write("rows.jsonl", numbered(5))
    monkeypatch.setattr(Part, "blocks", with_deadly)
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path, "data.workers=2"))
    assert str(caught.value) == (
        "A process that prepares the data was killed, most likely for want of memory. Try data.workers=1."
    )


# --- how many --------------------------------------------------------------------------------------------------------


def test_auto_takes_several_processes_where_that_pays(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(40)))
    assert workers.worker_count("auto", 1 << 20) == 1
    assert workers.worker_count("auto", 1 << 30) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert workers.worker_count("auto", 1 << 30) == 2
    assert workers.worker_count(5, 10) == 5


def test_one_process_is_this_one(bench, write, monkeypatch):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", None)
    path = write("rows.jsonl", numbered(3))
    assert len(bench.prepare(*alpaca(path, "data.workers=1")).train) == 3
    assert Encoder(bench.tokenizer).engine == "tiktoken's core"
