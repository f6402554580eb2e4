"""Several sets in one run, and what a run says of the sets it is given."""

from __future__ import annotations

import pytest

from ftlab.data.packing.store import IGNORE
from ftlab.errors import ConfigError, DataError
from tests.data.helpers import alpaca, ask, numbered, row, rows_in, train_ledger


def trained(bench, rows):
    return [bench.trained(sample) for one in rows for sample in one.samples]


# --- several sets ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sets(write):
    """Sets a of 5 rows, b of 2 and c of none that is good."""
    for name, rows in (("a", numbered(5)), ("b", [row("b1", "7"), row("b2", "7")]), ("c", [row("1", "")])):
        write(f"{name}.jsonl", rows)
    registry = write("sets.yaml", "".join(f"{n}: {{format: alpaca, files: {{train: {n}.jsonl}}}}\n" for n in "abc"))

    def overrides(names, *more):
        return [f"data.name=[{names}]", f"data.registry={registry}", "data.split.validation=none", "data.packing=false",
                "data.max_length=64", *more]  # fmt: skip

    return overrides


def questions(bench, rows):
    return [bench.decode(one.samples[0].input_ids).partition("user\n")[2].partition("<|im_end|>")[0] for one in rows]


def test_sets_stand_one_after_the_other(bench, sets, check_prepared):
    prepared = bench.prepare(*sets("a,b"))
    assert questions(bench, prepared.train) == ["0", "1", "2", "3", "4", "b1", "b2"]
    assert prepared.ledger.source == "a + b"
    assert prepared.train.kept[:, 0].tolist() == [0] * 5 + [1] * 2
    check_prepared(prepared)


def test_until_the_first_is_used_up_rows_are_left_out(bench, sets, check_prepared, tmp_path):
    prepared = bench.prepare(*sets("a,b", "data.mix=interleave_under"))
    assert questions(bench, prepared.train) == ["0", "b1", "1", "b2"]
    counts = train_ledger(prepared)
    reason = "left out by data.mix=interleave_under"
    assert counts["dropped"] == {reason: {"rows": 3, "first": [f"{tmp_path}/a.jsonl:{n}" for n in (3, 4, 5)]}}
    one = len(bench.encode(ask("1", "9")).input_ids)
    assert counts["tokens"]["cut"] == 3 * one
    check_prepared(prepared)


def test_until_the_last_is_used_up_rows_come_again(bench, sets, check_prepared):
    prepared = bench.prepare(*sets("a,b", "data.mix=interleave_over"))
    assert questions(bench, prepared.train) == ["0", "b1", "1", "b2", "2", "b1", "3", "b2", "4", "b1"]
    assert rows_in(prepared) == {"in": 7, "kept": 7, "repeated": 3}
    check_prepared(prepared)


@pytest.mark.parametrize("mix", ["interleave_under", "interleave_over"])
def test_by_probabilities_and_seed(bench, sets, check_prepared, mix):
    overrides = sets("a,b", f"data.mix={mix}", "data.probabilities=[0.5,0.5]")
    found = [questions(bench, bench.prepare(*overrides, f"seed={seed}").train) for seed in (1, 1, 2, 3, 4)]
    assert found[0] == found[1]
    assert len({tuple(one) for one in found}) > 1
    for one in found:
        of_a = [question for question in one if question[0] != "b"]
        assert of_a == [str(i % 5) for i in range(len(of_a))], "the order within a set is kept"
    check_prepared(bench.prepare(*overrides))


@pytest.mark.parametrize("mix", ["concat", "interleave_under", "interleave_over"])
def test_a_set_that_loses_all_its_rows_leaves_the_others(bench, sets, check_prepared, mix):
    prepared = bench.prepare(*sets("a,c,b", f"data.mix={mix}", "data.on_invalid=drop"))
    alone = bench.prepare(*sets("a,b", f"data.mix={mix}"))
    assert questions(bench, prepared.train) == questions(bench, alone.train)
    assert train_ledger(prepared)["dropped"]["column 'output' is empty"]["rows"] == 1
    check_prepared(prepared)


def test_what_a_mix_leaves_out_is_in_no_other_count(bench, sets, write, check_prepared):
    """Rows that are cut or said twice, but left out, are rows left out and nothing else."""
    write("a.jsonl", [row("1", "2"), row("3", "4"), row("5", "6" * 100), row("1", "2")])
    prepared = bench.prepare(*sets("a,b", "data.mix=interleave_under"))
    assert rows_in(prepared) == {"in": 6, "kept": 4, "dropped": 2}
    assert train_ledger(prepared)["duplicates"] == {"rows": 0, "first": []}
    assert train_ledger(prepared)["lengths"]["p100"] < 64
    check_prepared(prepared)


def test_each_set_is_repeated_by_itself(bench, sets, write, check_prepared):
    prepared = bench.prepare(*sets("a,b", "data.num_samples=4"))
    found = questions(bench, prepared.train)
    assert found[4:] == ["b1", "b2", "b1", "b2"] and len(set(found[:4])) == 4
    assert rows_in(prepared) == {"in": 7, "kept": 6, "dropped": 1, "repeated": 2}
    check_prepared(prepared)


