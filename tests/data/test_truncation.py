"""What is left of a row that is too long, token by token: whole headers, no invented end, and everything counted."""

from __future__ import annotations

import json

import pytest

from ftlab.errors import DataError
from tests.data.helpers import alpaca, ask, options, row, rows_in, texts, train_ledger, turns

END = "<|im_end|>"
USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nbe 1" + END + "\n"


def written(*contents, system=False):
    """The text of questions and answers in turn."""
    parts = [f"{(USER, ASSISTANT)[i % 2]}{text}{END}\n" for i, text in enumerate(contents)]
    return (SYSTEM if system else "") + "".join(parts)


def length(bench, text):
    return len(bench.tokenizer(text, add_special_tokens=False).input_ids)


def digits(bench, whole, limit):
    """How many digits fit beside the rest of a text that is ``whole`` without them. Each is a token."""
    return limit - length(bench, whole)


def prepared_row(bench, write, format_, value, policy, limit, *more):
    """What became of one row beside a short one, which is as it is alone."""
    short = {"messages": {"messages": ask("3", "4")}, "alpaca": row("3", "4"), "prompts": {"prompt": "3"},
             "preference": {"prompt": "3", "chosen": "4", "rejected": "5"},
             "kto": {"prompt": "3", "completion": "4", "label": True}}[format_]  # fmt: skip
    path = write("rows.jsonl", [value, short])
    overrides = options(format_, path, f"data.truncation={policy}", f"data.max_length={limit}", *more)
    return path, bench.prepare(*overrides)


def kept(bench, prepared):
    """Text and trained text of every sample but the short row's."""
    found = [one for index in range(len(prepared.train) - 1) for one in prepared.train[index].samples]
    return [(bench.decode(one.input_ids), bench.trained(one)) for one in found]


CHAT = turns("11", "22", "33", "44", "55", "66", system="be 1")
NUMBERS = ("11", "22", "33", "44", "55", "66")
WHOLE = written(*NUMBERS, system=True)


# --- conversations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["right", "left", "turns", "drop", "error"])
def test_a_row_of_exactly_the_length_is_left_as_it_is(bench, write, check_prepared, policy):
    limit = length(bench, WHOLE)
    _, prepared = prepared_row(bench, write, "messages", {"messages": CHAT}, policy, limit)
    assert kept(bench, prepared) == [(WHOLE, f"22{END}44{END}66{END}")]
    assert rows_in(prepared) == {"in": 2, "kept": 2}
    assert prepared.ledger.splits["train"].tokens_cut == 0
    check_prepared(prepared)


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        # Counted from the end: "66", its end, the line break. What stands after the last trained token is left out.
        (1, (WHOLE[:-1], f"22{END}44{END}66{END}")),
        (2, (WHOLE.removesuffix(f"{END}\n"), f"22{END}44{END}66")),
        (3, (WHOLE.removesuffix(f"6{END}\n"), f"22{END}44{END}6")),
        (4, (written("11", "22", "33", "44", system=True)[:-1], f"22{END}44{END}")),
        (5, (written("11", "22", "33", "44", system=True)[:-1], f"22{END}44{END}")),
        (12, (written("11", "22", "33", "44", system=True)[:-1], f"22{END}44{END}")),
    ],
)
def test_right_ends_with_the_last_trained_token_and_invents_no_end(bench, write, check_prepared, without, expected):
    limit = length(bench, WHOLE) - without
    _, prepared = prepared_row(bench, write, "messages", {"messages": CHAT}, "right", limit)
    assert kept(bench, prepared) == [expected]
    whole, short = length(bench, WHOLE), length(bench, written("3", "4"))
    tokens = train_ledger(prepared)["tokens"]
    assert tokens["cut"] == whole - length(bench, expected[0])
    assert tokens["trained"] == length(bench, expected[1]) + 2
    assert tokens["in"] == whole + short
    assert rows_in(prepared) == {"in": 2, "kept": 2, "truncated": 1}
    check_prepared(prepared)


def test_right_never_keeps_half_a_header(bench, write):
    """At every length: text that was written so, up to a trained token, or no row at all."""
    ends = [WHOLE.index(answer) + i for answer in ("22" + END, "44" + END, "66" + END) for i in (1, 2, 2 + len(END))]
    for limit in range(length(bench, written("3", "4")), length(bench, WHOLE), 2):
        _, prepared = prepared_row(bench, write, "messages", {"messages": CHAT}, "right", limit)
        for text, trained in kept(bench, prepared):
            assert WHOLE.startswith(text) and len(text) in ends
            assert text.endswith(("2", "4", "6", END)) and trained
        if not kept(bench, prepared):
            reason = f"nothing to learn within data.max_length={limit}"
            assert reason in train_ledger(prepared)["dropped"]
            assert limit <= length(bench, SYSTEM + USER + "11" + END + "\n" + ASSISTANT)


