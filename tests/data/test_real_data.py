"""Files that nobody on this project wrote, whole: nothing refused, nothing lost, and the right text learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real data: {FOLDER} is not there")


def rows_of(name):
    content = (FOLDER / name).read_text(encoding="utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in content.splitlines() if line]
    return json.loads(content)


WHOLE = ["model.architecture.max_positions=16384", "data.max_length=16384"]  # more than the longest row has


def prepare(bench, name, format_, *overrides):
    defaults = [f"data.path={FOLDER / name}", f"data.format={format_}", "data.split.validation=none"]
    return bench.prepare(*defaults, "data.packing=false", *overrides)


def test_alpaca(bench, check_ledger, samples_of):
    prepared = prepare(bench, "alpaca_en_demo.json", "alpaca", *WHOLE)
    samples = samples_of(prepared.train)
    check_ledger(prepared.ledger.splits["train"], samples)
    rows = rows_of("alpaca_en_demo.json")
    counts = prepared.ledger.as_dict()["splits"]["train"]
    assert counts["rows"] == {"in": 999, "kept": 999, "dropped": 0, "truncated": 0}
    assert [bench.trained(sample) for sample in samples] == [row["output"] + "<|im_end|>" for row in rows]
    prompts = [row["instruction"] + ("\n" + row["input"] if row["input"] else "") for row in rows]
    assert [bench.decode(sample.input_ids) for sample in samples] == [
        f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{row['output']}<|im_end|>\n"
        for prompt, row in zip(prompts, rows)
    ]


def test_tool_calls(bench, check_ledger, samples_of):
    prepared = prepare(bench, "glaive_toolcall_en_demo.json", "sharegpt", *WHOLE)
    samples = samples_of(prepared.train)
    check_ledger(prepared.ledger.splits["train"], samples)
    counts = prepared.ledger.as_dict()["splits"]["train"]
    assert counts["rows"] == {"in": 300, "kept": 300, "dropped": 0, "truncated": 0}
    calls = 0
    for row, sample in zip(rows_of("glaive_toolcall_en_demo.json"), samples):
        answers = [turn for turn in row["conversations"] if turn["from"] in ("gpt", "function_call")]
        *trained, after = bench.trained(sample).split("<|im_end|>")
        assert after == ""
        assert len(trained) == len(answers)
        for answer, text in zip(answers, trained):
            if answer["from"] == "gpt":
                assert text == answer["value"]
            else:
                call = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
                assert call == json.loads(answer["value"])
                calls += 1
        text = bench.decode(sample.input_ids)
        assert all(json.dumps(tool, ensure_ascii=False) in text for tool in json.loads(row["tools"] or "[]"))
        assert text.count("<tool_response>") == sum(turn["from"] == "observation" for turn in row["conversations"])
    assert calls > 100


def test_messages(bench, check_ledger, samples_of):
    prepared = prepare(bench, "kto_en_demo.json", "messages", *WHOLE)
    samples = samples_of(prepared.train)
    check_ledger(prepared.ledger.splits["train"], samples)
    counts = prepared.ledger.as_dict()["splits"]["train"]
    assert counts["rows"] == {"in": 300, "kept": 300, "dropped": 0, "truncated": 0}
    assert [bench.trained(sample) for sample in samples] == [
        "".join(message["content"] + "<|im_end|>" for message in row["messages"] if message["role"] == "assistant")
        for row in rows_of("kto_en_demo.json")
    ]


def test_plain_text(bench, check_ledger, samples_of):
    prepared = prepare(bench, "c4_demo.jsonl", "text", "stage=pt", "data.max_length=256", "data.overlap=32")
    samples = samples_of(prepared.train)
    ledger = prepared.ledger.splits["train"]
    check_ledger(ledger, samples)
    counts = ledger.as_dict()
    assert counts["rows"] == {"in": 300, "kept": 300, "dropped": 0, "truncated": 0}
    assert counts["tokens"]["cut"] == 0
    assert counts["tokens"]["masked"] == 300  # the first token of each document
    assert counts["tokens"]["repeated"] > 0


@pytest.mark.parametrize(
    ("name", "format_", "stage"),
    [
        ("alpaca_en_demo.json", "alpaca", "sft"),
        ("glaive_toolcall_en_demo.json", "sharegpt", "sft"),
        ("kto_en_demo.json", "messages", "sft"),
        ("c4_demo.jsonl", "text", "pt"),
    ],
)
def test_packed_and_held_out(bench, check_ledger, samples_of, name, format_, stage):
    overrides = [f"stage={stage}", "data.split.validation=auto", "data.packing=true", "data.max_length=1024"]
    prepared = prepare(bench, name, format_, *overrides)
    for split, rows in (("train", prepared.train), ("validation", prepared.validation)):
        ledger = prepared.ledger.splits[split]
        check_ledger(ledger, samples_of(rows))
        assert max(rows[index].length for index in range(len(rows))) <= 1024
    count = 999 if name.startswith("alpaca") else 300
    assert sum(split.rows_in for split in prepared.ledger.splits.values()) == count
    assert prepared.ledger.splits["validation"].rows_in == int(count * 0.05)
    assert len(prepared.train) < prepared.ledger.splits["train"].rows_kept or stage == "pt"
