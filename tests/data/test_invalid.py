"""Every kind of bad row: one message that names file, row and reason; or left out, counted, and nobody else touched."""

from __future__ import annotations

import json
import time

import pytest

from ftlab.data.sources.reading import convert_advice
from ftlab.data.sources.rows import NUL
from ftlab.errors import DataError
from tests.data.helpers import MEND, ask, encoded, options, rows_in, train_ledger, turns

GOOD = {
    "alpaca": {"instruction": "{}", "output": "2"},
    "messages": {"messages": ask("{}", "2")},
    "sharegpt": {"conversations": [{"from": "human", "value": "{}"}, {"from": "gpt", "value": "2"}]},
    "instruction": {"instruction": "{}", "response": "2"},
    "prompt_completion": {"prompt": "{}", "completion": "2"},
    "preference": {"prompt": "{}", "chosen": "2", "rejected": "3"},
    "kto": {"prompt": "{}", "completion": "2", "label": True},
    "prompts": {"prompt": "{}", "answer": "2"},
    "text": {"text": "a text {}"},
}
STAGES = {"preference": "dpo", "kto": "kto", "prompts": "grpo", "text": "pt"}


def human(*turns_):
    return {"conversations": [{"from": role, "value": value} for role, value in turns_]}


# What the issue lists: name -> format, the bad row, what is said of it.
BAD = {
    "wrong role order": (
        "messages",
        {"messages": turns("1", "2")[::-1]},
        "turn 1 should be a user or tool turn, not assistant",
    ),
    "two questions in a row": (
        "sharegpt",
        human(("human", "1"), ("human", "2"), ("gpt", "3")),
        "turn 2 should be an assistant turn, not user (data.on_same_role=merge joins it to the one before)",
    ),
    "no answer at the end": (
        "messages",
        {"messages": turns("1", "2", "3")},
        "the conversation does not end with an assistant turn",
    ),
    "an unknown role": (
        "sharegpt",
        human(("humna", "1"), ("gpt", "3")),
        "turn 1 has the unknown role 'humna'; known: human, user, gpt, assistant, system, observation, tool, "
        "function_call",
    ),
    "a missing column": ("alpaca", {"instruction": "1"}, "has no column 'output'; it has 'instruction'"),
    "a missing column of texts": ("text", {"txt": "1"}, "needs 'text'|'training_content'; it has 'txt'"),
    "an empty answer": ("alpaca", {"instruction": "1", "output": " \n"}, "column 'output' is empty"),
    "an empty last turn": ("messages", {"messages": turns("1", "")}, "the last assistant turn is empty"),
    "an empty completion": ("prompt_completion", {"prompt": "1", "completion": ""}, "column 'completion' is empty"),
    "a text that is blank": ("text", {"text": "\n\n"}, "column 'text' is empty"),
    "content that is a number": (
        "messages",
        {"messages": [{"role": "user", "content": 5}, *turns("", "2")[1:]]},
        "message 1: 'content' must be a string, not int",
    ),
    "a column that is a list": (
        "instruction",
        {"instruction": "1", "response": ["2"]},
        "column 'response' must be a string, not list",
    ),
    "a text that is an object": ("text", {"text": {"a": 1}}, "column 'text' must be a string, not dict"),
    "a label that is not boolean": (
        "kto",
        {"prompt": "1", "completion": "2", "label": "good"},
        "column 'label' must be true or false, or 1 or 0, not 'good'",
    ),
    "a label of 2": (
        "kto",
        {"prompt": "1", "completion": "2", "label": 2},
        "column 'label' must be true or false, or 1 or 0, not 2",
    ),
    "chosen that is rejected": (
        "preference",
        {"prompt": "1", "chosen": "2", "rejected": "2"},
        "chosen and rejected are the same",
    ),
    "a list in place of a row": ("alpaca", ["1", "2"], "is not an object with columns"),
    "a NUL character": ("alpaca", {"instruction": "1", "output": "2\0"}, NUL),
    "a NUL character in a text": ("text", {"text": "a\0b"}, NUL),
    "half of a surrogate pair": ("prompts", {"prompt": "\ud83d"}, "holds half of a surrogate pair, which no text can"),
}
LINES = {
    "broken JSON": (b'{"instruction": "1", "out', "not JSON: Unterminated string starting at in column 22"),
    "JSON with a comma behind it": (b'{"instruction": "1", "output": "2"},',
                                    "not JSON: Extra data in column 36 (JSON Lines has no comma between rows)"),
    "invalid UTF-8": (b'{"instruction": "caf\xe9", "output": "2"}', "not UTF-8 at byte 20 of the line"),
    "a bare NUL": (b'{"instruction": "1", "output": "\0"}', NUL),
    "nested without end": (b'{"instruction": ' + b"[" * 100_000, "not JSON: nested too deeply"),
}  # fmt: skip
CASES = {name: (format_, json.dumps(row).encode(), reason) for name, (format_, row, reason) in BAD.items()}
CASES |= {name: ("alpaca", *case) for name, case in LINES.items()}


def good(format_, number):
    return json.dumps(GOOD[format_]).replace("{}", str(number)).encode()


def overrides_of(format_, path, *more):
    return options(format_, path, f"stage={STAGES.get(format_, 'sft')}", *more)


def test_a_bad_row_stops_the_run_with_its_file_row_and_reason(bench, write, subtests):
    for name, (format_, line, reason) in CASES.items():
        path = write("rows.jsonl", b"\n".join([good(format_, 1), b"", line, good(format_, 2), line]))
        with subtests.test(name):
            with pytest.raises(DataError) as caught:
                bench.prepare(*overrides_of(format_, path))
            bad = (f"{path}, row {number}: {reason}." for number in (3, 5))
            hint = f"\n{convert_advice(path, 'LATIN1')}" if reason.startswith("not UTF-8") else ""
            assert str(caught.value) == "\n".join([*bad, f"2 of 4 rows cannot be used.{hint}{MEND}"])


