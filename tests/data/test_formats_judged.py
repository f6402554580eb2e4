"""Rows that compare, label or ask: preference, kto, prompts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ftlab.data.formats import CONVERTERS, Columns, Labelled, Pair, Prompt, RowError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def convert(format_, row, columns=None, tags=None):
    return CONVERTERS[format_](Columns(row, columns or {}, tags or {}))


def refused(format_, row, columns=None):
    with pytest.raises(RowError) as caught:
        convert(format_, row, columns)
    return str(caught.value)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}

PAIRS = {
    "instruction": (
        {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"},
        Pair([user("Add.\n1, 2")], [assistant("3")], [assistant("4")]),
    ),
    "instruction, system, history, tools": (
        {
            "instruction": "And 2?",
            "input": "",
            "system": "You add.",
            "history": [["1?", "1"]],
            "chosen": "2",
            "rejected": "3",
            "tools": json.dumps(TOOLS),
        },
        Pair(
            [system("You add."), user("1?"), assistant("1"), user("And 2?")],
            [assistant("2")],
            [assistant("3")],
            TOOLS,
        ),
    ),
    "TRL's strings": (
        {"prompt": "The sky is", "chosen": " blue", "rejected": " green"},
        Pair([user("The sky is")], [assistant(" blue")], [assistant(" green")]),
    ),
    "ShareGPT's conversation and messages": (
        {
            "system": "Be kind.",
            "conversations": [human("a"), gpt("b"), human("c")],
            "chosen": gpt("d"),
            "rejected": gpt("e"),
        },
        Pair(
            [system("Be kind."), user("a"), assistant("b"), user("c")],
            [assistant("d")],
            [assistant("e")],
        ),
    ),
    "OpenAI's messages and answers of several turns": (
        {
            "messages": [system("s"), user("a")],
            "chosen": [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "1"},
                assistant("one"),
            ],
            "rejected": [assistant("b")],
        },
        Pair(
            [system("s"), user("a")],
            [
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "1"},
                assistant("one"),
            ],
            [assistant("b")],
        ),
    ),
    "OpenAI's words under conversations, strings for answers": (
        {"conversations": [user("a")], "chosen": "b", "rejected": "c"},
        Pair([user("a")], [assistant("b")], [assistant("c")]),
    ),
    "answers that are calls": (
        {
            "conversations": [human("a")],
            "chosen": {"from": "function_call", "value": '{"name": "f"}'},
            "rejected": gpt("c"),
        },
        Pair([user("a")], [{"role": "assistant", "content": "", "tool_calls": [CALL]}], [assistant("c")]),
    ),
    "a prompt of messages": (
        {"prompt": [user("a"), assistant("b"), user("c")], "chosen": [assistant("d")], "rejected": assistant("e")},
        Pair([user("a"), assistant("b"), user("c")], [assistant("d")], [assistant("e")]),
    ),
    "the prompt is in chosen and rejected": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        Pair([user("a")], [assistant("b")], [assistant("c")]),
    ),
    "the prompt is in both, and stands beside them": (
        {"prompt": "a ", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")], "messages": 5},
        Pair([user("a")], [assistant("b")], [assistant("c")]),
    ),
    "what they share ends where a question differs, and no prompt ends with an answer": (
        {
            "chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
            "rejected": [user("a"), assistant("b"), user("x"), assistant("y")],
        },
        Pair(
            [user("a")],
            [assistant("b"), user("c"), assistant("d")],
            [assistant("b"), user("x"), assistant("y")],
        ),
    ),
    "one goes on where the other ends": (
        {
            "system": "s",
            "chosen": [human("a"), gpt("b"), human("c"), gpt("d")],
            "rejected": [human("a"), gpt("b")],
        },
        Pair(
            [system("s"), user("a")],
            [assistant("b"), user("c"), assistant("d")],
            [assistant("b")],
        ),
    ),
    "of prompt and messages, the prompt": (
        {"prompt": "a", "messages": [user("b")], "instruction": "c", "chosen": "d", "rejected": "e"},
        Pair([user("a")], [assistant("d")], [assistant("e")]),
    ),
    "a null prompt is none": (
        {"prompt": None, "messages": [user("b")], "chosen": "d", "rejected": "e"},
        Pair([user("b")], [assistant("d")], [assistant("e")]),
    ),
}


def test_preference(subtests):
    for name, (row, expected) in PAIRS.items():
        with subtests.test(name):
            assert convert("preference", row) == expected


WAYS = "needs 'prompt'|'instruction'|'messages'|'conversations' + 'chosen' + 'rejected'"

NO_PAIRS = {
    "no rejected": (
        {"prompt": "a", "chosen": "b", "rejected": None},
        f"{WAYS}, or 'chosen' + 'rejected'; it has 'prompt', 'chosen', 'rejected' (null)",
    ),
    "strings without a prompt": ({"chosen": "b", "rejected": "c"}, f"{WAYS}; it has 'chosen', 'rejected'"),
    "equal strings": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
    "equal, once as a string": (
        {"prompt": "a", "chosen": "b", "rejected": [gpt("b")]},
        "chosen and rejected are the same",
    ),
    "equal conversations": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]},
        "chosen and rejected are the same",
    ),
    "an empty answer": ({"prompt": "a", "chosen": "b", "rejected": " "}, "column 'rejected' is empty"),
    "an empty message": (
        {"prompt": "a", "chosen": gpt(""), "rejected": "c"},
        "chosen: the last assistant turn is empty",
    ),
    "no turns": ({"prompt": "a", "chosen": [], "rejected": "c"}, "column 'chosen' must be a list that is not empty"),
    "an answer that is a number": (
        {"prompt": "a", "chosen": 1, "rejected": "c"},
        "column 'chosen' must be a string, a message or a list of messages, not int",
    ),
    "an answer by the user": (
        {"prompt": "a", "chosen": "b", "rejected": human("c")},
        "rejected: turn 1 should be an assistant turn, not user",
    ),
    "an answer that ends with a question": (
        {"prompt": "a", "chosen": [assistant("b"), user("c")], "rejected": "d"},
        "chosen: the conversation does not end with an assistant turn",
    ),
    "a prompt that ends with an answer": (
        {"conversations": [human("a"), gpt("b")], "chosen": "c", "rejected": "d"},
        "the prompt does not end with a user or tool turn",
    ),
    "a prompt of a system message": (
        {"prompt": [system("a")], "chosen": "c", "rejected": "d"},
        "the prompt does not end with a user or tool turn",
    ),
    "whole conversations with nothing in common": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]},
        "chosen and rejected do not begin with the same question",
    ),
    "whole conversations with a system message in common": (
        {"system": "s", "chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("c")]},
        "chosen and rejected do not begin with the same question",
    ),
    "whole conversations, of which the prompt says something else": (
        {"prompt": "z", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        "the prompt is no part of the conversations that chosen and rejected are",
    ),
    "whole conversations after a conversation": (
        {"messages": [user("a")], "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]},
        "chosen: turn 1 should be an assistant turn, not user",
    ),
    "a whole conversation that ends with a question": (
        {"chosen": [user("a"), assistant("b"), user("c")], "rejected": [user("a"), assistant("b")]},
        "chosen: the conversation does not end with an assistant turn",
    ),
}


def test_preference_refused(subtests):
    for name, (row, reason) in NO_PAIRS.items():
        with subtests.test(name):
            assert refused("preference", row) == reason


def test_reasons_have_the_users_names():
    columns = {"chosen": "good", "rejected": "bad", "messages": None, "conversations": None}
    row = {"prompt": "a", "good": human("b"), "bad": "c"}
    assert refused("preference", row, columns) == "good: turn 1 should be an assistant turn, not user"
    wanted = "needs 'prompt'|'instruction' + 'good' + 'bad', or 'good' + 'bad'; it has 'prompt', 'good'"
    assert refused("preference", {"prompt": "a", "good": "b"}, columns) == wanted


def test_preference_in_the_users_words():
    tags = {"role": "role", "content": "content", "user": "Q", "assistant": "A"}
    row = {
        "conversations": [{"role": "Q", "content": "a"}],
        "chosen": {"role": "A", "content": "b"},
        "rejected": {"role": "A", "content": "c"},
    }
    assert convert("preference", row, tags=tags) == Pair([user("a")], [assistant("b")], [assistant("c")])
    tool = [
        {"role": "Q", "content": "a"},
        {"role": "function_call", "content": '{"name": "f"}'},
        {"role": "observation", "content": "1"},
    ]
    found = convert("preference", row | {"conversations": tool}, tags=tags)
    assert found.prompt[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
    ]


LABELLED = {
    "messages": (
        {"messages": [user("a"), assistant("b"), user("c"), assistant("d")], "label": True},
        Labelled([user("a"), assistant("b"), user("c")], [assistant("d")], True),
    ),
    "conversations, system, tools": (
        {"system": "s", "tools": TOOLS, "conversations": [human("a"), gpt("b")], "label": False},
        Labelled([system("s"), user("a")], [assistant("b")], False, TOOLS),
    ),
    "TRL's strings": (
        {"prompt": "a", "completion": "b", "label": True},
        Labelled([user("a")], [assistant("b")], True),
    ),
    "TRL's messages": (
        {"prompt": [user("a")], "completion": [assistant("b"), user("c"), assistant("d")], "label": True},
        Labelled([user("a")], [assistant("b"), user("c"), assistant("d")], True),
    ),
    "alpaca": (
        {"instruction": "a", "input": "b", "output": "c", "system": "s", "history": [["x", "y"]], "label": True},
        Labelled([system("s"), user("x"), assistant("y"), user("a\nb")], [assistant("c")], True),
    ),
    "instruction and response": (
        {"instruction": "a", "response": "c", "label": True},
        Labelled([user("a")], [assistant("c")], True),
    ),
    "the first spelling of each wins": (
        {"prompt": "a", "instruction": "x", "completion": "b", "output": "x", "messages": [user("x")], "label": True},
        Labelled([user("a")], [assistant("b")], True),
    ),
    "a prompt without a completion is no way": (
        {"prompt": "a", "messages": [user("c"), assistant("b")], "label": True},
        Labelled([user("c")], [assistant("b")], True),
    ),
}


def test_kto(subtests):
    for name, (row, expected) in LABELLED.items():
        with subtests.test(name):
            assert convert("kto", row) == expected


def test_kto_tag_of_llama_factory():
    row = {"messages": [user("a"), assistant("b")], "kto_tag": False}
    assert convert("kto", row, {"label": "kto_tag"}) == Labelled([user("a")], [assistant("b")], False)


def test_labels(subtests):
    values = {True: [True, 1, 1.0, "1", "true", "TRUE"], False: [False, 0, 0.0, "0", "False", " false "]}
    for label, spelled in values.items():
        for value in spelled:
            with subtests.test(repr(value)):
                assert convert("kto", {"prompt": "a", "completion": "b", "label": value}).label is label


NO_LABELS = {
    "two": (2, "2"),
    "minus one": (-1, "-1"),
    "a half": (0.5, "0.5"),
    "a word": ("good", "'good'"),
    "empty": ("", "''"),
    "a list": ([True], "[True]"),
    "an object": ({}, "{}"),
    "nan": (math.nan, "nan"),
    "huge": (10**5000, "a number of thousands of digits"),
    "long": ("x" * 99, "'" + "x" * 36 + "..."),
}


def test_no_labels(subtests):
    for name, (value, named) in NO_LABELS.items():
        with subtests.test(name):
            reason = refused("kto", {"prompt": "a", "completion": "b", "label": value})
            assert reason == f"column 'label' must be true or false, or 1 or 0, not {named}"


KTO_WAYS = (
    "needs 'prompt'|'instruction' + 'completion'|'output'|'response' + 'label', or 'messages'|'conversations' + 'label'"
)

NOT_LABELLED = {
    "no label": ({"prompt": "a", "completion": "b"}, f"{KTO_WAYS}; it has 'prompt', 'completion'"),
    "no answer": ({"prompt": "a", "label": True}, f"{KTO_WAYS}; it has 'prompt', 'label'"),
    "an empty answer": ({"prompt": "a", "output": "", "label": True}, "column 'output' is empty"),
    "ends with a question": (
        {"messages": [user("a")], "label": True},
        "the conversation does not end with an assistant turn",
    ),
    "an empty last turn": (
        {"messages": [user("a"), assistant("")], "label": True},
        "the last assistant turn is empty",
    ),
    "messages in a string": (
        {"messages": "a", "label": True},
        "column 'messages' must be a list that is not empty",
    ),
}


def test_kto_refused(subtests):
    for name, (row, reason) in NOT_LABELLED.items():
        with subtests.test(name):
            assert refused("kto", row) == reason


PROMPTS = {
    "a string": (
        {"prompt": "2 + 2?", "answer": "4", "level": 1, "id": "x"},
        Prompt([user("2 + 2?")], "4", {"level": 1, "id": "x"}),
    ),
    "messages in prompt": (
        {"prompt": [system("s"), user("2 + 2?")], "ground_truth": "4"},
        Prompt([system("s"), user("2 + 2?")], "4", {}),
    ),
    "a string with a system message and tools": (
        {"prompt": "a", "system": "s", "tools": TOOLS},
        Prompt([system("s"), user("a")], None, {}, TOOLS),
    ),
    "instruction": (
        {"instruction": "Add.", "input": "1, 2", "history": [["a", "b"]], "answer": "3"},
        Prompt([user("a"), assistant("b"), user("Add.\n1, 2")], "3", {}),
    ),
    "messages that end with a question": (
        {"messages": [user("a"), assistant("b"), user("c")]},
        Prompt([user("a"), assistant("b"), user("c")], None, {}),
    ),
    "conversations that end with an answer": (
        {"conversations": [human("a"), gpt("b")]},
        Prompt([user("a")], "b", {}),
    ),
    "a column's answer wins over the last turn": (
        {"conversations": [human("a"), gpt("Because ... 4.")], "answer": "4", "ground_truth": "4.0"},
        Prompt([user("a")], "4", {"ground_truth": "4.0"}),
    ),
    "a last turn that only calls is no answer": (
        {"messages": [user("a"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        Prompt([user("a")], None, {}),
    ),
    "ends with what a tool returned": (
        {
            "messages": [
                user("a"),
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "1"},
            ]
        },
        Prompt(
            [user("a"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
            None,
            {},
        ),
    ),
    "of prompt and messages, the prompt; the rest is for the reward": (
        {"prompt": "a", "messages": [user("b")], "input": 5, "tests": ["x"], "note": None},
        Prompt([user("a")], None, {"messages": [user("b")], "input": 5, "tests": ["x"], "note": None}),
    ),
}


def test_prompts(subtests):
    for name, (row, expected) in PROMPTS.items():
        with subtests.test(name):
            assert convert("prompts", row) == expected


def test_prompts_under_the_users_names():
    row = {"question": "a", "solution": "b", "answer": {"kept": "as it is"}, "prompt": "c"}
    found = convert("prompts", row, {"prompt": "question", "answer": None, "ground_truth": "solution"})
    assert found == Prompt([user("a")], "b", {"answer": {"kept": "as it is"}, "prompt": "c"})


def test_answers():
    values = ["4", " 4 ", 4, -4, 4.5, 4.0, True, None]
    found = [convert("prompts", {"prompt": "a", "answer": value}).answer for value in values]
    assert found == ["4", " 4 ", "4", "-4", "4.5", "4.0", "true", None]


NO_PROMPTS = {
    "nothing to ask": (
        {"question": "a"},
        "needs 'prompt'|'instruction'|'messages'|'conversations'; it has 'question'",
    ),
    "an empty prompt": ({"prompt": " "}, "column 'prompt' is empty"),
    "a prompt that is a number": ({"prompt": 4}, "column 'prompt' must be a string or a list of messages, not int"),
    "a prompt without messages": ({"prompt": []}, "column 'prompt' must be a list that is not empty"),
    "a prompt with a malformed message": (
        {"prompt": [user("a"), 5]},
        "prompt: message 2 must be an object with 'role' and 'content'",
    ),
    "nothing but a system message": (
        {"messages": [system("a")]},
        "the prompt does not end with a user or tool turn",
    ),
    "an empty answer": ({"prompt": "a", "answer": ""}, "column 'answer' is empty"),
    "an answer that is a list": (
        {"prompt": "a", "answer": ["4"]},
        "column 'answer' must be a string or a number, not list",
    ),
    "an answer that is no number": (
        {"prompt": "a", "answer": math.nan},
        "column 'answer' must be a string or a number, not nan",
    ),
    "an answer of too many digits": (
        {"prompt": "a", "answer": 10**5000},
        "column 'answer' must be a string or a number, not a number of thousands of digits",
    ),
}


def test_prompts_refused(subtests):
    for name, (row, reason) in NO_PROMPTS.items():
        with subtests.test(name):
            assert refused("prompts", row) == reason


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data: {SHARED} is not there")
@pytest.mark.parametrize(
    ("name", "format_", "count"),
    [
        ("alpaca_en_demo.json", "alpaca", 999),
        ("glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("dpo_zh_demo.json", "preference", 300),
        ("kto_en_demo.json", "kto", 300),
        ("c4_demo.jsonl", "text", 300),
    ],
)
def test_real_rows_are_all_taken(name, format_, count):
    content = (SHARED / name).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in content.splitlines()] if name.endswith("l") else json.loads(content)
    records = [convert(format_, row) for row in rows]
    assert len(records) == count
    if format_ == "preference":
        for row, pair in zip(rows, records):
            assert pair.chosen == [assistant(row["chosen"]["value"])]
            assert pair.rejected == [assistant(row["rejected"]["value"])]
            assert [m["content"] for m in pair.prompt] == [turn["value"] for turn in row["conversations"]]
    if format_ == "kto":
        for row, record in zip(rows, records):
            assert record.prompt + record.answer == row["messages"]
            assert record.label is row["label"]
