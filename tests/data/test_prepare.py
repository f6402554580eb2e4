"""From a config to packed rows: every row and token accounted for, and every refusal in words."""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.tokens.templates import Template
from ftlab.errors import DataError
from tests.data.helpers import MEND, alpaca, ask, encoded, numbered, options, row, rows_in, texts, train_ledger, turns

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
def test_every_row_and_token_is_accounted_for(bench, tmp_path_factory, check_prepared, samples_of, truncation, packing):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    overrides = alpaca(path, "data.on_invalid=drop", f"data.truncation={truncation}", f"data.packing={packing}")

    @settings(max_examples=15, deadline=None)
    @given(lines_of)
    def check(lines):
        lines = [*lines, ("good", ("1", "2"))]
        text = [line if kind == "malformed" else json.dumps(row(*line)) for kind, line in lines]
        path.write_text("\n".join(text))
        prepared = bench.prepare(*overrides)
        ledger = prepared.ledger.splits["train"]
        samples = samples_of(prepared.train)
        check_prepared(prepared)

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
def test_every_token_of_plain_text_is_accounted_for(bench, tmp_path_factory, check_prepared, overlap):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    options_of = ("data.max_length=16", f"data.overlap={overlap}", "data.on_invalid=drop", "data.packing=true")
    overrides = texts(path, *options_of)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.text("0123456789", max_size=60), max_size=8))
    def check(drawn):
        drawn = [*drawn, "1"]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in drawn))
        prepared = bench.prepare(*overrides)
        check_prepared(prepared)
        kept = [text for text in drawn if text]
        counts = train_ledger(prepared)
        assert (counts["rows"]["in"], counts["rows"]["kept"]) == (len(drawn), len(kept))
        assert counts["duplicates"]["rows"] == len(kept) - len(set(kept))
        # A digit is a token, and each text has one more for its end.
        assert counts["tokens"]["in"] == sum(len(text) + 1 for text in kept)
        assert counts["tokens"]["cut"] == 0
        if overlap:
            assert counts["tokens"]["masked"] == len(kept)
        else:  # a last token that would be alone takes the one before it along, to be learned from
            alone = [text for text in kept if len(text) + 1 > 16 and (len(text) + 1) % 16 == 1]
            assert counts["tokens"]["repeated"] == len(alone)

    check()


def test_the_ledger_in_numbers(bench, write):
    lines = [row("1", "23"), row("4", "5" * 80), {"instruction": "6"}, row("7" * 80, "8"), row("1", "23")]
    path = write("rows.jsonl", lines)
    prepared = bench.prepare(*alpaca(path, "data.on_invalid=drop", "data.packing=true"))
    header = len(
        bench.tokenizer("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).input_ids
    )
    short, long_answer, long_question = header + 1 + 4, header + 1 + 82, header + 80 + 3
    total = 2 * short + 64
    rows = 2
    assert prepared.ledger.as_dict() == {
        "source": "rows",
        "files": {"train": [str(path)]},
        "sha256": {str(path): hashlib.sha256(path.read_bytes()).hexdigest()},
        "tokenized_by": "tiktoken's core",
        "splits": {
            "train": {
                "rows": {"in": 5, "kept": 3, "dropped": 2, "truncated": 1, "duplicates": 1, "repeated": 0},
                "dropped": {
                    "has no column 'output'; it has 'instruction'": {"rows": 1, "first": [f"{path}:3"]},
                    "nothing to learn within data.max_length=64": {"rows": 1, "first": [f"{path}:4"]},
                },
                "duplicates": {"rows": 1, "first": [f"{path}:5"]},
                "special_tokens_as_text": {"rows": 0, "first": []},
                "left_out_by_template": {},
                "tokens": {
                    "in": 2 * short + long_answer + long_question,
                    "trained": 2 * 3 + 64 - header - 1,
                    "masked": 2 * (header + 2) + header + 1,
                    "cut": long_answer - 64 + long_question,
                    "repeated": 0,
                    "padded": rows * 64 - total,
                },
                "lengths": {**{f"p{share}": short for share in (0, 25, 50, 75, 90, 95, 99)},
                            "p100": long_answer, "histogram": prepared.ledger.splits["train"].histogram,
                            "needed": {"most": long_answer, "all": long_answer}},
                "packing": {"rows": rows, "tokens_per_row": 64, "fill": round(total / (rows * 64), 4)},
            }
        },
    }  # fmt: skip
    histogram = prepared.ledger.splits["train"].histogram
    assert histogram[0][0] == 0 and histogram[-1][1] == long_answer + 1
    assert [samples for begin, end, samples in histogram if begin <= short < end] == [2]
    assert [samples for begin, end, samples in histogram if begin <= long_answer < end] == [1]
    assert sum(samples for _, _, samples in histogram) == 3


def test_the_ledger_names_the_first_twenty_rows_of_a_reason(bench, write):
    path = write("rows.jsonl", [row("1", "")] * 25 + [row("1", "2")])
    dropped = bench.prepare(*alpaca(path, "data.on_invalid=drop")).ledger.as_dict()["splits"]["train"]["dropped"]
    assert dropped == {
        "column 'output' is empty": {"rows": 25, "first": [f"{path}:{number}" for number in range(1, 21)]}
    }


def test_the_ledger_of_every_split_adds_up(bench, write, check_prepared):
    write("train.jsonl", [*numbered(5), row("1", "")])
    write("validation.jsonl", [row("1", ""), row("2", "3")])
    write("golden.jsonl", [row("1", "2"), row("", "3"), row("4", "5")])
    registry = write(
        "sets.yaml",
        "mine: {format: alpaca, files: {train: train.jsonl, validation: validation.jsonl, golden: golden.jsonl}}",
    )
    prepared = bench.prepare("data.name=mine", f"data.registry={registry}", "data.on_invalid=drop")
    check_prepared(prepared)
    assert {name: rows_in(prepared, name) for name in prepared.ledger.splits} == {
        "train": {"in": 6, "kept": 5, "dropped": 1},
        "validation": {"in": 2, "kept": 1, "dropped": 1},
        "golden": {"in": 3, "kept": 2, "dropped": 1},
    }


# --- malformed rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "reason"), MALFORMED.items())
def test_a_malformed_row_stops_the_run_with_its_file_and_number(bench, write, line, reason):
    path = write("rows.jsonl", '{"instruction": "1", "output": "2"}\n\n' + line + "\n" + '{"instruction": 5}\n')
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path))
    assert str(caught.value) == (
        f"{path}, row 3: {reason}.\n{path}, row 4: column 'instruction' must be a string, not int.\n"
        f"2 of 3 rows cannot be used.{MEND}"
    )