def test_a_bad_row_is_left_out_and_its_neighbours_are_as_they_were(bench, write, samples_of, check_prepared, subtests):
    alone = {}
    for format_ in GOOD:
        path = write("alone.jsonl", b"\n".join(good(format_, number) for number in range(4)))
        prepared = bench.prepare(*overrides_of(format_, path, "data.on_invalid=drop"))
        alone[format_] = encoded(samples_of(prepared.train))
    for name, (format_, line, reason) in CASES.items():
        first, second, *others = (good(format_, number) for number in range(4))
        path = write("rows.jsonl", b"\n".join([line, first, second, line, *others, line]))
        with subtests.test(name):
            prepared = bench.prepare(*overrides_of(format_, path, "data.on_invalid=drop"))
            assert len(alone[format_]) == (8 if format_ == "preference" else 4)
            assert encoded(samples_of(prepared.train)) == alone[format_]
            assert rows_in(prepared) == {"in": 7, "kept": 4, "dropped": 3}
            assert train_ledger(prepared)["dropped"] == {
                reason: {"rows": 3, "first": [f"{path}:{number}" for number in (1, 4, 7)]}
            }
            assert prepared.train.kept[:, 2].tolist() == [2, 3, 5, 6]
            check_prepared(prepared)


def test_all_bad_rows_of_a_file_at_once_are_told_apart_by_their_reasons(bench, write, check_prepared):
    bad = [(line, reason) for format_, line, reason in CASES.values() if format_ == "alpaca"]
    path = write("rows.jsonl", b"\n".join([*(line for line, _ in bad), good("alpaca", 1)]))
    prepared = bench.prepare(*overrides_of("alpaca", path, "data.on_invalid=drop"))
    expected = {}
    for number, (_, reason) in enumerate(bad, 1):
        expected.setdefault(reason, []).append(f"{path}:{number}")
    assert train_ledger(prepared)["dropped"] == {
        reason: {"rows": len(rows), "first": rows} for reason, rows in expected.items()
    }
    check_prepared(prepared)


def test_a_bad_row_of_a_later_file_has_its_own_files_name_and_number(bench, write, tmp_path):
    write("a.jsonl", b"\n".join(good("alpaca", n) for n in range(3)))
    write("b.jsonl", b"\n".join([good("alpaca", 9), b"{}"]))
    with pytest.raises(DataError) as caught:
        bench.prepare(*overrides_of("alpaca", f"{tmp_path}/*.jsonl"))
    assert str(caught.value).startswith(f"{tmp_path}/b.jsonl, row 2: needs 'instruction'") or str(
        caught.value
    ).startswith(f"{tmp_path}/b.jsonl, row 2: has no column 'instruction'")


# --- a row of 5 MB --------------------------------------------------------------------------------------------------

SIZE = 5_000_000  # more than a block


@pytest.fixture
def seconds():
    """Fails a test that takes longer than a few seconds of CPU for one long row."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 5


def long_text():
    return ("def f(x):\n    return x + 1  # é\n" * (SIZE // 32 + 1))[:SIZE]


def test_a_text_of_5_megabytes_is_chunked_whole(bench, write, seconds, check_prepared):
    text = long_text()
    path = write("rows.jsonl", json.dumps({"text": "1"}) + "\n" + json.dumps({"text": text}) + "\n")
    prepared = bench.prepare(*overrides_of("text", path, "data.max_length=2048", "data.overlap=8"))
    counts = train_ledger(prepared)
    assert (counts["rows"]["kept"], counts["tokens"]["cut"]) == (2, 0)
    chunks = [one.input_ids for one in prepared.train.unit(1)]
    rebuilt = [*chunks[0], *(id_ for chunk in chunks[1:] for id_ in chunk[8:])]
    assert bench.decode(rebuilt) == text + bench.tokenizer.eos_token
    check_prepared(prepared)


@pytest.mark.parametrize("policy", ["right", "left", "turns", "drop"])
def test_a_conversation_of_5_megabytes_is_cut_or_dropped(bench, write, seconds, check_prepared, policy):
    rows = [{"messages": ask("1", "2")}, {"messages": ask("3", long_text())}, {"messages": ask("4", "5")}]
    path = write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    prepared = bench.prepare(*overrides_of("messages", path, f"data.truncation={policy}"))
    trained = [bench.trained(sample) for one in prepared.train for sample in one.samples]
    assert [trained[0], trained[-1]] == ["2<|im_end|>", "5<|im_end|>"]
    if policy == "right":
        assert len(trained) == 3 and len(prepared.train[1].samples[0].input_ids) == 64
        assert long_text().startswith(trained[1])
    else:
        assert rows_in(prepared) == {"in": 3, "kept": 2, "dropped": 1}
    assert train_ledger(prepared)["tokens"]["cut"] > 1_500_000
    check_prepared(prepared)


def test_a_question_of_5_megabytes_keeps_its_end(bench, write, seconds, check_prepared):
    path = write("rows.jsonl", [{"messages": ask(long_text(), "2")}, {"messages": ask("4", "5")}])
    prepared = bench.prepare(*overrides_of("messages", path, "data.truncation=left"))
    text = bench.decode(prepared.train[0].samples[0].input_ids)
    question = text.removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0]
    assert long_text().endswith(question) and len(question) > 20
    check_prepared(prepared)