@pytest.mark.parametrize("policy", ["left", "turns"])
@pytest.mark.parametrize(
    ("limit_of", "remaining"),
    [
        (("33", "44", "55", "66"), ("33", "44", "55", "66")),
        (("3", "44", "55", "66"), ("55", "66")),
        (("55", "66"), ("55", "66")),
    ],
)
def test_the_oldest_exchanges_go_first_and_the_system_message_stays(
    bench, write, check_prepared, policy, limit_of, remaining
):
    limit = length(bench, written(*limit_of, system=True))
    _, prepared = prepared_row(bench, write, "messages", {"messages": CHAT}, policy, limit)
    answers = "".join(answer + END for answer in remaining[1::2])
    assert kept(bench, prepared) == [(written(*remaining, system=True), answers)]
    text = written(*remaining, system=True)
    assert train_ledger(prepared)["tokens"]["cut"] == length(bench, WHOLE) - length(bench, text)
    check_prepared(prepared)


def test_turns_drops_what_does_not_fit_in_its_last_exchange(bench, write, check_prepared):
    limit = length(bench, written("55", "66", system=True)) - 1
    path, prepared = prepared_row(bench, write, "messages", {"messages": CHAT}, "turns", limit)
    assert kept(bench, prepared) == []
    counts = train_ledger(prepared)
    reason = f"its last exchange is longer than data.max_length={limit}"
    assert counts["dropped"] == {reason: {"rows": 1, "first": [f"{path}:1"]}}
    assert counts["tokens"]["cut"] == length(bench, WHOLE)
    check_prepared(prepared)


def test_left_keeps_the_system_message_and_the_end_of_the_question(bench, write, check_prepared):
    messages = turns("1", "2", "0123456789" * 10, "66", system="be 1")
    limit = 60
    _, prepared = prepared_row(bench, write, "messages", {"messages": messages}, "left", limit)
    room = digits(bench, written("", "66", system=True), limit)
    question = ("0123456789" * 10)[-room:]
    assert 5 < room < 50
    assert kept(bench, prepared) == [(written(question, "66", system=True), f"66{END}")]
    whole = length(bench, written("1", "2", "0123456789" * 10, "66", system=True))
    assert train_ledger(prepared)["tokens"]["cut"] == whole - limit
    check_prepared(prepared)


def test_left_cuts_a_question_between_characters_not_bytes(bench, write):
    messages = turns("漢字😀é" * 10, "66")
    _, prepared = prepared_row(bench, write, "messages", {"messages": messages}, "left", 60)
    [(text, trained)] = kept(bench, prepared)
    question = text.removeprefix(USER).removesuffix(f"{END}\n{ASSISTANT}66{END}\n")
    assert question and ("漢字😀é" * 10).endswith(question)
    assert trained == f"66{END}"
    assert 60 - 4 < len(prepared.train[0].samples[0].input_ids) <= 60


@pytest.mark.parametrize("policy", ["left", "turns"])
def test_an_answer_that_is_too_long_is_not_cut_from_its_beginning(bench, write, policy):
    path, prepared = prepared_row(bench, write, "messages", {"messages": turns("1", "2" * 100)}, policy, 64)
    reason = "its last exchange is longer than data.max_length=64"
    assert train_ledger(prepared)["dropped"] == {reason: {"rows": 1, "first": [f"{path}:1"]}}


def test_drop_leaves_the_row_out(bench, write, check_prepared):
    path, prepared = prepared_row(bench, write, "alpaca", row("1", "2" * 100), "drop", 64)
    assert kept(bench, prepared) == []
    counts = train_ledger(prepared)
    assert counts["dropped"] == {"longer than data.max_length=64": {"rows": 1, "first": [f"{path}:1"]}}
    assert counts["tokens"]["cut"] == len(bench.encode(ask("1", "2" * 100)).input_ids)
    check_prepared(prepared)


@pytest.mark.parametrize("on_invalid", ["error", "drop"])
def test_error_names_the_row_and_its_length(bench, write, on_invalid):
    path = write("rows.jsonl", [row("3", "4"), row("1", "2" * 100)])
    tokens = len(bench.encode(ask("1", "2" * 100)).input_ids)
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path, "data.truncation=error", f"data.on_invalid={on_invalid}"))
    assert str(caught.value) == (
        f"{path}, row 2: longer than data.max_length=64: {tokens} tokens.\n"
        "Raise data.max_length, or choose data.truncation: drop, left, right or turns."
    )


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("right", "nothing to learn within data.max_length=64"),
        ("turns", "its last exchange is longer than data.max_length=64"),
        ("drop", "longer than data.max_length=64"),
    ],
)
def test_no_row_fits(bench, write, policy, reason):
    path = write("rows.jsonl", [row("1" * 100, "2"), row("1" * 90, "2"), row("1" * 100, "3")])
    with pytest.raises(DataError) as caught:
        bench.prepare(*alpaca(path, f"data.truncation={policy}"))
    assert str(caught.value) == f"{path}: no row of train is left to learn from ({reason}: 3)."


