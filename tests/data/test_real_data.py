"""Files that nobody on this project wrote, whole: nothing refused, nothing lost, and the right text learned."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.data.helpers import train_ledger
from tests.runs import logged, train_run

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real data: {FOLDER} is not there")


def rows_of(name):
    content = (FOLDER / name).read_text(encoding="utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in content.splitlines() if line]
    return json.loads(content)


WHOLE = ["model.architecture.max_positions=16384", "data.max_length=16384"]  # more than the longest row has


def seen(prepared):
    """Rows in and rows kept."""
    rows = train_ledger(prepared)["rows"]
    return rows["in"], rows["kept"]


def prepare(bench, name, format_, *overrides):
    defaults = [f"data.path={FOLDER / name}", f"data.format={format_}", "data.split.validation=none"]
    return bench.prepare(*defaults, "data.packing=false", *overrides)


def test_alpaca(bench, check_prepared, samples_of):
    prepared = prepare(bench, "alpaca_en_demo.json", "alpaca", *WHOLE)
    samples = samples_of(prepared.train)
    check_prepared(prepared)
    rows = rows_of("alpaca_en_demo.json")
    assert seen(prepared) == (999, 999)
    assert [bench.trained(sample) for sample in samples] == [row["output"] + "<|im_end|>" for row in rows]
    prompts = [row["instruction"] + ("\n" + row["input"] if row["input"] else "") for row in rows]
    assert [bench.decode(sample.input_ids) for sample in samples] == [
        f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{row['output']}<|im_end|>\n"
        for prompt, row in zip(prompts, rows)
    ]


def test_tool_calls(bench, check_prepared, samples_of):
    prepared = prepare(bench, "glaive_toolcall_en_demo.json", "sharegpt", *WHOLE)
    samples = samples_of(prepared.train)
    check_prepared(prepared)
    assert seen(prepared) == (300, 300)
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


def test_messages(bench, check_prepared, samples_of):
    prepared = prepare(bench, "kto_en_demo.json", "messages", *WHOLE)
    samples = samples_of(prepared.train)
    check_prepared(prepared)
    assert seen(prepared) == (300, 300)
    assert [bench.trained(sample) for sample in samples] == [
        "".join(message["content"] + "<|im_end|>" for message in row["messages"] if message["role"] == "assistant")
        for row in rows_of("kto_en_demo.json")
    ]


def test_plain_text(bench, check_prepared):
    overrides = ["stage=pt", "data.max_length=256", "data.overlap=32"]
    prepared = prepare(bench, "c4_demo.jsonl", "text", *overrides)
    check_prepared(prepared)
    assert seen(prepared) == (300, 300)
    tokens = train_ledger(prepared)["tokens"]
    assert tokens["cut"] == 0
    assert tokens["masked"] == 300  # the first token of each document
    assert tokens["repeated"] > 0
    for unit, row in enumerate(rows_of("c4_demo.jsonl")):
        chunks = [chunk.input_ids for chunk in prepared.train.unit(unit)]
        rebuilt = [*chunks[0], *(id_ for chunk in chunks[1:] for id_ in chunk[32:])]
        assert bench.decode(rebuilt) == row["text"] + bench.tokenizer.eos_token


def test_pairs(bench, check_prepared, samples_of):
    prepared = prepare(bench, "dpo_zh_demo.json", "preference", "stage=dpo", *WHOLE)
    check_prepared(prepared)
    assert seen(prepared) == (300, 300)
    samples = samples_of(prepared.train)
    for row, chosen, rejected in zip(rows_of("dpo_zh_demo.json"), samples[::2], samples[1::2]):
        assert bench.trained(chosen) == row["chosen"]["value"] + "<|im_end|>"
        assert bench.trained(rejected) == row["rejected"]["value"] + "<|im_end|>"
        for turn in row["conversations"]:
            assert turn["value"] in bench.decode(chosen.input_ids)


def test_labels(bench, check_prepared, samples_of):
    prepared = prepare(bench, "kto_en_demo.json", "kto", "stage=kto", *WHOLE)
    check_prepared(prepared)
    assert seen(prepared) == (300, 300)
    assert [bench.trained(sample) for sample in samples_of(prepared.train)] == [
        row["messages"][-1]["content"] + "<|im_end|>" for row in rows_of("kto_en_demo.json")
    ]


CASES = [
    ("alpaca_en_demo.json", "alpaca", "sft", 999),
    ("glaive_toolcall_en_demo.json", "sharegpt", "sft", 300),
    ("kto_en_demo.json", "messages", "sft", 300),
    ("kto_en_demo.json", "kto", "kto", 300),
    ("dpo_zh_demo.json", "preference", "dpo", 300),
    ("c4_demo.jsonl", "text", "pt", 300),
]


def test_packed_and_held_out(bench, check_prepared, subtests):
    for name, format_, stage, count in CASES:
        overrides = [f"stage={stage}", "data.split.validation=auto", "data.packing=true", "data.max_length=1024"]
        with subtests.test(f"{name} as {format_}"):
            prepared = prepare(bench, name, format_, *overrides)
            check_prepared(prepared)
            assert prepared.ledger.engine == "tiktoken's core"
            assert sum(split.rows_in for split in prepared.ledger.splits.values()) == count
            assert prepared.ledger.splits["validation"].rows_in == int(count * 0.05)
            assert len(prepared.train) < prepared.ledger.splits["train"].rows_kept or stage == "pt"


@pytest.mark.parametrize("truncation", ["left", pytest.param("right", marks=pytest.mark.matrix)])
def test_cut_to_size(bench, check_prepared, truncation, subtests):
    for name, format_, stage, count in CASES[:-1]:
        length = 768 if name.startswith("glaive") else 256
        overrides = [f"stage={stage}", f"data.max_length={length}", f"data.truncation={truncation}"]
        with subtests.test(f"{name} as {format_}"):
            prepared = prepare(bench, name, format_, *overrides, "data.packing=true")
            check_prepared(prepared)
            ledger = prepared.ledger.splits["train"]
            assert ledger.rows_in == count >= ledger.rows_kept > 0
            assert ledger.tokens_cut > 0


@pytest.mark.parametrize(
    ("name", "format_", "stage", "first_loss"),
    [
        ("kto_en_demo.json", "kto", "kto", 0.5),
        pytest.param("dpo_zh_demo.json", "preference", "dpo", 0.693147, marks=pytest.mark.matrix),
    ],
)
def test_a_few_steps(name, format_, stage, first_loss, tmp_path):
    """A user's own file by its path: it begins where the loss has to begin, moves, and leaves what can be served."""
    run_dir = train_run(
        tmp_path / "run", f"stage={stage}", f"data.path={FOLDER / name}", f"data.format={format_}",
        "train.max_steps=6", "train.logging_steps=1", "train.warmup_ratio=0", "data.split.validation=none",
        "data.max_samples=60",
        "hardware.precision=fp32", "tracker=none",
    )  # fmt: skip
    steps = [line for line in logged(run_dir) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 7))
    assert all(math.isfinite(line[key]) for line in steps for key in ("loss", "grad_norm"))
    assert steps[0]["loss"] == pytest.approx(first_loss, abs=1e-5)
    assert all(line["grad_norm"] > 0 for line in steps)
    # A batch of kto may have answers of one label alone.
    rewards = [[line[key] for key in ("rewards/chosen", "rewards/rejected") if key in line] for line in steps]
    assert all(abs(reward) <= 1e-5 for reward in rewards[0]) and all(abs(reward) > 1e-3 for reward in rewards[-1])
    assert run_dir.manifest()["status"] == "finished"
    ledger = json.loads(run_dir.ledger(stage).read_text())["splits"]["train"]["rows"]
    assert ledger["in"] == 300 == ledger["kept"] + ledger["dropped"] and ledger["kept"] > 0
    assert {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        file.name for file in run_dir.final.iterdir()
    }