def test_sets_of_their_own_formats(bench, write, check_prepared):
    write("a.jsonl", numbered(2))
    write("m.jsonl", [{"messages": ask("m", "7")}])
    registry = write("sets.yaml", "a: {format: alpaca, files: {train: a.jsonl}}\n"
                     "m: {format: messages, files: {train: m.jsonl}}\n")  # fmt: skip
    overrides = [f"data.registry={registry}", "data.name=[a,m]", "data.split.validation=none", "data.packing=false"]
    prepared = bench.prepare(*overrides)
    assert questions(bench, prepared.train) == ["0", "1", "m"]
    check_prepared(prepared)


# --- which sets ------------------------------------------------------------------------------------------------------


def test_a_registry_of_ones_own_with_its_columns(bench, write):
    write("faq.jsonl", [{"question": "1", "reply": "2", "better": "3"}])
    registry = write(
        "sets.yaml",
        "faq:\n  format: alpaca\n  files: {train: faq.jsonl}\n  columns: {instruction: question, output: reply}\n",
    )
    overrides = ["data.name=faq", f"data.registry={registry}", "data.split.validation=none"]
    assert trained(bench, bench.prepare(*overrides).train) == ["2<|im_end|>"]
    overrides.append("data.columns={output: better}")
    assert trained(bench, bench.prepare(*overrides).train) == ["3<|im_end|>"]


def test_columns_from_the_command_line(bench, write):
    path = write("faq.jsonl", [{"question": "1", "reply": "2"}])
    columns = "data.columns={instruction: question, output: reply}"
    assert trained(bench, bench.prepare(*alpaca(path, columns)).train) == ["2<|im_end|>"]


def test_a_column_that_the_format_does_not_know(bench, write):
    path = write("faq.jsonl", [{**row("1", "2"), "context": "3"}])
    with pytest.raises(ConfigError) as caught:
        bench.parts(*alpaca(path, "data.columns={inptu: context}"))
    assert (
        "data.columns.inptu=context: format alpaca has no such column. Known: instruction, input, output, system, "
        "history, tools, id. Did you mean input?" in str(caught.value)
    )


def test_a_format_that_nobody_knows(bench, write):
    path = write("rows.jsonl", numbered(2))
    with pytest.raises(ConfigError) as caught:
        bench.parts(*alpaca(path, "data.format=alpacca"))
    assert "data.format" in str(caught.value) and "alpacca" in str(caught.value)
    assert "prompt_completion" in str(caught.value), "the known ones are named"


def test_a_name_that_is_not_registered(bench, write):
    registry = write("sets.yaml", "faq: {format: alpaca, files: {train: faq.jsonl}}\n")
    with pytest.raises(ConfigError) as caught:
        bench.parts("data.name=fap", f"data.registry={registry}")
    assert f"data.name=fap: not in the registry {registry}. Known: faq. Did you mean faq?" in str(caught.value)


def test_a_registry_that_is_not_there(bench, tmp_path):
    with pytest.raises(DataError) as caught:
        bench.parts("data.name=faq", f"data.registry={tmp_path}/sets.yaml")
    assert str(caught.value) == f"data.registry={tmp_path}/sets.yaml: no such file."


def test_a_missing_file_says_what_makes_it(bench, write, tmp_path):
    registry = write("sets.yaml", "faq: {format: alpaca, files: {train: faq.jsonl}, make: python make_faq.py}\n")
    with pytest.raises(DataError) as caught:
        bench.parts("data.name=faq", f"data.registry={registry}")
    assert str(caught.value) == (
        f"data faq, train: {tmp_path}/faq.jsonl does not exist. Make it with: python make_faq.py"
    )


def test_a_missing_file_of_ones_own(bench, tmp_path):
    with pytest.raises(DataError) as caught:
        bench.parts(*alpaca(tmp_path / "rows.json"))
    assert str(caught.value) == (
        f"data.path: {tmp_path}/rows.json does not exist. Relative paths start from the current folder."
    )


def test_an_empty_file(bench, write):
    path = write("rows.json", "")
    with pytest.raises(DataError) as caught:
        bench.parts(*alpaca(path))
    assert str(caught.value) == f"data.path: {path} is empty."


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["stage=sft", "data.name=preferences"],
            "data.name=preferences: has preference rows, and stage=sft trains on conversations, or instructions with "
            "their answers (data.format=alpaca or sharegpt or messages or instruction or prompt_completion); ",
        ),
        (
            ["stage=pt", "data.name=instructions"],
            "data.name=instructions: has alpaca rows, and stage=pt trains on plain text (data.format=text); ",
        ),
    ],
)
def test_rows_that_the_stage_cannot_train_on(bench, overrides, reason):
    with pytest.raises(ConfigError) as caught:
        bench.parts(*overrides)
    assert reason in str(caught.value)
    shipped = str(caught.value).partition(" to be chosen with data=NAME: ")[2].partition(".")[0].split(", ")
    expected = {"stage=sft": "instructions", "stage=pt": "phase1_foundation"}[overrides[0]]
    assert expected in shipped
    assert overrides[1].removeprefix("data.name=") not in shipped


def test_the_shipped_instructions_need_no_config(bench, check_prepared):
    prepared = bench.prepare()
    assert set(prepared.ledger.splits) == {"train", "validation", "golden"}
    check_prepared(prepared)
    assert all(split.rows_kept == split.rows_in > 0 for split in prepared.ledger.splits.values())
    first = prepared.train[0].samples[0]
    assert bench.trained(first).endswith("<|im_end|>")
    assert first.labels[0] == IGNORE
