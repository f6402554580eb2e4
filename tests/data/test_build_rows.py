"""Which rows a split has: held out, drawn, repeated, mixed, said twice; and what of each is trained."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from ftlab.errors import ConfigError, DataError
from tests.data.helpers import alpaca, ask, numbered, options, row, rows_in, texts, train_ledger, turns


def numbers(rows):
    return rows.kept[:, 2].tolist()


def held_out(path, *overrides):
    return alpaca(path, "data.split.validation=auto", "data.split.fraction=0.25", *overrides)


# --- held out and drawn ----------------------------------------------------------------------------------------------


def test_a_fraction_of_the_rows_is_held_out(bench, write, check_prepared):
    path = write("rows.jsonl", numbered(40))
    prepared = bench.prepare(*held_out(path))
    train, validation = numbers(prepared.train), numbers(prepared.validation)
    assert (len(train), len(validation)) == (30, 10)
    assert sorted(train + validation) == list(range(1, 41))
    assert (train, validation) == (sorted(train), sorted(validation))
    assert validation != list(range(31, 41))
    check_prepared(prepared)
    assert [prepared.ledger.splits[split].rows_in for split in ("train", "validation")] == [30, 10]


def test_a_test_split_is_held_out_beside_it(bench, write, check_prepared):
    path = write("rows.jsonl", numbered(40))
    prepared = bench.prepare(*held_out(path, "data.split.test_fraction=0.1"))
    drawn = [numbers(prepared.rows[split]) for split in ("train", "validation", "test")]
    assert list(map(len, drawn)) == [27, 10, 3]
    assert sorted(chain(*drawn)) == list(range(1, 41))
    check_prepared(prepared)


def test_the_held_out_rows_follow_the_seed(bench, write):
    path = write("rows.jsonl", numbered(40))
    drawn = [numbers(bench.prepare(*held_out(path), f"seed={seed}").validation) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_rows_are_held_out_before_they_are_read_and_each_split_counts_its_own(bench, write, check_prepared):
    path = write("rows.jsonl", [one for good in numbered(8) for one in (good, row("1", ""))])
    prepared = bench.prepare(*held_out(path, "data.on_invalid=drop"))
    train, validation = rows_in(prepared), rows_in(prepared, "validation")
    assert (train["in"], validation["in"]) == (12, 4)
    assert train["kept"] + validation["kept"] == train["dropped"] + validation["dropped"] == 8
    named = [file for split in prepared.ledger.as_dict()["splits"].values()
             for file in split["dropped"]["column 'output' is empty"]["first"]]  # fmt: skip
    assert sorted(named) == sorted(f"{path}:{number}" for number in range(2, 17, 2))
    check_prepared(prepared)


@pytest.mark.parametrize("override", ["data.split.validation=none", "data.split.fraction=0"])
def test_nothing_is_held_out(bench, write, override):
    path = write("rows.jsonl", numbered(8))
    prepared = bench.prepare(*held_out(path, override))
    assert len(prepared.train) == 8
    assert prepared.validation is None


def test_a_validation_file_of_ones_own_leaves_train_whole(bench, write):
    path, validation = write("rows.jsonl", numbered(8)), write("other.jsonl", [row("1", "2")])
    prepared = bench.prepare(*held_out(path, f"data.split.validation={validation}"))
    assert (len(prepared.train), len(prepared.validation)) == (8, 1)
    assert prepared.ledger.as_dict()["files"] == {"train": [str(path)], "validation": [str(validation)]}


def test_max_samples_draws_rows_by_seed(bench, write, check_prepared):
    path = write("rows.jsonl", numbered(40))
    drawn = [numbers(bench.prepare(*alpaca(path, "data.max_samples=10"), f"seed={seed}").train) for seed in (1, 1, 2)]
    assert len(set(drawn[0])) == 10
    assert drawn[0] == sorted(drawn[0]) == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] != list(range(1, 11))
    prepared = bench.prepare(*alpaca(path, "data.max_samples=10"))
    assert rows_in(prepared) == {"in": 40, "kept": 10, "dropped": 30}
    reason = "left out by data.max_samples or num_samples"
    assert train_ledger(prepared)["dropped"] == {reason: {"rows": 30, "first": []}}
    check_prepared(prepared)


def test_rows_that_are_not_drawn_are_not_looked_at(bench, write):
    """A malformed row stops the run only if it is one of those that were drawn."""
    path = write("rows.jsonl", [row("1", ""), *numbered(9)])
    stopped = 0
    for seed in range(1, 9):
        try:
            prepared = bench.prepare(*alpaca(path, "data.max_samples=4"), f"seed={seed}")
            assert 1 not in numbers(prepared.train)
        except DataError as error:
            assert f"{path}, row 1: column 'output' is empty." in str(error)
            stopped += 1
    assert 0 < stopped < 8


def test_max_samples_beyond_the_rows_takes_all(bench, write):
    path = write("rows.jsonl", numbered(5))
    assert numbers(bench.prepare(*alpaca(path, "data.max_samples=6")).train) == [1, 2, 3, 4, 5]


def test_the_same_config_prepares_the_same(bench, write, same_rows):
    path = write("rows.jsonl", numbered(30))
    overrides = held_out(path, "data.packing=true", "data.max_samples=20")
    first, second = bench.prepare(*overrides), bench.prepare(*overrides)
    assert first.rows.keys() == second.rows.keys() == {"train", "validation"}
    for split, rows in first.rows.items():
        same_rows(rows, second.rows[split])
    assert first.ledger.as_dict() == second.ledger.as_dict()


# --- repeated --------------------------------------------------------------------------------------------------------


def test_num_samples_takes_every_row_as_often_or_once_more(bench, write, samples_of, check_prepared):
    path = write("rows.jsonl", numbered(5))
    prepared = bench.prepare(*alpaca(path, "data.num_samples=12"))
    uses = Counter(bench.decode(sample.input_ids) for sample in samples_of(prepared.train))
    assert sorted(uses.values()) == [2, 2, 2, 3, 3]
    once = bench.prepare(*alpaca(path)).ledger.splits["train"].tokens_in
    counts = train_ledger(prepared)
    assert counts["rows"] == {"in": 5, "kept": 5, "dropped": 0, "truncated": 0, "duplicates": 0, "repeated": 7}
    assert counts["tokens"]["in"] == once // 5 * 12
    check_prepared(prepared)


def test_num_samples_draws_where_there_are_enough(bench, write, check_prepared):
    path = write("rows.jsonl", numbered(30))
    prepared = bench.prepare(*alpaca(path, "data.num_samples=10"))
    assert rows_in(prepared) == {"in": 30, "kept": 10, "dropped": 20}
    assert len(set(numbers(prepared.train))) == 10
    check_prepared(prepared)


def test_rows_that_are_held_out_of_a_draw_are_not_made_up_for(bench, write, check_prepared):
    path = write("rows.jsonl", numbered(30))
    prepared = bench.prepare(*held_out(path, "data.num_samples=20"))
    assert rows_in(prepared) == {"in": 25, "kept": 15, "dropped": 10}
    assert rows_in(prepared, "validation") == {"in": 5, "kept": 5}
    check_prepared(prepared)


def test_rows_are_repeated_to_train_on_and_not_to_validate(bench, write, check_prepared):
    path = write("rows.jsonl", numbered(8))
    prepared = bench.prepare(*held_out(path, "data.num_samples=20"))
    assert rows_in(prepared) == {"in": 6, "kept": 6, "repeated": 14}
    assert rows_in(prepared, "validation") == {"in": 2, "kept": 2}
    check_prepared(prepared)


def test_malformed_rows_are_not_repeated(bench, write, samples_of, check_prepared):
    path = write("rows.jsonl", [row("1", ""), *numbered(3)])
    prepared = bench.prepare(*alpaca(path, "data.num_samples=6", "data.on_invalid=drop"))
    assert len(samples_of(prepared.train)) == 6
    assert rows_in(prepared) == {"in": 4, "kept": 3, "dropped": 1, "repeated": 3}
    check_prepared(prepared)


# --- said twice ------------------------------------------------------------------------------------------------------


def test_duplicates_are_counted_and_named_and_stay(bench, write, check_prepared):
    rows = [row("1", "2"), row("3", "4"), row("1", "2"), row("1", "3"), row("1", "2"), {**row("3", "4"), "system": "5"}]
    path = write("rows.jsonl", rows)
    counts = train_ledger(bench.prepare(*alpaca(path)))
    assert counts["duplicates"] == {"rows": 2, "first": [f"{path}:3", f"{path}:5"]}
    assert counts["rows"]["duplicates"] == 2 and counts["rows"]["kept"] == 6
    many = train_ledger(bench.prepare(*alpaca(write("many.jsonl", [row("1", "2")] * 30))))
    assert (many["duplicates"]["rows"], len(many["duplicates"]["first"])) == (29, 20)


@pytest.mark.parametrize(
    ("format_", "stage", "rows", "again"),
    [
        ("kto", "kto", [{"prompt": "1", "completion": "2", "label": label} for label in (True, False, True)], [3]),
        ("preference", "dpo", [{"prompt": "1", "chosen": a, "rejected": b} for a, b in ("23", "32", "23")], [3]),
        ("prompts", "grpo", [{"prompt": "1", "answer": answer} for answer in ("2", "3", "2")], [3]),
        ("text", "pt", [{"text": text} for text in ("1", "2", "1", "1 ")], [3]),
    ],
)
def test_a_duplicate_says_the_same_in_all_that_counts(bench, write, format_, stage, rows, again):
    path = write("rows.jsonl", rows)
    counts = train_ledger(bench.prepare(*options(format_, path, f"stage={stage}")))
    assert counts["duplicates"]["first"] == [f"{path}:{number}" for number in again]


# --- ids of rows -----------------------------------------------------------------------------------------------------

TWICE = [{**row("1", "2"), "id": "a"}, {**row("3", "4"), "id": 7}, row("5", "6"), {**row("7", "8"), "id": "a"},
         {**row("9", "0"), "id": 7}, {**row("1", "1"), "id": ""}]  # fmt: skip


def test_an_id_that_an_earlier_row_has_stops_the_run(bench, write):
    path = write("rows.jsonl", TWICE)
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path))
    assert str(caught.value) == (
        f"{path}, row 4: has the id of an earlier row ('a').\n{path}, row 5: has the id of an earlier row ('7').\n"
        "2 of 6 rows cannot be used.\nGive every row its own id, name another column with "
        "data.columns.id, or say data.columns.id=null if the column is no id; data.on_invalid=drop leaves such rows "
        "out."
    )


def test_rows_with_the_id_of_an_earlier_one_are_left_out(bench, write, samples_of, check_prepared):
    path = write("rows.jsonl", TWICE)
    prepared = bench.prepare(*alpaca(path, "data.on_invalid=drop"))
    assert [bench.trained(sample)[0] for sample in samples_of(prepared.train)] == ["2", "4", "6", "1"]
    counts = train_ledger(prepared)
    assert counts["dropped"] == {"has the id of an earlier row": {"rows": 2, "first": [f"{path}:4", f"{path}:5"]}}
    assert counts["tokens"]["cut"] == 2 * len(bench.encode(ask("1", "2")).input_ids)
    check_prepared(prepared)


@pytest.mark.parametrize("override", ["data.columns.id=null", "data.columns={id: null}", "data.columns={id: other}"])
def test_a_column_that_is_no_id(bench, write, override):
    path = write("rows.jsonl", TWICE)
    assert rows_in(bench.prepare(*alpaca(path), override)) == {"in": 6, "kept": 6}


def test_another_column_for_the_id_and_pairs_that_share_one(bench, write, samples_of, check_prepared):
    keys = (("1", "a"), ("2", "b"), ("3", "a"))
    rows = [{"prompt": n, "chosen": "2", "rejected": "3", "key": key} for n, key in keys]
    path = write("rows.jsonl", rows)
    overrides = options("preference", path, "stage=dpo", "data.on_invalid=drop")
    prepared = bench.prepare(*overrides, "data.columns={id: key}")
    assert [bench.decode(sample.input_ids)[17] for sample in samples_of(prepared.train)] == ["1", "1", "2", "2"]
    assert rows_in(prepared) == {"in": 3, "kept": 2, "dropped": 1}
    check_prepared(prepared)


# --- what is trained -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_on", "trained"),
    [
        ("assistant", "2<|im_end|>4<|im_end|>"),
        ("by_message", "2<|im_end|>4<|im_end|>"),
        ("last", "4<|im_end|>"),
        (
            "all",
            "user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
            "<|im_start|>user\n3<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n",
        ),
    ],
)
def test_train_on(bench, write, samples_of, train_on, trained):
    path = write("rows.json", [{"instruction": "3", "output": "4", "history": [["1", "2"]]}])
    samples = samples_of(bench.prepare(*alpaca(path, f"data.train_on={train_on}")).train)
    assert [bench.trained(sample) for sample in samples] == [trained]


WEIGHED = [{**message, **more} for message, more in zip(
    turns("1", "2", "3", "4", "5", "6"), [{}, {"weight": 0}, {}, {}, {}, {"train": True}])]  # fmt: skip


@pytest.mark.parametrize(
    ("train_on", "trained"),
    [
        ("by_message", "4<|im_end|>6<|im_end|>"),
        ("assistant", "2<|im_end|>4<|im_end|>6<|im_end|>"),
        ("last", "6<|im_end|>"),
    ],
)
def test_the_weight_of_a_message_counts_where_it_is_asked_for(bench, write, samples_of, train_on, trained):
    path = write("rows.jsonl", [{"messages": WEIGHED}])
    prepared = bench.prepare(*options("messages", path, f"data.train_on={train_on}"))
    assert [bench.trained(sample) for sample in samples_of(prepared.train)] == [trained]


def test_a_row_of_which_nothing_is_trained_is_dropped(bench, write, check_prepared):
    nothing = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in ask("1", "2")]
    path = write("rows.jsonl", [{"messages": nothing}, {"messages": ask("3", "4")}])
    prepared = bench.prepare(*options("messages", path, "data.train_on=by_message"))
    assert train_ledger(prepared)["dropped"] == {"nothing to learn from": {"rows": 1, "first": [f"{path}:1"]}}
    assert train_ledger(prepared)["tokens"]["cut"] == len(bench.encode(ask("1", "2")).input_ids)
    check_prepared(prepared)


# --- pairs and labels ------------------------------------------------------------------------------------------------


def test_chosen_and_rejected_stand_side_by_side_and_train_their_answers(bench, write, check_prepared):
    rows = [{"prompt": turns("1", "2", str(n)), "chosen": "4" * n, "rejected": "5"} for n in range(1, 9)]
    path = write("rows.jsonl", rows)
    prepared = bench.prepare(*options("preference", path, "stage=dpo", "data.packing=true"))
    assert len(prepared.train) < 8
    seen = []
    for one in prepared.train:
        trained = [bench.trained(sample) for sample in one.samples]
        assert all(a == "4" * (len(a) - 10) + "<|im_end|>" for a in trained[::2])
        assert set(trained[1::2]) == {"5<|im_end|>"}
        seen += [len(a) - 10 for a in trained[::2]]
        assert one.length <= 2 * 64
    assert sorted(seen) == list(range(1, 9))
    assert train_ledger(prepared)["packing"]["tokens_per_row"] == 128
    check_prepared(prepared)


def test_what_a_pair_begins_with_alike_is_known_of_the_rejected_answer(bench, write):
    """The prompt with its header and earlier answers, up to the first token that either learns; of rows that come again
    (num_samples) too."""
    earlier = [*ask("6", "7"), *ask("8", "9")]
    rows = [
        {"prompt": "123", "chosen": "45", "rejected": "46"},
        {"prompt": turns("1", "2", "3"), "chosen": "4", "rejected": "5"},
        {"messages": earlier[:3], "chosen": earlier[3], "rejected": ask("8", "0")[1]},
    ]
    path = write("rows.jsonl", rows)
    found = bench.prepare(*options("preference", path, "stage=dpo", "data.num_samples=5")).train
    assert found.shared()[::2].tolist() == [0] * 5
    prompts = {0: ask("123", "45"), 1: turns("1", "2", "3", "4"), 2: earlier}
    for view in range(1, 10, 2):
        pair, shared = [found.view(view - 1), found.view(view)], int(found.shared()[view])
        alone = bench.encode(prompts[int(found.units_of(np.array([view]))[0])])
        learned = np.flatnonzero(alone.learned)
        last_answer = learned[np.flatnonzero(np.diff(learned, prepend=-2) > 1)[-1]]  # where it begins
        assert shared == last_answer == min(one.learned.argmax() for one in pair)
        assert len({tuple(one.input_ids[:shared].tolist()) for one in pair}) == 1


def test_labels_are_kept_beside_the_rows(bench, write, tmp_path):
    rows = [{"prompt": str(n), "completion": "2", "label": n % 3 == 0} for n in range(6)]
    path = write("rows.jsonl", [*rows[:3], {"prompt": "1", "completion": "2", "label": "maybe"}, *rows[3:]])
    cache = tmp_path / "cache"
    bench.prepare(*options("kto", path, "stage=kto", f"data.cache={cache}", "data.on_invalid=drop"))
    [labels] = cache.glob("data/*/train/label.npy")
    assert np.load(labels).tolist() == [1, 0, 0, 1, 0, 0]


# --- wrapped ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [True, False])
def test_wrapped_texts_fill_their_rows(bench, write, check_prepared, reset):
    from ftlab.data.packing.collate import PackedCollator

    path = write("texts.jsonl", [{"text": "0123"}, {"text": "9" * 14}, {"text": "5"}])
    overrides = texts(path, "data.packing=wrapped", "data.max_length=8", f"data.reset_positions={reset}")
    prepared = bench.prepare(*overrides)
    end = bench.tokenizer.eos_token
    said = ["0123", "9" * 14, "5"] if not reset else ["5", "9" * 14, "0123"]  # mixed where they do not see each other
    stream = "".join(f"{text}{end}" for text in said)
    assert [one.length for one in prepared.train] == [8, 8, 6]
    assert "".join(bench.decode(s.input_ids) for one in prepared.train for s in one.samples) == stream
    batch = PackedCollator(pad_id=0)(list(prepared.train))
    positions = batch["position_ids"].tolist()
    tokens = train_ledger(prepared)["tokens"]
    if reset:
        assert [len(one.samples) for one in prepared.train] == [2, 1, 2]
        assert positions == [[0, 1, 0, 1, 2, 3, 4, 5], list(range(8)), [0, 0, 1, 2, 3, 4, 0, 0]]
        assert (tokens["trained"], tokens["masked"]) == (17, 5)
    else:
        assert [len(one.samples) for one in prepared.train] == [1, 1, 1]
        assert positions == [list(range(8)), list(range(8)), [*range(6), 0, 0]]
        assert (tokens["trained"], tokens["masked"]) == (19, 3)
    assert (tokens["in"], tokens["cut"], tokens["repeated"], tokens["padded"]) == (22, 0, 0, 2)
    check_prepared(prepared)


def test_wrapped_is_for_texts():
    from tests.runs import make_run

    with pytest.raises(ConfigError, match="cuts texts anywhere; stage=sft needs true or false"):
        make_run("stage=sft", "data.packing=wrapped")
    with pytest.raises(ConfigError, match="wrapped rows follow each other without overlap; use 0"):
        make_run("stage=pt", "data.packing=wrapped", "data.overlap=4")
