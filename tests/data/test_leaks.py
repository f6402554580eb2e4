"""Rows of train that other splits have as well: kept out of what is held out, and told wherever they come from."""

from __future__ import annotations

import json
import random

import pytest

from ftlab.data.duplicates import keep_groups_whole
from ftlab.data.ledger.table import ledger_lines
from tests.data.helpers import alpaca, numbered, options, row, texts, turns

HOLD = ("data.split.validation=auto", "data.split.fraction=0.25")


def lines(prepared) -> str:
    return "\n".join(str(line) for line in ledger_lines(prepared.ledger, False, None))


def in_train(prepared, split: str) -> dict:
    return prepared.ledger.as_dict()["splits"][split]["in_train"]


def questions(bench, prepared, split: str) -> list[str]:
    return [bench.tokenizer.decode(s.input_ids) for packed in prepared.rows[split] for s in packed.samples]


@pytest.mark.parametrize("cache", ["null", "FOLDER"])
def test_duplicates_are_held_out_together(cache, bench, write, tmp_path):
    given = [row(str(i), "9") for i in range(40)] + [{**row(str(i), "9"), "id": f"again {i}"} for i in range(40)]
    path = write("rows.jsonl", given)
    overrides = alpaca(path, f"data.cache={cache.replace('FOLDER', str(tmp_path / 'cache'))}", *HOLD)
    for _ in range(2):
        prepared = bench.prepare(*overrides)
        train, held = (questions(bench, prepared, split) for split in ("train", "validation"))
        assert len(train) + len(held) == 80 and 15 <= len(held) <= 20
        assert not set(train) & set(held)
        assert in_train(prepared, "validation") == {"rows": 0, "prompts": 0, "first": []}
        assert "also in train" not in lines(prepared)


def test_without_duplicates_the_same_rows_are_held_out_as_before(bench, write):
    """As drawn by the seed alone: a split that was made before duplicates were kept together is still the same."""
    prepared = bench.prepare(*alpaca(write("rows.jsonl", numbered(40)), *HOLD, "seed=3"))
    kept = sorted(prepared.rows["validation"].kept[:, 1].tolist())
    assert kept == [0, 3, 5, 6, 12, 17, 19, 26, 34, 35]


def test_a_group_larger_than_the_share_stays_in_train(bench, write):
    path = write("rows.jsonl", [row("0", "9")] * 30 + numbered(11)[1:])
    prepared = bench.prepare(*alpaca(path, *HOLD))
    held = questions(bench, prepared, "validation")
    assert held and not any("user\n0" in text for text in held)


def test_where_all_rows_are_one_it_is_told(bench, write):
    prepared = bench.prepare(*alpaca(write("rows.jsonl", [row("0", "9")] * 8), *HOLD))
    assert in_train(prepared, "validation")["rows"] == 2
    assert "validation: 2 of 2 validation rows are also in train, first" in lines(prepared)


def test_the_same_file_as_train_validation_and_golden_is_told(bench, write):
    path = write("rows.jsonl", numbered(6))
    prepared = bench.prepare(*alpaca(path, f"data.split.validation={path}", f"data.split.golden={path}"))
    for split in ("validation", "golden"):
        assert in_train(prepared, split) == {"rows": 6, "prompts": 0, "first": [f"{path}:{i}" for i in range(1, 7)]}
        assert f"{split}: 6 of 6 {split} rows are also in train, first {path}:1" in lines(prepared)


def test_rows_are_compared_across_formats_of_files(bench, write, tmp_path):
    train = write("rows.jsonl", numbered(4))
    golden = tmp_path / "golden.csv"
    golden.write_text("instruction,output,note\n1,9,x\n2,8,y\n77,9,z\n")
    prepared = bench.prepare(*alpaca(train, f"data.split.golden={golden}"))
    assert in_train(prepared, "golden") == {"rows": 1, "prompts": 1, "first": [f"{golden}:2"]}
    told = lines(prepared)
    assert "golden: 1 of 3 golden rows are also in train" in told
    assert "golden: the prompts of 1 of 3 golden rows are in train, in other rows" in told


KINDS = {
    "dpo": ("preference", "stage=dpo", {"prompt": "1", "chosen": "2", "rejected": "3"}, {"chosen": "4"}),
    "kto": ("kto", "stage=kto", {"prompt": "1", "completion": "2", "label": True}, {"label": False}),
    "grpo": ("prompt_completion", "stage=sft", {"prompt": "1", "completion": "2"}, {"completion": "3"}),
    "sft": ("messages", "stage=sft", {"messages": turns("1", "2", "3", "4")}, {"messages": turns("1", "2", "3", "5")}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_row_is_compared(kind, bench, write):
    format_, stage, first, change = KINDS[kind]
    train = write("train.jsonl", [first, {**first, **change}])
    other = write("other.jsonl", [first])
    prepared = bench.prepare(*options(format_, train, stage, f"data.split.validation={other}"))
    assert in_train(prepared, "validation")["rows"] == 1
    changed = write("changed.jsonl", [{**first, **change}])
    only = write("only.jsonl", [first])
    prepared = bench.prepare(*options(format_, only, stage, f"data.split.validation={changed}"))
    assert in_train(prepared, "validation") == {"rows": 0, "prompts": 1, "first": []}


def test_texts_are_compared_whole(bench, write):
    train = write("train.jsonl", [{"text": "0123"}, {"text": "456"}])
    other = write("other.jsonl", [{"text": "456"}, {"text": "4567"}])
    prepared = bench.prepare(*texts(train, f"data.split.validation={other}"))
    assert in_train(prepared, "validation") == {"rows": 1, "prompts": 0, "first": [f"{other}:1"]}


def test_groups_are_kept_whole_and_no_larger_than_what_was_drawn():
    import numpy as np

    hashes = np.array([1, 2, 3, 3, 4, 5, 5, 5, 6, 7], dtype=np.uint64)
    draw = random.Random(0)
    assert sorted(keep_groups_whole([0, 2, 8], hashes, draw)) == [0, 2, 3]
    assert sorted(keep_groups_whole([5, 9], hashes, draw)) == [9]
    assert sorted(keep_groups_whole([9, 0], np.arange(10, dtype=np.uint64), draw)) == [0, 9]
    (alone,) = keep_groups_whole([5], hashes, draw)
    assert alone in (0, 1, 4, 8, 9), "one that has no duplicate"


def test_where_only_large_groups_were_drawn_what_is_held_out_instead_is_drawn_by_seed(bench, write):
    path = write("rows.jsonl", [*(row(str(i), "9") for i in range(20)), *[row("again", "9")] * 180])
    few = ("data.split.validation=auto", "data.split.fraction=0.01")

    def held(seed):
        return bench.prepare(*alpaca(path, *few, f"seed={seed}")).rows["validation"].kept[:, 1].tolist()

    drawn = [held(seed) for seed in range(1, 7)]
    assert all(1 <= len(rows) <= 2 and max(rows) < 20 for rows in drawn), "rows that have no duplicate"
    assert len({tuple(rows) for rows in drawn}) > 3
    assert held(1) == drawn[0]


def test_the_ledger_of_a_run_says_it(bench, write):
    path = write("rows.jsonl", numbered(3))
    prepared = bench.prepare(*alpaca(path, f"data.split.golden={path}"))
    assert json.loads(json.dumps(prepared.ledger.as_dict()))["splits"]["golden"]["in_train"]["rows"] == 3
    assert "in_train" not in prepared.ledger.as_dict()["splits"]["train"]
