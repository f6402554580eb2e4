"""Special tokens that a row's text spells out are text; texts begin as their tokenizer begins them."""

from __future__ import annotations

import json

import pytest

from ftlab.data.ledger.table import ledger_lines
from ftlab.errors import DataError
from ftlab.policy.tokens import load_tokens
from tests.data.helpers import alpaca, options, row, texts
from tests.runs import make_run

SPELLED = "Write <|im_end|> and <|im_start|>user, then <|endoftext|>."


def ids_of(prepared) -> list[list[int]]:
    return [sample.input_ids.tolist() for packed in prepared.train for sample in packed.samples]


def test_a_special_token_in_a_row_is_read_as_text(bench, write):
    path = write("rows.jsonl", [row(SPELLED, f"So: {SPELLED}"), row("1", "2")])
    prepared = bench.prepare(*alpaca(path, "data.max_length=512"))
    (ids, plain), tokenizer = ids_of(prepared), bench.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == plain.count(end) == 2, "the template's own"
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") not in ids
    assert (
        tokenizer.decode(ids, skip_special_tokens=False)
        == bench.template.prompt([{"role": "user", "content": SPELLED}]) + f"So: {SPELLED}<|im_end|>\n"
    )
    (sample,) = next(iter(prepared.train)).samples
    assert tokenizer.decode(sample.input_ids[sample.learned]) == f"So: {SPELLED}<|im_end|>"
    counts = prepared.ledger.as_dict()["splits"]["train"]["special_tokens_as_text"]
    assert counts == {"rows": 1, "first": [f"{path}:1"]}
    [line] = [line for line in ledger_lines(prepared.ledger, False, None) if "special tokens" in str(line)]
    assert f"train: 1 rows spell special tokens out, first {path}:1: read as text" in line


def test_where_it_is_wanted_it_is_the_token(bench, write):
    path = write("rows.jsonl", [row("1", f"2 {SPELLED}")])
    prepared = bench.prepare(*alpaca(path, "data.max_length=512", "data.special_tokens=token"))
    ids = ids_of(prepared)[0]
    assert ids.count(bench.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 3
    assert prepared.ledger.as_dict()["splits"]["train"]["special_tokens_as_text"]["rows"] == 0


def test_rows_without_special_tokens_are_the_same_either_way(bench, write):
    path = write("rows.jsonl", [row(f"{i} é 日本 < | im_end |>", "a < b |> c") for i in range(20)])
    found = [ids_of(bench.prepare(*alpaca(path, f"data.special_tokens={how}"))) for how in ("text", "token")]
    assert found[0] == found[1]


@pytest.mark.parametrize("fast", [True, False])
def test_tools_pairs_and_texts(fast, bench, write, monkeypatch):
    if not fast:
        monkeypatch.setattr("ftlab.data.tokens.encoder.fast_core", lambda _: "not here")
    end = bench.tokenizer.convert_tokens_to_ids("<|im_end|>")
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": "a<|im_end|>b"}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    path = write("tools.jsonl", [{"messages": messages}])
    assert ids_of(bench.prepare(*options("messages", path, "data.max_length=256")))[0].count(end) == 2
    pair = {"prompt": "a<|im_end|>", "chosen": "b<|im_end|>c", "rejected": "d"}
    rows = bench.prepare(*options("preference", write("pairs.jsonl", [pair]), "stage=dpo"))
    assert [ids.count(end) for ids in ids_of(rows)] == [2, 2]
    path = write("texts.jsonl", [{"text": "one<|endoftext|>two"}])
    stop = bench.tokenizer.eos_token_id
    assert ids_of(bench.prepare(*texts(path)))[0].count(stop) == 1
    assert ids_of(bench.prepare(*texts(path, "data.special_tokens=token")))[0].count(stop) == 2


def test_texts_begin_with_the_token_that_their_tokenizer_writes_first(bench, write, tmp_path):
    import shutil

    from tests.conftest import ROOT

    folder = tmp_path / "m"
    shutil.copytree(ROOT / "models" / "tiny", folder)
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    begin = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    whole = {"Sequence": {"id": "A", "type_id": 0}}
    written["post_processor"] = {
        "type": "TemplateProcessing", "single": [begin, whole], "pair": [begin, whole],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [2], "tokens": ["<|im_start|>"]}},
    }  # fmt: skip
    file.write_text(json.dumps(written))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<|im_start|>"}))
    tokenizer = load_tokens(make_run(f"model.path={folder}", "stage=pt")).tokenizer
    assert tokenizer("one")["input_ids"][0] == tokenizer.bos_token_id == 2
    path = write("texts.jsonl", [{"text": "one"}, {"text": "two three"}])
    found = ids_of(bench.prepare(*texts(path), tokenizer=tokenizer))
    assert found == [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in ("one", "two three")]
    without = ids_of(bench.prepare(*texts(path)))
    assert without == [ids[1:] for ids in found], "the embedded model's writes none"


@pytest.mark.parametrize("how", ["text", "token"])
def test_the_character_that_keeps_tokens_apart_is_refused_in_a_row(how, bench, write):
    """It was removed without a word: "a" and "b" ran together."""
    path = write("rows.jsonl", [row("1", "2"), row("3 \ufdd0", "4"), row("<|im_end|>", "a\ufdd0b")])
    prepared = bench.prepare(*alpaca(path, "data.on_invalid=drop", f"data.special_tokens={how}"))
    reason = "holds U+FDD0, which Unicode keeps out of texts; remove it"
    dropped = prepared.ledger.as_dict()["splits"]["train"]["dropped"]
    assert dropped == {reason: {"rows": 2, "first": [f"{path}:2", f"{path}:3"]}}
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: holds U\+FDD0"):
        bench.prepare(*alpaca(path, f"data.special_tokens={how}"))
    with pytest.raises(DataError, match=r"texts\.jsonl, row 1: holds U\+FDD0"):
        bench.prepare(*texts(write("texts.jsonl", [{"text": "a\ufdd0b"}]), f"data.special_tokens={how}"))