# --- what of it is trained -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "train_on", "trained"),
    [
        ("right", "last", None),  # the last answer is what is cut off
        ("right", "all", SYSTEM.removeprefix("<|im_start|>") + written("11", "22", "33", "44")[:-1] + "\n<|im_start|>"),
        ("turns", "last", f"66{END}"),
        ("turns", "all", SYSTEM.removeprefix("<|im_start|>") + written("33", "44", "55", "66")),
    ],
)
def test_train_on_of_a_row_that_is_cut(bench, write, check_prepared, policy, train_on, trained):
    limit = length(bench, written("11", "22", "33", "44", system=True)) + 1
    _, prepared = prepared_row(bench, write, "messages", {"messages": CHAT}, policy, limit, f"data.train_on={train_on}")
    assert [found for _, found in kept(bench, prepared)] == ([trained] if trained else [])
    check_prepared(prepared)


def test_weights_stay_with_their_messages_when_others_go(bench, write, check_prepared):
    messages = [dict(message) for message in CHAT]
    for place, weight in ((2, 1), (4, 0), (6, 1)):
        messages[place]["weight"] = weight
    limit = length(bench, written("33", "44", "55", "66", system=True))
    value = {"messages": messages}
    _, prepared = prepared_row(bench, write, "messages", value, "turns", limit, "data.train_on=by_message")
    assert kept(bench, prepared) == [(written("33", "44", "55", "66", system=True), f"66{END}")]
    messages[6]["weight"] = 0
    path, prepared = prepared_row(bench, write, "messages", value, "turns", limit, "data.train_on=by_message")
    reason = f"nothing to learn within data.max_length={limit}"
    assert train_ledger(prepared)["dropped"] == {reason: {"rows": 1, "first": [f"{path}:1"]}}
    check_prepared(prepared)


# --- tools -----------------------------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}


def with_tools():
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    asked = [{"role": "user", "content": "5"}, {"role": "assistant", "content": "", "tool_calls": [call]},
             {"role": "tool", "content": "7"}, {"role": "assistant", "content": "8"}]  # fmt: skip
    return {"messages": [*turns("1" * 40, "2"), *asked], "tools": [TOOL]}


@pytest.mark.parametrize("policy", ["left", "turns"])
def test_a_call_stays_with_its_result_and_the_tools_stay_too(bench, write, check_prepared, policy):
    value = with_tools()
    last = {**value, "messages": value["messages"][2:]}
    expected = bench.encode(last["messages"], tools=[TOOL])
    limit = len(expected.input_ids) + 20
    _, prepared = prepared_row(bench, write, "messages", value, policy, limit)
    text = bench.decode(expected.input_ids)
    assert '"name": "f"' in text.partition(USER)[0] and "<tool_call>" in text and "1111" not in text
    assert kept(bench, prepared) == [(text, bench.trained(expected))]
    assert bench.trained(expected).count(END) == 2
    check_prepared(prepared)


def test_right_cuts_a_call_where_its_tokens_end(bench, write, check_prepared):
    value = with_tools()
    whole = bench.encode(value["messages"], tools=[TOOL])
    text = bench.decode(whole.input_ids)
    limit = length(bench, text[: text.index("</tool_call>", text.index(USER))]) - 1
    _, prepared = prepared_row(bench, write, "messages", value, "right", limit)
    [(cut, trained)] = kept(bench, prepared)
    assert text.startswith(cut) and length(bench, cut) == limit
    assert trained.startswith(f"2{END}<tool_call>") and not trained.endswith(END)
    check_prepared(prepared)


# --- pairs, labels, prompts ------------------------------------------------------------------------------------------


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_right_cuts_both_answers_of_a_pair_each_by_itself(bench, write, check_prepared):
    _, prepared = prepared_row(bench, write, "preference", pair("1", "2" * 100, "3"), "right", 64, "stage=dpo")
    room = digits(bench, USER + "1" + END + "\n" + ASSISTANT, 64)
    assert kept(bench, prepared) == [
        (f"{USER}1{END}\n{ASSISTANT}" + "2" * room, "2" * room),
        (written("1", "3"), f"3{END}"),
    ]
    assert rows_in(prepared) == {"in": 2, "kept": 2, "truncated": 1}
    assert train_ledger(prepared)["packing"]["tokens_per_row"] == 128
    check_prepared(prepared)