def test_a_text_that_cannot_be_encoded_stops_the_run_with_its_file_and_number(bench, write):
    path = write("rows.json", [row("1", "2"), row("1", "\ud83d")])
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path))
    assert str(caught.value) == f"{path}, row 2: holds half of a surrogate pair, which no text can.{MEND}"


def test_a_row_that_the_template_refuses_is_a_malformed_row(bench, write):
    path = write("rows.json", [{"messages": ask(question, "9")} for question in ("1", "refuse me", "4")])
    overrides = options("messages", path)
    template = refusing(bench, "'refuse' in messages[0].content", "not that")
    reason = "the chat template refuses it: not that"
    with pytest.raises(DataError) as caught:
        bench.prepare(*overrides, template=template)
    assert str(caught.value) == f"{path}, row 2: {reason}.{MEND}"
    prepared = bench.prepare(*overrides, "data.on_invalid=drop", template=template)
    assert [bench.decode(row.samples[0].input_ids)[17] for row in prepared.train] == ["1", "4"]
    assert train_ledger(prepared)["dropped"] == {reason: {"rows": 1, "first": [f"{path}:2"]}}
    assert rows_in(prepared) == {"in": 3, "kept": 2, "dropped": 1}


def refusing(bench, condition, why):
    """The template, except that it refuses some conversations."""
    source = "{% if " + condition + " %}{{ raise_exception('" + why + "') }}{% endif %}" + bench.template.source
    return Template(source, dict(bench.tokenizer.special_tokens_map), "here")


@pytest.mark.parametrize("truncation", ["left", "turns"])
def test_a_row_that_the_template_refuses_once_it_is_shortened_is_a_malformed_row(bench, write, truncation):
    """Its cut form is what would be learned, so what the template says of that form counts."""
    long = {"messages": turns("1" * 60, "2", "refuse me", "4")}
    path = write("rows.json", [{"messages": ask("1", "9")}, long, {"messages": ask("3", "9")}])
    overrides = options("messages", path, f"data.truncation={truncation}")
    template = refusing(bench, "'refuse' in messages[0].content", "not that")
    reason = "the chat template refuses it: not that"
    with pytest.raises(DataError) as caught:
        bench.prepare(*overrides, template=template)
    assert str(caught.value) == f"{path}, row 2: {reason}.{MEND}"
    prepared = bench.prepare(*overrides, "data.on_invalid=drop", template=template)
    counts = train_ledger(prepared)
    assert counts["dropped"] == {reason: {"rows": 1, "first": [f"{path}:2"]}}
    assert counts["tokens"]["cut"] == len(bench.encode(long["messages"]).input_ids)


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
        bench.prepare(*alpaca(path, "data.on_invalid=drop"))
    reasons = "column 'output' is empty: 1, column 'instruction' is empty: 1"
    assert str(caught.value) == f"{path}: no row of train is left to learn from ({reasons})."


def test_nothing_stays_on_disk_that_is_not_in_the_cache(bench, write, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    good, bad = write("good.jsonl", numbered(3)), write("bad.jsonl", [row("1", "")])
    prepared = bench.prepare(*alpaca(good))
    rows = prepared.train
    assert len(list(place.iterdir())) == 1
    del prepared
    gc.collect()
    assert list(place.iterdir()) == []
    assert [bench.trained(one.samples[0]) for one in rows] == ["9<|im_end|>"] * 3, "what is in use stays readable"
    with pytest.raises(DataError):
        bench.prepare(*alpaca(bad))
    assert list(place.iterdir()) == []
