"""What meets in a packed row, and in a batch, has met by chance: neither task nor length brings it together."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pytest

from ftlab.data.packing.best_fit import best_fit, pack_shuffled
from ftlab.stages.trainer.batching import rows_of_step
from tests.data.conftest import ROOT
from tests.data.helpers import options

TASKS = {
    "plural": "plural|more than one", "past": r"\bpast\b|yesterday", "capital": "capital",
    "sum": "plus|Add|Calculate", "opposite": "opposite", "backwards": "backwards|Reverse|back to front",
    "spell": "dashes|letters|Spell", "repeat": "times", "first": "first", "last": "last", "kind": "kind|group",
}  # fmt: skip


def task_of(row):
    (found, *_) = (task for task, words in TASKS.items() if re.search(words, f"{row['instruction']} {row['input']}"))
    return found


class Pairs:
    """Every two samples of one group, each way around. :param groups: lists of samples.

    :ivar same: share of pairs of one task. :ivar chance: that of all the samples there are.
    :ivar correlation: of the lengths of a pair.
    """

    def __init__(self, groups, tasks, lengths):
        a, b = np.array([pair for group in groups for pair in combinations(group, 2)]).T
        a, b = np.concatenate([a, b]), np.concatenate([b, a])
        tasks, lengths = np.asarray(tasks), np.asarray(lengths, dtype=float)
        counts = np.unique(tasks, return_counts=True)[1]
        self.same = float((tasks[a] == tasks[b]).mean())
        self.chance = float((counts * (counts - 1)).sum() / (len(tasks) * (len(tasks) - 1)))
        self.correlation = float(np.corrcoef(lengths[a], lengths[b])[0, 1])


def in_rows(prepared):
    """The samples of each packed row, and the length and the source row of every sample."""
    rows = prepared.train
    groups = [rows.view_indices(index).tolist() for index in range(len(rows))]
    views = range(rows.views)
    return groups, [len(rows.view(view).input_ids) for view in views], rows.kept[rows.units_of(np.array(views)), 2] - 1


def in_batches(groups, batch, seed=42):
    """The samples of each batch of one epoch, as a run draws its rows: of each row one, drawn."""
    draw = np.random.default_rng(0)
    one = [draw.choice(group) for group in groups]
    steps = -(-len(groups) // batch)
    return [[one[row] for row in rows_of_step(step, len(groups), batch, 1, 1, seed)[0]] for step in range(1, steps + 1)]


def check(pairs, share=0.03, length=0.1):
    assert abs(pairs.same - pairs.chance) < share, (pairs.same, pairs.chance)
    assert abs(pairs.correlation) < length


def test_shipped_instructions_share_a_row_and_a_batch_by_chance(bench):
    prepared = bench.prepare("stage=sft", "data=instructions")
    with (ROOT / "dataset" / "instructions" / "train.jsonl").open(encoding="utf-8") as file:
        tasks = np.array([task_of(json.loads(line)) for line in file])
    groups, lengths, source = in_rows(prepared)
    assert len(groups) < len(lengths) / 5
    check(Pairs(groups, tasks[source], lengths))
    check(Pairs(in_batches(groups, 8), tasks[source], lengths), share=0.05, length=0.15)


def sorted_by_task(write, make, tasks=8, each=100):
    """Rows in order of their tasks, those of each longer than those of the one before."""
    random = np.random.default_rng(0)
    rows = [make("x" * int(1 + task + random.integers(0, 2)), random) for task in range(tasks) for _ in range(each)]
    return write("rows.jsonl", rows), np.repeat(np.arange(tasks), each)


KINDS = {
    "sft": ("alpaca", lambda text, random: {"instruction": text, "output": str(random.integers(1000))}),
    "dpo": ("preference", lambda text, rng: {"prompt": text, "chosen": str(rng.integers(1000)), "rejected": "no"}),
    "kto": ("kto", lambda text, random: {"prompt": text, "completion": str(random.integers(1000)), "label": True}),
    "pt": ("text", lambda text, random: {"text": text * 3}),
}


@pytest.mark.parametrize(
    ("stage", "packing"), [*((stage, "true") for stage in KINDS), ("pt", "wrapped"), ("sft", "false"), ("dpo", "false")]
)
def test_a_file_in_order_of_its_tasks_is_no_order_of_rows_or_batches(bench, write, stage, packing):
    format_, make = KINDS[stage]
    path, tasks = sorted_by_task(write, make)
    length = 256 if stage == "pt" else 512
    prepared = bench.prepare(*options(
        format_, path, f"stage={stage}", f"data.packing={packing}", f"data.max_length={length}"
    ))  # fmt: skip
    groups, lengths, source = in_rows(prepared)
    if stage == "dpo":
        groups = [group[::2] for group in groups]  # a pair's answers belong together
    tasks = tasks[source]
    if packing != "false":
        assert all(len(group) > 5 for group in groups[:-3])
        check(Pairs(groups, tasks, lengths), share=0.04)
        check(Pairs(in_batches(groups, 8), tasks, lengths), share=0.15, length=0.3)  # few rows, few pairs
    else:
        check(Pairs(in_batches(groups, 8), tasks, lengths), share=0.04)


def test_a_row_that_is_used_again_seldom_meets_itself(bench, write):
    """Longest first, its eight uses, of one length, would stand side by side."""
    path = write("rows.jsonl", [{"instruction": "1", "output": "9" * length} for length in range(1, 41)])
    given = options("alpaca", path, "data.packing=true", "data.max_length=256", "data.num_samples=320")
    prepared = bench.prepare(*given)
    groups, _, source = in_rows(prepared)
    assert len(source) == 320
    again = sum(len(group) - len(set(source[group].tolist())) for group in groups)
    assert again < 0.15 * len(source)


# --- what the mixing costs -------------------------------------------------------------------------------------------


def lengths_of(kind, count):
    random = np.random.default_rng(count)
    if kind == "short chats":
        return np.clip(random.lognormal(4.5, 0.6, count).astype(np.int64), 8, 2048), 2048
    if kind == "a long tail":
        return np.clip(random.lognormal(5.5, 1.0, count).astype(np.int64), 8, 2048), 2048
    if kind == "tool calls":
        return np.clip(random.lognormal(6.8, 0.5, count).astype(np.int64), 300, 4096), 4096
    if kind == "tool calls that hardly fit":
        return np.clip(random.lognormal(6.8, 0.5, count).astype(np.int64), 300, 2048), 2048
    documents = random.lognormal(7, 1.5, count).astype(np.int64) + 8
    return np.concatenate([np.minimum(2048, n - np.arange(0, n, 2048)) for n in documents.tolist()]), 2048


@pytest.mark.parametrize("count", [300, 20_000])
@pytest.mark.parametrize(
    "kind", ["short chats", "a long tail", "tool calls", "tool calls that hardly fit", "chunks of documents"]
)
def test_mixed_rows_are_hardly_more_than_those_packed_longest_first(kind, count):
    lengths, capacity = lengths_of(kind, count)
    longest_first = int(best_fit(lengths, capacity, np.argsort(-lengths, kind="stable")).max()) + 1
    mixed = [int(pack_shuffled(lengths, capacity, seed).max()) + 1 for seed in range(3)]
    assert sum(mixed) / 3 <= 1.02 * longest_first + 1  # one row of a small set may be more than a fiftieth