@pytest.mark.parametrize(("chosen", "rejected"), [("2", "3"), ("2", "3" * 20)])
@pytest.mark.parametrize("policy", ["left", "turns"])
def test_the_prompt_of_a_pair_is_shortened_until_the_longer_answer_fits(
    bench, write, check_prepared, policy, chosen, rejected
):
    prompt = turns("1" * 40, "2", "0123456789" * 2)
    _, prepared = prepared_row(bench, write, "preference", pair(prompt, chosen, rejected), policy, 64, "stage=dpo")
    question = "0123456789" * 2
    assert kept(bench, prepared) == [(written(question, answer), answer + END) for answer in (chosen, rejected)]
    check_prepared(prepared)
    # The same for both, also where only one is too long.
    _, prepared = prepared_row(bench, write, "preference", pair("9" * 40, "2", "3" * 30), "left", 64, "stage=dpo")
    room = digits(bench, written("", "3" * 30), 64)
    assert 0 < room < 40
    assert kept(bench, prepared) == [(written("9" * room, answer), answer + END) for answer in ("2", "3" * 30)]
    check_prepared(prepared)


def test_a_pair_of_which_nothing_of_one_answer_is_left_is_dropped(bench, write, check_prepared):
    path, prepared = prepared_row(bench, write, "preference", pair("1" * 80, "2", "3"), "right", 64, "stage=dpo")
    counts = train_ledger(prepared)
    assert counts["dropped"] == {"nothing to learn within data.max_length=64": {"rows": 1, "first": [f"{path}:1"]}}
    assert counts["tokens"]["cut"] == 2 * length(bench, written("1" * 80, "2"))
    check_prepared(prepared)


def test_a_labelled_answer_is_cut_like_any_other(bench, write, check_prepared):
    value = {"prompt": "1", "completion": "2" * 100, "label": False}
    _, prepared = prepared_row(bench, write, "kto", value, "right", 64, "stage=kto")
    room = digits(bench, USER + "1" + END + "\n" + ASSISTANT, 64)
    assert kept(bench, prepared) == [(f"{USER}1{END}\n{ASSISTANT}" + "2" * room, "2" * room)]
    value = {"prompt": turns("1" * 40, "2", "3"), "completion": "4", "label": False}
    _, prepared = prepared_row(bench, write, "kto", value, "turns", 40, "stage=kto")
    assert kept(bench, prepared) == [(written("3", "4"), f"4{END}")]
    check_prepared(prepared)


@pytest.mark.parametrize(
    ("policy", "expected"), [("left", "0123456789"), ("turns", None), ("right", None), ("drop", None)]
)
def test_a_prompt_keeps_the_header_that_asks_for_the_answer(bench, write, check_prepared, policy, expected):
    _, prepared = prepared_row(bench, write, "prompts", {"prompt": "0123456789" * 10}, policy, 32, "stage=grpo")
    room = digits(bench, f"{USER}{END}\n{ASSISTANT}", 32)
    question = ("0123456789" * 10)[-room:]
    assert kept(bench, prepared) == ([(f"{USER}{question}{END}\n{ASSISTANT}", "")] if expected else [])
    reasons = {"turns": "its last exchange is longer than data.max_length=32"}
    if not expected:
        assert list(train_ledger(prepared)["dropped"]) == [reasons.get(policy, "longer than data.max_length=32")]
    check_prepared(prepared)


def test_the_oldest_turns_of_a_prompt_go_first(bench, write, check_prepared):
    value = {"prompt": turns("1" * 40, "2", "3", system="be 1")}
    _, prepared = prepared_row(bench, write, "prompts", value, "turns", 40, "stage=grpo")
    assert kept(bench, prepared) == [(f"{SYSTEM}{USER}3{END}\n{ASSISTANT}", "")]
    check_prepared(prepared)


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["right", "left", "turns", "drop", "error"])
def test_long_text_is_chunked_with_overlap_and_never_cut(bench, write, samples_of, check_prepared, policy):
    path = write("texts.jsonl", [{"text": "0123456789"}])
    overrides = texts(path, "data.max_length=8", "data.overlap=2", "data.packing=true", f"data.truncation={policy}")
    prepared = bench.prepare(*overrides)
    end = bench.tokenizer.eos_token
    chunks = sorted(samples_of(prepared.train), key=lambda sample: -len(sample.input_ids))
    assert [bench.pieces(sample) for sample in chunks] == [
        [("0", False), *((digit, True) for digit in "1234567")],
        [("6", False), ("7", False), ("8", True), ("9", True), (end, True)],
    ]
    assert json.loads(json.dumps(train_ledger(prepared)["tokens"])) == {
        "in": 11, "trained": 10, "masked": 1, "cut": 0, "repeated": 2, "padded": 3,
    }  # fmt: skip
    check_prepared(prepared)
