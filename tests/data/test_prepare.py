"""From a config to packed rows: every row and token accounted for, and every refusal in words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.encode import IGNORE
from ftlab.errors import ConfigError, DataError

MEND = "\nMend the row, name your columns with data.columns, or leave such rows out with data.on_invalid=drop."


def alpaca(path, *overrides):
    """Rows of one file, each a packed row of its own, in their order, none held out, unless the overrides differ."""
    chosen = {"data.path": path, "data.format": "alpaca", "data.split.validation": "none", "data.packing": "false",
              "data.max_length": 64}  # fmt: skip
    chosen |= dict(override.split("=", 1) for override in overrides)
    return [f"{key}={value}" for key, value in chosen.items()]


def row(question, answer):
    return {"instruction": question, "output": answer}


def numbered(count):
    return [row(str(number), "9") for number in range(count)]


def encoded(samples):
    return [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in samples]


def ask(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# --- the ledger --------------------------------------------------------------------------------------------------

good = st.tuples(st.text("0123456789", min_size=1, max_size=8), st.text("0123456789", min_size=1, max_size=8))
MALFORMED = {
    '{"instruction": "1"}': "has no column 'output'; it has 'instruction'",
    '{"instruction": "1", "output": ""}': "column 'output' is empty",
    '{"instruction": 1, "output": "2"}': "column 'instruction' must be a string, not int",
    '["1", "2"]': "is not an object with columns",
    '{"instruction": "1", "out': "not JSON: Unterminated string starting at in column 22",
}
LONG_ANSWER, LONG_QUESTION = ("1", "2" * 100), ("1" * 100, "2")
lines_of = st.lists(
    st.one_of(
        st.tuples(st.just("good"), good),
        st.tuples(st.just("malformed"), st.sampled_from(sorted(MALFORMED))),
        st.just(("long answer", LONG_ANSWER)),
        st.just(("long question", LONG_QUESTION)),
    ),
    max_size=12,
)


@pytest.mark.parametrize(("truncation", "packing"), [("right", "true"), ("right", "false"), ("drop", "true")])
def test_every_row_and_token_is_accounted_for(bench, tmp_path_factory, check_ledger, samples_of, truncation, packing):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    overrides = alpaca(path, "data.on_invalid=drop", f"data.truncation={truncation}", f"data.packing={packing}")

    @settings(max_examples=30, deadline=None)
    @given(lines_of)
    def check(lines):
        lines = [*lines, ("good", ("1", "2"))]
        text = [line if kind == "malformed" else json.dumps(row(*line)) for kind, line in lines]
        path.write_text("\n".join(text))
        prepared = bench.prepare(*overrides)
        ledger = prepared.ledger.splits["train"]
        samples = samples_of(prepared.train)
        check_ledger(ledger, samples)

        expected = {}
        for number, (kind, line) in enumerate(lines, 1):
            reason = MALFORMED.get(line) if kind == "malformed" else None
            if kind == "long question":
                reason = "nothing to learn within data.max_length=64"
            if kind != "good" and kind != "malformed" and truncation == "drop":
                reason = "longer than data.max_length=64"
            if reason is not None:
                expected.setdefault(reason, []).append(f"{path}:{number}")
        counts = ledger.as_dict()
        assert counts["dropped"] == {reason: {"rows": len(rows), "first": rows} for reason, rows in expected.items()}
        kinds = [kind for kind, _ in lines]
        assert counts["rows"]["in"] == len(lines)
        assert counts["rows"]["truncated"] == (kinds.count("long answer") if truncation == "right" else 0)
        if truncation == "right":
            whole = [len(bench.encode(ask(*line)).input_ids) for kind, line in lines if kind.startswith("long")]
            kept = [64 if kind == "long answer" else 0 for kind in kinds if kind.startswith("long")]
            assert counts["tokens"]["cut"] == sum(whole) - sum(kept)
        # No row changes another's encoding.
        alone = [bench.encode(ask(*line)) for kind, line in lines if kind == "good" or kind == "long answer"]
        if truncation == "drop":
            alone = [sample for sample in alone if len(sample.input_ids) <= 64]
        assert sorted(encoded(samples)) == sorted(
            (sample.input_ids[:64].tolist(), sample.labels[:64].tolist()) for sample in alone
        )

    check()


@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_every_token_of_plain_text_is_accounted_for(bench, tmp_path_factory, check_ledger, samples_of, overlap):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    overrides = [
        "stage=pt", f"data.path={path}", "data.format=text", "data.split.validation=none", "data.max_length=16",
        f"data.overlap={overlap}", "data.on_invalid=drop",
    ]  # fmt: skip

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text("0123456789", max_size=60), max_size=8))
    def check(texts):
        texts = [*texts, "1"]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        prepared = bench.prepare(*overrides)
        ledger = prepared.ledger.splits["train"]
        check_ledger(ledger, samples_of(prepared.train))
        kept = [text for text in texts if text]
        counts = ledger.as_dict()
        assert counts["rows"] == {"in": len(texts), "kept": len(kept), "dropped": texts.count(""), "truncated": 0}
        # A digit is a token, and each text has one more for its end.
        assert counts["tokens"]["in"] == sum(len(text) + 1 for text in kept)
        # Cut without overlap, a last chunk of one token has nothing before it to be learned from.
        alone = [text for text in kept if len(text) + 1 > 16 and (len(text) + 1) % 16 == 1]
        assert counts["tokens"]["cut"] == (0 if overlap else len(alone))
        if overlap:
            assert counts["tokens"]["masked"] == len(kept)
        else:
            assert counts["tokens"]["repeated"] == 0
        assert all(prepared.train[index].length <= 16 for index in range(len(prepared.train)))

    check()


def test_the_ledger_in_numbers(bench, write):
    path = write("rows.jsonl", [row("1", "23"), row("4", "5" * 80), {"instruction": "6"}, row("7" * 80, "8")])
    prepared = bench.prepare(*alpaca(path, "data.on_invalid=drop", "data.packing=true"))
    header = len(
        bench.tokenizer("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).input_ids
    )
    short, long_answer, long_question = header + 1 + 4, header + 1 + 82, header + 80 + 3
    assert prepared.ledger.as_dict() == {
        "source": "rows",
        "files": {"train": str(path)},
        "splits": {
            "train": {
                "rows": {"in": 4, "kept": 2, "dropped": 2, "truncated": 1},
                "dropped": {
                    "has no column 'output'; it has 'instruction'": {"rows": 1, "first": [f"{path}:3"]},
                    "nothing to learn within data.max_length=64": {"rows": 1, "first": [f"{path}:4"]},
                },
                "tokens": {
                    "in": short + long_answer + long_question,
                    "trained": 3 + 64 - header - 1,
                    "masked": header + 2 + header + 1,
                    "cut": long_answer - 64 + long_question,
                    "repeated": 0,
                },
                "lengths": {"p0": short, "p50": (short + long_answer) // 2, "p90": int(short + 0.9 * 78),
                            "p99": int(short + 0.99 * 78), "p100": long_answer},
                "packing": {"rows": 2, "tokens_per_row": 64, "fill": round((short + 64) / 128, 4)},
            }
        },
    }  # fmt: skip


def test_the_ledger_names_the_first_twenty_rows_of_a_reason(bench, write):
    path = write("rows.jsonl", [row("1", "")] * 25 + [row("1", "2")])
    dropped = bench.prepare(*alpaca(path, "data.on_invalid=drop")).ledger.as_dict()["splits"]["train"]["dropped"]
    assert dropped == {
        "column 'output' is empty": {"rows": 25, "first": [f"{path}:{number}" for number in range(1, 21)]}
    }


def test_the_ledger_of_every_split_adds_up(bench, write, check_ledger, samples_of):
    write("train.jsonl", [*numbered(5), row("1", "")])
    write("validation.jsonl", [row("1", ""), row("2", "3")])
    write("golden.jsonl", [row("1", "2"), row("", "3"), row("4", "5")])
    registry = write(
        "sets.yaml",
        "mine: {format: alpaca, files: {train: train.jsonl, validation: validation.jsonl, golden: golden.jsonl}}",
    )
    prepared = bench.prepare("data.name=mine", f"data.registry={registry}", "data.on_invalid=drop")
    splits = prepared.ledger.splits
    check_ledger(splits["train"], samples_of(prepared.train))
    check_ledger(splits["validation"], samples_of(prepared.validation))
    check_ledger(splits["golden"])
    assert {name: split.as_dict()["rows"] for name, split in splits.items()} == {
        "train": {"in": 6, "kept": 5, "dropped": 1, "truncated": 0},
        "validation": {"in": 2, "kept": 1, "dropped": 1, "truncated": 0},
        "golden": {"in": 3, "kept": 2, "dropped": 1, "truncated": 0},
    }


# --- malformed rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "reason"), MALFORMED.items())
def test_a_malformed_row_stops_the_run_with_its_file_and_number(bench, write, line, reason):
    path = write("rows.jsonl", '{"instruction": "1", "output": "2"}\n\n' + line + "\n" + '{"instruction": 5}\n')
    with pytest.raises(DataError) as caught:
        bench.read(*alpaca(path))
    assert str(caught.value) == f"{path}, row 3: {reason}.{MEND}"


def test_a_text_that_cannot_be_encoded_stops_the_run_with_its_file_and_number(bench, write):
    path = write("rows.json", [row("1", "2"), row("1", "\ud83d")])
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path))
    assert str(caught.value) == f"{path}, row 2: holds half of a surrogate pair, which no text can.{MEND}"


def test_a_row_that_the_template_refuses_is_a_malformed_row(bench, write):
    wrong = {"messages": [*ask("1", "2")[:1], {"role": "assistant", "content": "", "tool_calls": ["weather"]}]}
    path = write("rows.json", [{"messages": ask("1", "2")}, wrong, {"messages": ask("3", "4")}])
    overrides = [f"data.path={path}", "data.format=messages", "data.split.validation=none", "data.packing=false"]
    reason = "the chat template refuses it: 'str object' has no attribute 'name'"
    with pytest.raises(DataError) as caught:
        bench.prepare(*overrides)
    assert str(caught.value) == f"{path}, row 2: {reason}.{MEND}"
    prepared = bench.prepare(*overrides, "data.on_invalid=drop")
    assert [bench.trained(prepared.train[index].samples[0]) for index in range(2)] == ["2<|im_end|>", "4<|im_end|>"]
    counts = prepared.ledger.as_dict()["splits"]["train"]
    assert counts["dropped"] == {reason: {"rows": 1, "first": [f"{path}:2"]}}
    assert counts["rows"] == {"in": 3, "kept": 2, "dropped": 1, "truncated": 0}


def test_malformed_rows_change_nothing_of_their_neighbours(bench, write, samples_of):
    rows = [row(f"question {number}?", f"answer {number} é😀") for number in range(20)]
    clean = write("clean.jsonl", rows)
    mixed = write("mixed.jsonl", "".join(f"{json.dumps(one)}\n{bad}\n" for one, bad in zip(rows, [*MALFORMED] * 4)))
    samples = [samples_of(bench.prepare(*alpaca(path, "data.on_invalid=drop")).train) for path in (clean, mixed)]
    assert len(samples[0]) == 20
    assert encoded(samples[0]) == encoded(samples[1])


def test_no_row_left(bench, write):
    path = write("rows.jsonl", [row("1", ""), row("", "2")])
    with pytest.raises(DataError) as caught:
        bench.read(*alpaca(path, "data.on_invalid=drop"))
    assert str(caught.value) == f"{path}: no row is left to train on."


# --- length ------------------------------------------------------------------------------------------------------


def test_truncation_right_keeps_the_beginning_and_invents_no_end(bench, write, samples_of):
    path = write("rows.jsonl", [row("1", "2" * 100), row("3", "4")])
    cut, whole = samples_of(bench.prepare(*alpaca(path, "data.truncation=right")).train)
    text = "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n" + "2" * 100
    assert len(cut.input_ids) == 64
    assert text.startswith(bench.decode(cut.input_ids))
    assert set(bench.trained(cut)) == {"2"}
    assert bench.trained(whole) == "4<|im_end|>"


def test_truncation_drop_leaves_the_row_out(bench, write, samples_of):
    path = write("rows.jsonl", [row("1", "2" * 100), row("3", "4")])
    prepared = bench.prepare(*alpaca(path, "data.truncation=drop"))
    assert [bench.trained(sample) for sample in samples_of(prepared.train)] == ["4<|im_end|>"]
    counts = prepared.ledger.as_dict()["splits"]["train"]
    assert counts["dropped"] == {"longer than data.max_length=64": {"rows": 1, "first": [f"{path}:1"]}}
    assert counts["tokens"]["cut"] == len(bench.encode(ask("1", "2" * 100)).input_ids)


def test_truncation_error_names_the_row_and_its_length(bench, write):
    path = write("rows.jsonl", [row("3", "4"), row("1", "2" * 100)])
    length = len(bench.encode(ask("1", "2" * 100)).input_ids)
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path, "data.truncation=error"))
    assert str(caught.value) == f"{path}:2: {length} tokens, more than data.max_length=64."


@pytest.mark.parametrize("truncation", ["right", "drop", "error"])
def test_a_row_of_exactly_the_length_is_left_as_it_is(bench, write, samples_of, truncation):
    length = len(bench.encode(ask("1", "2" * 40)).input_ids)
    path = write("rows.jsonl", [row("1", "2" * 40)])
    prepared = bench.prepare(*alpaca(path, f"data.truncation={truncation}", f"data.max_length={length}"))
    assert bench.trained(samples_of(prepared.train)[0]) == "2" * 40 + "<|im_end|>"
    assert prepared.ledger.splits["train"].rows_truncated == 0


def test_no_row_fits(bench, write):
    path = write("rows.jsonl", [row("1" * 100, "2"), row("1" * 90, "2"), row("1" * 100, "3")])
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path))
    reasons = "nothing to learn within data.max_length=64: 3"
    assert str(caught.value) == f"rows, train: no row has anything to learn from ({reasons})."


def test_long_text_is_chunked_with_overlap_and_never_cut(bench, write, samples_of):
    path = write("texts.jsonl", [{"text": "0123456789"}])
    prepared = bench.prepare(
        "stage=pt", f"data.path={path}", "data.format=text", "data.split.validation=none", "data.max_length=8",
        "data.overlap=2",
    )  # fmt: skip
    end = bench.tokenizer.eos_token
    chunks = sorted(samples_of(prepared.train), key=lambda sample: -len(sample.input_ids))
    assert [bench.pieces(sample) for sample in chunks] == [
        [("0", False), *((digit, True) for digit in "1234567")],
        [("6", False), ("7", False), ("8", True), ("9", True), (end, True)],
    ]
    assert prepared.ledger.as_dict()["splits"]["train"]["tokens"] == {
        "in": 11, "trained": 10, "masked": 1, "cut": 0, "repeated": 2,
    }  # fmt: skip


def test_packing_puts_several_rows_in_one_and_loses_none(bench, write):
    path = write("rows.jsonl", numbered(10))
    apart = bench.prepare(*alpaca(path)).train
    packed = bench.prepare(*alpaca(path, "data.packing=true")).train
    assert len(apart) == 10
    assert len(packed) < 10
    assert all(packed[index].length <= 64 for index in range(len(packed)))
    questions = sorted(
        bench.decode(sample.input_ids) for index in range(len(packed)) for sample in packed[index].samples
    )
    assert questions == sorted(
        f"<|im_start|>user\n{number}<|im_end|>\n<|im_start|>assistant\n9<|im_end|>\n" for number in range(10)
    )


# --- which rows --------------------------------------------------------------------------------------------------


def rows_of(records, split):
    return [int(where.rpartition(":")[2]) for where, _ in records.splits[split]]


def held_out(path, *overrides):
    return alpaca(path, "data.split.validation=auto", "data.split.fraction=0.25", *overrides)


def test_a_fraction_of_the_rows_is_held_out(bench, write, check_ledger, samples_of):
    path = write("rows.jsonl", numbered(40))
    records = bench.read(*held_out(path))
    train, validation = rows_of(records, "train"), rows_of(records, "validation")
    assert (len(train), len(validation)) == (30, 10)
    assert sorted(train + validation) == list(range(1, 41))
    assert (train, validation) == (sorted(train), sorted(validation))
    assert validation != list(range(31, 41))
    prepared = bench.prepare(*held_out(path))
    check_ledger(prepared.ledger.splits["train"], samples_of(prepared.train))
    check_ledger(prepared.ledger.splits["validation"], samples_of(prepared.validation))
    assert [prepared.ledger.splits[split].rows_in for split in ("train", "validation")] == [30, 10]


def test_the_held_out_rows_follow_the_seed(bench, write):
    path = write("rows.jsonl", numbered(40))
    drawn = [rows_of(bench.read(*held_out(path), f"seed={seed}"), "validation") for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_malformed_rows_are_not_held_out(bench, write, check_ledger):
    path = write("rows.jsonl", [one for good in numbered(8) for one in (good, row("1", ""))])
    prepared = bench.prepare(*held_out(path, "data.on_invalid=drop"))
    rows = {name: split.as_dict()["rows"] for name, split in prepared.ledger.splits.items()}
    assert rows == {
        "train": {"in": 14, "kept": 6, "dropped": 8, "truncated": 0},
        "validation": {"in": 2, "kept": 2, "dropped": 0, "truncated": 0},
    }


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
    assert prepared.ledger.as_dict()["files"] == {"train": str(path), "validation": str(validation)}


def test_max_samples_draws_rows_by_seed(bench, write, check_ledger, samples_of):
    path = write("rows.jsonl", numbered(40))
    drawn = [rows_of(bench.read(*alpaca(path, "data.max_samples=10"), f"seed={seed}"), "train") for seed in (1, 1, 2)]
    assert len(set(drawn[0])) == 10
    assert drawn[0] == sorted(drawn[0]) == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0] != list(range(1, 11))
    prepared = bench.prepare(*alpaca(path, "data.max_samples=10"))
    ledger = prepared.ledger.splits["train"]
    check_ledger(ledger, samples_of(prepared.train))
    assert ledger.as_dict()["rows"] == {"in": 40, "kept": 10, "dropped": 30, "truncated": 0}
    assert ledger.as_dict()["dropped"] == {"left out by data.max_samples": {"rows": 30, "first": []}}


def test_max_samples_beyond_the_rows_takes_all(bench, write):
    path = write("rows.jsonl", numbered(5))
    assert rows_of(bench.read(*alpaca(path, "data.max_samples=6")), "train") == [1, 2, 3, 4, 5]


def test_the_same_config_prepares_the_same(bench, write, samples_of):
    path = write("rows.jsonl", numbered(30))
    overrides = held_out(path, "data.packing=true", "data.max_samples=20")
    first, second = bench.prepare(*overrides), bench.prepare(*overrides)
    for a, b in ((first.train, second.train), (first.validation, second.validation)):
        assert [encoded(a[i].samples) for i in range(len(a))] == [encoded(b[i].samples) for i in range(len(b))]
    assert first.ledger.as_dict() == second.ledger.as_dict()


@pytest.mark.parametrize(
    ("train_on", "trained"),
    [
        ("assistant", "2<|im_end|>4<|im_end|>"),
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


# --- which files -------------------------------------------------------------------------------------------------


def test_a_registry_of_ones_own_with_its_columns(bench, write, samples_of):
    write("faq.jsonl", [{"question": "1", "reply": "2", "better": "3"}])
    registry = write(
        "sets.yaml",
        "faq:\n  format: alpaca\n  files: {train: faq.jsonl}\n  columns: {instruction: question, output: reply}\n",
    )
    overrides = ["data.name=faq", f"data.registry={registry}", "data.split.validation=none"]
    assert [bench.trained(one) for one in samples_of(bench.prepare(*overrides).train)] == ["2<|im_end|>"]
    overrides.append("data.columns={output: better}")
    assert [bench.trained(one) for one in samples_of(bench.prepare(*overrides).train)] == ["3<|im_end|>"]


def test_columns_from_the_command_line(bench, write, samples_of):
    path = write("faq.jsonl", [{"question": "1", "reply": "2"}])
    columns = "data.columns={instruction: question, output: reply}"
    assert [bench.trained(one) for one in samples_of(bench.prepare(*alpaca(path, columns)).train)] == ["2<|im_end|>"]


def test_a_column_that_the_format_does_not_know(bench, write):
    path = write("faq.jsonl", [{**row("1", "2"), "context": "3"}])
    with pytest.raises(ConfigError) as caught:
        bench.read(*alpaca(path, "data.columns={inptu: context}"))
    assert (
        "data.columns.inptu=context: format alpaca has no such column. Known: instruction, input, output, system, "
        "history. Did you mean input?" in str(caught.value)
    )


def test_a_name_that_is_not_registered(bench, write):
    registry = write("sets.yaml", "faq: {format: alpaca, files: {train: faq.jsonl}}\n")
    with pytest.raises(ConfigError) as caught:
        bench.read("data.name=fap", f"data.registry={registry}")
    assert f"data.name=fap: not in the registry {registry}. Known: faq. Did you mean faq?" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("faq: {format: alpaca}", "faq.files: Field required."),
        ("faq: {format: alpaca, files: {validation: a}}", "faq.files.train: Field required."),
        ("faq: {format: alpaca, files: {train: a}, colums: {}}", "faq.colums: Extra inputs are not permitted."),
        (
            "ok: {format: text, files: {train: a}}\nfaq: {format: alpacca, files: {train: a}}",
            "faq.format: Input should be 'alpaca', 'sharegpt', 'messages', 'instruction', 'prompt_completion', "
            "'preference', 'kto', 'prompts' or 'text'.",
        ),
        ("faq: alpaca", "faq: must have the keys format and files."),
        ("faq:", "faq: must have the keys format and files."),
        ("- faq", "must map names to data sets, not be a list."),
        ("faq", "must map names to data sets, not be a str."),
        ("faq: {format: [alpaca}", "not YAML: expected ',' or ']', but got '}' in line 1, column 22."),
        ("faq: *other", "not YAML: found undefined alias 'other' in line 1, column 6."),
        (b"faq: caf\xe9", "not UTF-8 at byte 8."),
    ],
)
def test_a_wrong_registry(bench, write, content, reason):
    registry = write("sets.yaml", content)
    with pytest.raises(DataError) as caught:
        bench.read("data.name=faq", f"data.registry={registry}")
    assert str(caught.value) == f"data.registry={registry}: {reason}"


def test_a_registry_that_is_not_there(bench, tmp_path):
    with pytest.raises(DataError) as caught:
        bench.read("data.name=faq", f"data.registry={tmp_path}/sets.yaml")
    assert str(caught.value) == f"data.registry={tmp_path}/sets.yaml: no such file."


def test_a_missing_file_says_what_makes_it(bench, write, tmp_path):
    registry = write("sets.yaml", "faq: {format: alpaca, files: {train: faq.jsonl}, make: python make_faq.py}\n")
    with pytest.raises(DataError) as caught:
        bench.read("data.name=faq", f"data.registry={registry}")
    assert str(caught.value) == (
        f"data faq, train: {tmp_path}/faq.jsonl does not exist. Make it with: python make_faq.py"
    )


def test_a_missing_file_of_ones_own(bench, tmp_path):
    with pytest.raises(DataError) as caught:
        bench.read(*alpaca(tmp_path / "rows.json"))
    assert str(caught.value) == (
        f"data.path: {tmp_path}/rows.json does not exist. Relative paths start from the current folder."
    )


def test_an_empty_file(bench, write):
    path = write("rows.json", "")
    with pytest.raises(DataError) as caught:
        bench.read(*alpaca(path))
    assert str(caught.value) == f"data.path: {path} is empty."


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            ["stage=sft", "data.name=preferences"],
            "data.format=preference: stage=sft trains on alpaca or sharegpt or messages or instruction or "
            "prompt_completion rows; registered sets of that kind: ",
        ),
        (
            ["stage=pt", "data.name=instructions"],
            "data.format=alpaca: stage=pt trains on text rows; registered sets of that kind: ",
        ),
    ],
)
def test_rows_that_the_stage_cannot_train_on(bench, overrides, reason):
    with pytest.raises(ConfigError) as caught:
        bench.read(*overrides)
    assert reason in str(caught.value)
    shipped = str(caught.value).partition(reason)[2].partition(".")[0].split(", ")
    expected = {"stage=sft": "instructions", "stage=pt": "phase1_foundation"}[overrides[0]]
    assert expected in shipped
    assert overrides[1].removeprefix("data.name=") not in shipped


def test_the_shipped_instructions_need_no_config(bench, check_ledger, samples_of):
    prepared = bench.prepare()
    assert set(prepared.ledger.splits) == {"train", "validation", "golden"}
    for split, rows in (("train", prepared.train), ("validation", prepared.validation)):
        counts = prepared.ledger.splits[split]
        check_ledger(counts, samples_of(rows))
        assert counts.rows_kept == counts.rows_in > 0
    first = samples_of(prepared.train)[0]
    assert bench.trained(first).endswith("<|im_end|>")
    assert first.labels[0] == IGNORE
