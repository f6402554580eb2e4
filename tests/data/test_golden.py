"""Golden prompts of the user's own: other columns, another format, without answers, of several turns."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from rich.cells import cell_len

from ftlab.data.sources.resolve import resolve
from ftlab.errors import ConfigError, DataError, NotReadyError
from ftlab.preflight.check import check
from tests.data.helpers import alpaca, numbered
from tests.runs import make_run, train_run

NAMED = ("data.golden.format=prompts", "data.golden.columns={prompt: question, answer: expected}")
ASKED = [
    {"question": "What is 3 plus 4?", "expected": "7"},
    {"question": "Introduce yourself."},
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "I am 安.\nRemember it."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Who am I?"},
        ],
        "tools": [{"name": "lookup", "parameters": {"type": "object", "properties": {}}}],
    },
]
FEW = ("eval.max_new_tokens=4", "train.max_steps=1", "tracker=none", "data.max_length=512")


@pytest.fixture
def golden(write):
    """``golden(rows)``: the override that names a file of them."""
    return lambda rows: f"data.split.golden={write('golden.jsonl', rows)}"


def test_some_with_answers_and_some_without(write, golden, tmp_path):
    out = io.StringIO()
    given = (*alpaca(write("rows.jsonl", numbered(8))), golden(ASKED), *NAMED, *FEW)
    given = tuple(one for one in given if one != "data.max_length=64")
    with contextlib.redirect_stdout(out):
        run_dir = train_run(tmp_path / "r", *given)
    told = json.loads((run_dir.samples / "sft-after.json").read_text())
    assert told["values"]["golden prompts"] == 3 and told["values"]["golden answers"] == 1
    assert told["values"]["golden exact match"] in (0.0, 1.0)
    assert [sample["expected"] for sample in told["samples"]] == ["7", "", ""]
    assert told["samples"][2]["prompt"] == (
        "system: Be short.\nuser: I am 安.\nRemember it.\nassistant: Hello.\nuser: Who am I?"
    )
    printed = out.getvalue()
    assert "golden exact match (1 of 3 prompts)" in printed
    assert printed.count("│ expected │") == 1 and "user: Who am I?" in printed
    assert max(cell_len(line) for line in printed.splitlines() if "│" in line) <= 80


def test_none_with_answers_has_no_score(write, golden, tmp_path):
    """Pairs are trained on; the prompts are of another format, and longer than a row that trains may be."""
    pairs = [{"instruction": str(i), "chosen": "yes", "rejected": "no"} for i in range(4)]
    given = ("stage=dpo", f"data.path={write('pairs.jsonl', pairs)}", "data.format=preference", golden(ASKED[2:]),
             "data.split.validation=none", *NAMED, *FEW[:3], "data.max_length=32")  # fmt: skip
    run_dir = train_run(tmp_path / "r", *given)
    told = json.loads((run_dir.samples / "dpo-after.json").read_text())
    assert told["values"] == {"golden prompts": 1} and len(told["samples"]) == 1
    assert not any("golden_exact_match" in line for line in run_dir.read_metrics())


def test_a_wrong_row_is_named_before_anything_is_loaded(write, golden):
    rows = [{"question": str(i)} for i in range(300)] + [{"ask": "4"}]
    given = (*alpaca(write("rows.jsonl", numbered(8))), golden(rows), *NAMED)
    with pytest.raises((DataError, NotReadyError)) as error:
        check(make_run(*given))
    assert "golden.jsonl, row 301: needs 'question'|" in str(error.value) and "data.golden.columns" in str(error.value)


def test_rows_without_answers_are_told_which_format_they_are(write, golden):
    given = (*alpaca(write("rows.jsonl", numbered(8))), golden([{"prompt": "3?"}]))
    with pytest.raises((DataError, NotReadyError)) as error:
        check(make_run(*given))
    assert "As data.golden.format=prompts it can be read (answers are optional)." in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "mistake"),
    [
        ("data.golden.format=prompts", "data.golden.format=prompts: describes the rows of data.split.golden=FILE"),
        (
            "data.split.golden=LICENSE data.golden.format=prompts data.golden.columns.promt=x",
            "data.golden.columns.promt=x: format prompts has no such column.",
        ),
        ("data.split.golden=LICENSE data.golden.format=text", "data.golden.format=text: text has no prompts"),
        (
            "stage=pt data=corpus data.split.golden=LICENSE data.golden.format=prompts",
            "data.golden.format=prompts: stage=pt has no chat template",
        ),
    ],
)
def test_what_golden_cannot_be(overrides, mistake):
    run = make_run(*overrides.split())
    with pytest.raises(ConfigError) as error:
        resolve(run.data, run.stage.name)
    assert str(error.value.mistakes[0]).startswith(mistake)
