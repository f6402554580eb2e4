"""Rows of a table are the rows of JSON Lines, whatever its columns pad them with."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from tests.data.helpers import encoded, options

TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"x": {"type": "int", "unit": "m"}, "y": {"type": "int"}}},
    },
    {"type": "function", "function": {"name": "say", "parameters": {"text": {"type": "str", "enum": ["a", "b"]}}}},
]


def conversation(arguments, tool, name):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "name": name},
        {"role": "assistant", "content": "done"},
    ]
    return {"messages": turns, "tools": [tool]}


ROWS = [
    conversation({"x": 0, "y": 1}, TOOLS[0], "add"),
    conversation({"text": "hello", "more": [{"deep": 1}, {"other": "b"}]}, TOOLS[1], "say"),
    {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], "tools": None},
]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_a_column_pads_with_nulls_is_not_trained(bench, write, tmp_path, samples_of, suffix):
    path = tmp_path / f"rows.{suffix}"
    table = pa.Table.from_pylist(ROWS)
    if suffix == "parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.feather.write_feather(table, path, compression="uncompressed")
    both = [
        bench.prepare(*options("messages", source, "data.max_length=2048", "model.template=qwen3"))
        for source in (path, write("rows.jsonl", ROWS))
    ]
    columnar, plain = (encoded(samples_of(prepared.train)) for prepared in both)
    assert len(plain) == 3 and "hello" in bench.decode(plain[1][0])
    assert columnar == plain
