"""What is held in memory while data is prepared: a block at a time, and a few numbers of every row."""

from __future__ import annotations

import gc
import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from ftlab.data.packing import split_builder
from ftlab.data.sources import blocks
from ftlab.data.tokens.block_encoder import EncodedBlock, Recipe
from tests.data.helpers import options, python_sources

MEGABYTE = 1 << 20
BLOCK = 500_000  # bytes of a block here, so that small files have many of them
LIMIT = 30  # MiB; measured 17, nearly all of it one block


@pytest.fixture
def texts():
    """Pieces of 6,000 characters, over and over."""
    whole = "".join(path.read_text(encoding="utf-8", errors="replace") for path in python_sources(1_500_000))
    return [whole[start : start + 6000] for start in range(0, len(whole) - 6000, 6000)]


def peak_of(action):
    gc.collect()
    tracemalloc.start(1)
    try:
        result = action()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def written(path, row_of, texts, size):
    count = 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            for text in texts:
                file.write(json.dumps(row_of(count, text)) + "\n")
                count += 1
    return count


@pytest.mark.parametrize(
    ("format_", "stage", "row_of"),
    [
        ("text", "pt", lambda n, text: {"text": f"{n} {text}"}),
        ("instruction", "sft", lambda n, text: {"instruction": f"{n}", "response": text[:2000]}),
    ],
)
def test_rows_are_never_held_at_once(bench, tmp_path, texts, monkeypatch, format_, stage, row_of):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", BLOCK)
    peaks, tokens = [], []
    for size in (1, 4):
        path = tmp_path / f"{size}.jsonl"
        count = written(path, row_of, texts, size * MEGABYTE)
        overrides = options(format_, path, f"stage={stage}", "data.packing=true", "data.max_length=2048")
        prepared, peak = peak_of(lambda chosen=(*overrides, "data.workers=1"): bench.prepare(*chosen))
        assert prepared.ledger.splits["train"].rows_kept == count
        peaks.append(peak / MEGABYTE)
        tokens.append(prepared.ledger.splits["train"].tokens_in)
    # What a larger file adds is a few numbers for every row and chunk (measured: below 0.1 MB), not its tokens.
    held = (tokens[1] - tokens[0]) * 5 / MEGABYTE
    print(f"{format_}: peaks {peaks[0]:.1f} and {peaks[1]:.1f} MiB; tokens would be {held:.1f}")
    assert peaks[1] - peaks[0] < 0.2 * held
    assert peaks[1] < LIMIT


def encoded_blocks(rows):
    """Blocks of 1,000 rows of 5 to 60 tokens, as an encoder leaves them."""
    draw, nothing = np.random.default_rng(0), np.zeros(1000, np.int64)
    for first in range(0, rows, 1000):
        counts = draw.integers(5, 60, 1000)
        ordinals = np.arange(first, first + 1000)
        encoded = EncodedBlock(
            rows=1000, kept=np.stack([ordinals, ordinals + 1], axis=1), digest=draw.integers(0, 1 << 60, 1000),
            label=nothing, question=nothing, literal=nothing, left_out=nothing, prompt=nothing, names=None, problems=[],
            ids=np.zeros(counts.sum(), np.int32), trained=np.ones(counts.sum(), bool), counts=counts, full=counts,
            learned=counts - 1,
        )  # fmt: skip
        yield blocks.Block("rows.jsonl", range(first, first + 1000), ordinals + 1, None, "json"), encoded


@pytest.mark.parametrize("packing", [True, False])
def test_a_few_bytes_of_each_row_are_held(tmp_path, monkeypatch, packing):
    data = SimpleNamespace(workers=1, num_samples=None, packing=packing, max_length=128, on_invalid="error")
    recipes = {"rows": Recipe("messages", {}, {}, None, "assistant", "drop", 128, 0)}
    context = split_builder.BuildContext(data, 0, recipes, None, None, True, None)
    location = SimpleNamespace(blocks=lambda: iter(()), size=lambda: 0)
    peaks = []
    for rows in (1000, 40_000, 120_000):
        monkeypatch.setattr(split_builder, "encode_in_order", lambda *_, rows=rows: encoded_blocks(rows))
        part = split_builder.Part(SimpleNamespace(name="rows", num_samples=None), location, None, rows)
        builder = split_builder.SplitBuilder("train", [part], context)
        ledger, peak = peak_of(lambda builder=builder, rows=rows: builder.build(tmp_path / str(rows)))
        builder.close()
        assert ledger.rows_kept == rows and ledger.tokens_in == ledger.tokens_trained + ledger.rows_kept
        peaks.append(peak)
    of_a_row = (peaks[2] - peaks[1]) / 80_000
    print(f"bytes of each row: {of_a_row:.1f}")
    assert of_a_row < 32  # measured: 20; lists and arrays of 64 bits took 300
