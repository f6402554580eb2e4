"""What was prepared once is found again, as long as nothing that it depends on has changed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest

from ftlab.data import prepare
from ftlab.data.ledger.table import ledger_lines
from ftlab.data.tokens import encoder, tiktoken_core
from ftlab.data.tokens.templates import Template
from ftlab.errors import DataError
from tests.data.byte_tokenizers import byte_level, in_transformers
from tests.data.helpers import alpaca, numbered, options, row, texts, train_ledger
from tests.runs import across


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def path(write):
    return write("rows.jsonl", [*numbered(20), row("1", ""), row("0", "9"), row("5", "6" * 100)])


@pytest.fixture
def encoded_texts(monkeypatch):
    """How many texts were encoded."""
    counts = []
    of_class = encoder.Encoder.encode

    def counted(self, texts, spans):
        counts.append(len(texts))
        return of_class(self, texts, spans)

    monkeypatch.setattr(encoder.Encoder, "encode", counted)
    return counts


def overrides_of(path, cache, *more):
    return alpaca(path, "data.on_invalid=drop", "data.split.validation=auto", f"data.cache={cache}", *more)


def keys(cache):
    return sorted(path.name for path in (cache / "data").iterdir() if not path.name.startswith("."))


def shown(prepared):
    from rich.console import Console

    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for line in ledger_lines(prepared.ledger, prepared.cached, prepared.damaged):
            console.print(line)
    return capture.get()


# --- found again -----------------------------------------------------------------------------------------------------


def test_a_second_start_finds_the_same_rows_and_ledger_and_encodes_nothing(
    bench, path, cache, encoded_texts, same_rows, check_prepared
):
    first = bench.prepare(*overrides_of(path, cache))
    assert sum(encoded_texts) > 20
    encoded_texts.clear()
    second = bench.prepare(*overrides_of(path, cache))
    assert (first.cached, second.cached, encoded_texts) == (False, True, [])
    assert first.rows.keys() == second.rows.keys() == {"train", "validation"}
    for split, rows in first.rows.items():
        same_rows(rows, second.rows[split])
    assert first.ledger == second.ledger
    assert json.dumps(first.ledger.as_dict()) == json.dumps(second.ledger.as_dict())
    check_prepared(second)
    assert len(keys(cache)) == 1


def test_the_ledger_of_a_second_start_is_shown_as_the_firsts_was(bench, path, cache):
    first, second = (shown(bench.prepare(*overrides_of(path, cache))) for _ in range(2))
    note = "(prepared before; nothing has changed)"
    assert note not in first and note in second
    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert "rows dropped: column 'output' is empty, first " in second
    assert "say what an earlier one says, first " in second


def test_what_is_on_disk_is_small_and_flat(bench, path, cache, samples_of):
    prepared = bench.prepare(*overrides_of(path, cache))
    [folder] = [cache / "data" / key for key in keys(cache)]
    stored = sum(len(sample.input_ids) for sample in samples_of(prepared.train))
    assert (folder / "train" / "ids.i32").stat().st_size == 4 * stored
    assert (folder / "train" / "trained.u8").stat().st_size == stored
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.json", "seal.json", "train", "validation"]


def test_where_no_cache_is_wanted_there_is_none(bench, path, monkeypatch, tmp_path):
    monkeypatch.setenv("FTLAB_CACHE", str(tmp_path / "none"))
    assert [bench.prepare(*overrides_of(path, "null")).cached for _ in range(2)] == [False, False]
    assert not (tmp_path / "none").exists()


# --- damaged ---------------------------------------------------------------------------------------------------------


def rewrite(path, content):
    """Another file: the one that was there may be mapped into memory."""
    path.unlink()
    path.write_bytes(content)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(path, content)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def link_to_nowhere(path):
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE = {
    "flipped": flip,
    "half": lambda path: rewrite(path, path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: rewrite(path, b""),
    "list": lambda path: rewrite(path, b"[1, 2]"),
    "object": lambda path: rewrite(path, b'{"sha256": {}}'),
    "gone": lambda path: path.unlink(),
    "folder": folder_instead,
    "link": link_to_nowhere,
}
FILES = ("train/ids.i32", "train/trained.u8", "train/bounds.npy", "train/kept.npy", "ledger.json", "seal.json")


@pytest.mark.parametrize(
    ("damage", "file"),
    across(DAMAGE, FILES, lambda damage, file: damage == "flipped" or file == "train/ids.i32"),
)
def test_a_damaged_cache_is_prepared_anew_and_told_once(damage, file, bench, write, cache, same_rows):
    path = write("few.jsonl", numbered(4))
    overrides = alpaca(path, f"data.cache={cache}")
    first = bench.prepare(*overrides)
    [key] = keys(cache)
    DAMAGE[damage](cache / "data" / key / file)
    again, after = (bench.prepare(*overrides) for _ in range(2))
    same_rows(again.train, first.train)
    same_rows(after.train, first.train)
    assert first.ledger == again.ledger == after.ledger
    assert (again.cached, after.cached) == (False, True)
    named = "" if file == "seal.json" else file  # a readable seal may leave out, or name, any other
    assert f"{named} of the data cache was damaged: prepared anew" in shown(again)
    assert "damaged" not in shown(after)


@pytest.mark.parametrize("kind", ["file", "link", "empty folder"])
def test_something_else_in_the_place_of_a_cache_is_replaced(kind, bench, write, cache, tmp_path, same_rows):
    overrides = alpaca(write("few.jsonl", numbered(4)), f"data.cache={cache}")
    first = bench.prepare(*overrides)
    [key] = keys(cache)
    folder = cache / "data" / key
    folder.rename(tmp_path / "elsewhere")
    if kind == "file":
        folder.write_text("x")
    elif kind == "link":
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "kept.txt").write_text("x")
        folder.symlink_to(tmp_path / "mine")
    else:
        folder.mkdir()
    again = bench.prepare(*overrides)
    same_rows(again.train, first.train)
    assert not again.cached and bench.prepare(*overrides).cached
    assert kind != "link" or (tmp_path / "mine" / "kept.txt").exists()


# --- not found again -------------------------------------------------------------------------------------------------


def test_the_files_content_decides_and_not_its_time(bench, path, cache):
    overrides = overrides_of(path, cache)
    bench.prepare(*overrides)
    content = path.read_bytes()
    path.write_bytes(content)
    assert bench.prepare(*overrides).cached
    path.write_bytes(content.replace(b'"9"', b'"8"', 1))
    changed = bench.prepare(*overrides)
    assert not changed.cached
    assert "8<|im_end|>" in {bench.trained(s) for rows in changed.rows.values() for one in rows for s in one.samples}
    assert len(keys(cache)) == 2
    path.write_bytes(content)
    assert bench.prepare(*overrides).cached, "and the first is still there"


OPTIONS = ("data.max_length=60", "data.packing=true", "data.train_on=all", "data.truncation=drop", "data.max_samples=5",
           "data.num_samples=30", "data.split.fraction=0.3", "data.split.test_fraction=0.2", "seed=9",
           "data.columns={input: x}", "data.columns={id: null}")  # fmt: skip


def test_an_option_that_matters_is_prepared_anew(bench, path, cache, subtests):
    bench.prepare(*overrides_of(path, cache))
    for change in OPTIONS:
        before = keys(cache)
        with subtests.test(change):
            assert not bench.prepare(*overrides_of(path, cache), change).cached
            assert len(keys(cache)) == len(before) + 1
    assert bench.prepare(*overrides_of(path, cache)).cached


def test_an_option_of_texts_that_matters_is_prepared_anew(bench, write, cache):
    path = write("texts.jsonl", [{"text": "0123456789" * 9}])
    overrides = texts(path, f"data.cache={cache}", "data.packing=true")
    bench.prepare(*overrides)
    changes = ("data.overlap=3", "data.packing=wrapped", "data.reset_positions=false")
    assert [change for change in changes if bench.prepare(*overrides, change).cached] == []


def test_an_option_that_does_not_matter_changes_nothing(bench, path, cache):
    bench.prepare(*overrides_of(path, cache))
    changes = ("data.workers=1", "data.workers=auto", "run.dir=elsewhere", "train.max_steps=3")
    assert [change for change in changes if not bench.prepare(*overrides_of(path, cache), change).cached] == []


def test_a_cache_that_moved_is_still_one(bench, path, cache, tmp_path):
    bench.prepare(*overrides_of(path, cache))
    shutil.move(cache, tmp_path / "moved")
    assert bench.prepare(*overrides_of(path, tmp_path / "moved")).cached


def test_another_template_or_tokenizer_is_prepared_anew(bench, path, cache):
    from ftlab.model.tokenizer import load_tokenizer

    overrides = overrides_of(path, cache)
    bench.prepare(*overrides)
    special = dict(bench.tokenizer.special_tokens_map)
    other = Template(bench.template.source.replace("user", "USER"), special, "here")
    same = Template(bench.template.source, special, "here")
    assert bench.prepare(*overrides, template=same).cached
    assert not bench.prepare(*overrides, template=other).cached
    tokenizer = load_tokenizer(bench.config().model)
    assert bench.prepare(*overrides, tokenizer=tokenizer).cached
    tokenizer.add_tokens(["<more>"])
    assert not bench.prepare(*overrides, tokenizer=tokenizer).cached
    assert len(keys(cache)) == 3


def test_the_end_of_texts_is_part_of_what_is_prepared(bench, write, cache):
    from ftlab.model.tokenizer import load_tokenizer

    path = write("texts.jsonl", [{"text": "12"}])
    overrides = texts(path, f"data.cache={cache}")
    bench.prepare(*overrides)
    tokenizer = load_tokenizer(bench.config().model)
    tokenizer.eos_token = "<|im_end|>"
    other = bench.prepare(*overrides, tokenizer=tokenizer)
    assert not other.cached
    assert bench.decode(other.train[0].samples[0].input_ids) == "12<|im_end|>"


def test_other_code_is_prepared_anew(bench, path, cache, monkeypatch, tmp_path):
    """A new version of ftlab that encodes otherwise must not find what the old one left."""
    overrides = overrides_of(path, cache)
    bench.prepare(*overrides)
    copied = tmp_path / "data"
    shutil.copytree(Path(prepare.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(prepare, "__file__", str(copied / "prepare.py"))
    assert bench.prepare(*overrides).cached
    (copied / "formats" / "turns.py").write_text("# other\n")
    assert not bench.prepare(*overrides).cached


# --- torn, shared, unwritable ----------------------------------------------------------------------------------------


def test_a_torn_folder_is_built_again(bench, path, cache, same_rows):
    overrides = overrides_of(path, cache)
    first = bench.prepare(*overrides)
    [key] = keys(cache)
    (cache / "data" / key / "ledger.json").unlink()
    (cache / "data" / f".{key}.tmp").mkdir()
    (cache / "data" / f".{key}.tmp" / "half").write_text("of an attempt that was stopped")
    again = bench.prepare(*overrides)
    assert not again.cached
    same_rows(first.train, again.train)
    assert bench.prepare(*overrides).cached
    assert [one.name for one in (cache / "data").iterdir() if one.name.endswith(".tmp")] == []


def test_a_run_that_is_refused_leaves_nothing_in_the_cache(bench, path, cache):
    with pytest.raises(DataError, match="column 'output' is empty"):
        bench.prepare(*overrides_of(path, cache, "data.on_invalid=error"))
    assert keys(cache) == []
    assert [one.name for one in (cache / "data").iterdir() if not one.name.endswith(".lock")] == []


@pytest.mark.parametrize("below", ["", "/more"])
def test_a_cache_that_cannot_be_written(bench, path, write, below):
    file = write("cache", "a file")
    with pytest.raises(DataError) as caught:
        bench.prepare(*overrides_of(path, f"{file}{below}"))
    assert str(caught.value) == (
        f"data.cache={file}{below} cannot be written (Not a directory). Give another folder, or data.cache=null."
    )


def _prepare_in_a_process(overrides, started, answers):
    from ftlab.data.sources import resolve
    from ftlab.data.tokens.encoder import Encoder
    from ftlab.data.tokens.templates import Template
    from ftlab.model.tokenizer import load_tokenizer
    from tests.runs import make_run

    run = make_run(*overrides)
    tokenizer = load_tokenizer(run.model)
    slow = Encoder.encode

    def encode_slowly(self, texts, spans):
        time.sleep(0.4)  # long enough for the other to arrive
        return slow(self, texts, spans)

    Encoder.encode = encode_slowly  # type: ignore[method-assign]
    sources = resolve.resolve(run.data, run.stage.name)
    parts = prepare.split_parts(sources, run.data, run.seed)
    started.wait(timeout=60)
    found = prepare.prepare(sources, parts, run.data, run.seed, Template.for_tokenizer(tokenizer), tokenizer)
    answers.put((found.cached, len(found.train), found.ledger.as_dict()))


def test_of_two_processes_at_once_one_prepares_and_the_other_waits_for_it(path, cache):
    context = multiprocessing.get_context("fork")
    started, answers = context.Barrier(2), context.Queue()
    given = (overrides_of(path, cache), started, answers)
    processes = [context.Process(target=_prepare_in_a_process, args=given) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sorted(cached for cached, _, _ in found) == [False, True]
    assert found[0][1:] == found[1][1:]
    assert len(keys(cache)) == 1


# --- the fast path that turns out otherwise --------------------------------------------------------------------------

RUBY = (
    r"^ab|[ab\n]|[^ab\n]"  # for tokenizers' engine a line begins after every break, for tiktoken's only the text does
)


def test_where_the_fast_path_finds_other_ids_everything_is_encoded_without_it(
    bench, write, monkeypatch, check_prepared
):
    tokenizer = in_transformers(byte_level([("a", "b")], pattern=RUBY))
    path = write("texts.jsonl", [{"text": "a"}, {"text": "ba"}] * 500 + [{"text": "ab\nab"}] * 500)
    assert (
        tiktoken_core.fast_core(tokenizer) == "its pre-tokenizer is none of those that tiktoken is known to reproduce"
    )
    expected = bench.prepare(*texts(path), tokenizer=tokenizer)
    monkeypatch.setattr(tiktoken_core, "PATTERNS", tiktoken_core.PATTERNS | {RUBY})
    found = bench.prepare(*texts(path), tokenizer=tokenizer)
    assert found.ledger.engine == "tokenizers: another result was found on this data"
    assert train_ledger(found) == train_ledger(expected)
    assert tokenizer.convert_ids_to_tokens(found.train[1000].samples[0].input_ids) == ["ab", "Ċ", "ab", "<|end|>"]
    check_prepared(found)


def test_a_tokenizer_that_changed_after_its_core_was_built_is_encoded_without_it(bench, write):
    """The probe is of the tokenizer as it is when the data is read."""
    from tokenizers import normalizers

    tokenizer = in_transformers(byte_level([("a", "b")]))
    built = encoder.fast_core

    def then_changed(given):
        core = built(given)
        given.backend_tokenizer.normalizer = normalizers.Lowercase()
        return core

    path = write("texts.jsonl", [{"text": "AB ab"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "fast_core", then_changed)
        prepared = bench.prepare(*texts(path), tokenizer=tokenizer)
    assert prepared.ledger.as_dict()["tokenized_by"] == "tokenizers: another result was found on this data"
    assert tokenizer.convert_ids_to_tokens(prepared.train[0].samples[0].input_ids) == ["ab", "Ġ", "ab", "<|end|>"]


def test_the_ledger_says_which_way_it_was_and_why(bench, write):
    path = write("texts.jsonl", [{"text": "ab"}])
    assert bench.prepare(*texts(path)).ledger.as_dict()["tokenized_by"] == "tiktoken's core"
    refused = in_transformers(byte_level(pattern=r"\w+|\W"))
    said = bench.prepare(*texts(path), tokenizer=refused).ledger.as_dict()["tokenized_by"]
    assert said == "tokenizers: its pre-tokenizer is none of those that tiktoken is known to reproduce"


def test_the_same_from_both_ways_for_conversations(bench, path, same_rows, monkeypatch):
    fast_one = bench.prepare(*options("alpaca", path, "data.on_invalid=drop"))
    monkeypatch.setattr(encoder, "fast_core", lambda _: "it is not wanted")
    slow_one = bench.prepare(*options("alpaca", path, "data.on_invalid=drop"))
    assert slow_one.ledger.engine == "tokenizers: it is not wanted"
    same_rows(fast_one.train, slow_one.train)
    assert train_ledger(fast_one) == train_ledger(slow_one)


def test_what_is_found_again_was_on_the_disk_before_it_counted(bench, path, cache, on_disk):
    bench.prepare(*overrides_of(path, cache))
    (folder,) = (cache / "data" / key for key in keys(cache))
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 5 and [file for file in files if not on_disk(file)] == []
