"""Rows of every format become the records one expects, and the reason is given where they cannot."""

from __future__ import annotations

import json

import pytest

from ftlab.data.formats import COLUMNS, CONVERTERS, TAGS, Columns, Conversation, RowError, Text


def convert(format_, row, columns=None, tags=None):
    return CONVERTERS[format_](Columns(row, columns or {}, tags or {}))


def refused(format_, row, columns=None):
    with pytest.raises(RowError) as caught:
        convert(format_, row, columns)
    return str(caught.value)


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


WEATHER = {"name": "weather", "description": "The weather in a city.", "parameters": {"city": {"type": "string"}}}


def calls(*functions):
    made = [{"type": "function", "function": {"name": name, "arguments": args}} for name, args in functions]
    return {"role": "assistant", "content": "", "tool_calls": made}


CONVERSATIONS = {
    "alpaca": (
        "alpaca",
        {"instruction": "Add 1 and 2.", "output": "3"},
        said(("user", "Add 1 and 2."), ("assistant", "3")),
    ),
    "alpaca: input follows the instruction on a line of its own": (
        "alpaca",
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        said(("user", "Add.\n1, 2"), ("assistant", "3")),
    ),
    "alpaca: an empty input leaves no empty line": (
        "alpaca",
        {"instruction": "Add.", "input": "", "output": "3", "system": "", "history": []},
        said(("user", "Add."), ("assistant", "3")),
    ),
    "alpaca: nulls are absent": (
        "alpaca",
        {"instruction": "Add.", "input": None, "output": "3", "system": None, "history": None},
        said(("user", "Add."), ("assistant", "3")),
    ),
    "alpaca: system, history, input": (
        "alpaca",
        {
            "instruction": "And now?",
            "input": "3, 4",
            "output": "7",
            "system": "You add.",
            "history": [["1, 2?", "3"], ["2, 2?", "4"]],
        },
        said(
            ("system", "You add."),
            ("user", "1, 2?"),
            ("assistant", "3"),
            ("user", "2, 2?"),
            ("assistant", "4"),
            ("user", "And now?\n3, 4"),
            ("assistant", "7"),
        ),
    ),
    "alpaca keeps the white space of its columns": (
        "alpaca",
        {"instruction": " Say hi. ", "output": " hi\n"},
        said(("user", " Say hi. "), ("assistant", " hi\n")),
    ),
    "instruction": (
        "instruction",
        {"instruction": "Who?", "response": "Me."},
        said(("user", "Who?"), ("assistant", "Me.")),
    ),
    "instruction: context and system": (
        "instruction",
        {"instruction": "Who?", "context": "Ann is here.", "response": "Ann.", "system": "Be brief."},
        said(("system", "Be brief."), ("user", "Who?\nAnn is here."), ("assistant", "Ann.")),
    ),
    "prompt_completion": (
        "prompt_completion",
        {"prompt": "2 + 2 =", "completion": " 4"},
        said(("user", "2 + 2 ="), ("assistant", " 4")),
    ),
    "sharegpt": (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
                {"from": "user", "value": "Bye"},
                {"from": "assistant", "value": "See you"},
            ]
        },
        said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you")),
    ),
    "sharegpt: system in a column": (
        "sharegpt",
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    "sharegpt: an empty system message is none": (
        "sharegpt",
        {
            "system": " ",
            "conversations": [
                {"from": "system", "value": ""},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
            ],
        },
        said(("user", "Hi"), ("assistant", "Hello")),
    ),
    "alpaca: the input alone asks": (
        "alpaca",
        {"instruction": "", "input": "1 + 2?", "output": "3"},
        said(("user", "1 + 2?"), ("assistant", "3")),
    ),
    "prompt_completion: TRL's messages": (
        "prompt_completion",
        {
            "prompt": said(("system", "Be kind."), ("user", "Hi")),
            "completion": said(("assistant", "Hello")),
        },
        said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    "prompt_completion: ShareGPT's messages, and a string": (
        "prompt_completion",
        {"system": "Be kind.", "prompt": [{"from": "human", "value": "Hi"}], "completion": "Hello"},
        said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    "messages: system in a column": (
        "messages",
        {"system": "Be kind.", "messages": said(("user", "Hi"), ("assistant", "Hello"))},
        said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    "messages": (
        "messages",
        {"messages": said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"))},
        said(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
    ),
}


def test_conversation(subtests):
    for name, (format_, row, expected) in CONVERSATIONS.items():
        with subtests.test(name):
            assert convert(format_, row) == Conversation(expected, None)


@pytest.mark.parametrize("tools", [json.dumps([WEATHER]), [WEATHER]], ids=["as JSON", "as a list"])
def test_sharegpt_with_a_tool_call_and_its_observation(tools):
    row = {
        "tools": tools,
        "conversations": [
            {"from": "human", "value": "Rain in Oslo?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
            {"from": "observation", "value": '{"rain": true}'},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    expected = [
        {"role": "user", "content": "Rain in Oslo?"},
        calls(("weather", {"city": "Oslo"})),
        {"role": "tool", "content": '{"rain": true}'},
        {"role": "assistant", "content": "Yes."},
    ]
    assert convert("sharegpt", row) == Conversation(expected, [{"type": "function", "function": WEATHER}])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"name": "now"}', calls(("now", {}))),
        (
            '[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": "{}"}]',
            calls(("a", {"x": 1}), ("b", {})),
        ),
        ({"name": "now", "arguments": '{"zone": "UTC"}'}, calls(("now", {"zone": "UTC"}))),
    ],
    ids=["without arguments", "two calls at once", "an object, not JSON of one"],
)
def test_sharegpt_function_calls(value, expected):
    row = {"conversations": [{"from": "human", "value": "Go"}, {"from": "function_call", "value": value}]}
    assert convert("sharegpt", row).messages == [{"role": "user", "content": "Go"}, expected]


def test_no_tools_are_no_tools():
    row = {"messages": said(("user", "Hi"), ("assistant", "Hello"))}
    values = [None, "", " ", [], "[]"]
    assert [value for value in values if convert("messages", {**row, "tools": value}).tools is not None] == []


def test_text():
    rows = [
        ({"text": "Once."}, "Once."),
        ({"training_content": "def f(): ..."}, "def f(): ..."),
        ({"text": None, "training_content": "Twice."}, "Twice."),
        ({"text": "Once.", "training_content": "Twice."}, "Once."),
        ({"text": "  kept as it is\n", "url": "x"}, "  kept as it is\n"),
    ]
    assert [convert("text", row) for row, _ in rows] == [Text(expected) for _, expected in rows]


@pytest.mark.parametrize(
    ("format_", "row", "columns", "expected"),
    [
        (
            "alpaca",
            {"question": "Add.", "data": "1, 2", "answer": "3", "persona": "You add.", "past": [["a", "b"]]},
            {"instruction": "question", "input": "data", "output": "answer", "system": "persona", "history": "past"},
            said(("system", "You add."), ("user", "a"), ("assistant", "b"), ("user", "Add.\n1, 2"), ("assistant", "3")),
        ),
        (
            "sharegpt",
            {"chat": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            {"conversations": "chat"},
            said(("user", "Hi"), ("assistant", "Hello")),
        ),
        (
            "prompt_completion",
            {"prompt": "not this", "q": "this", "a": "yes"},
            {"prompt": "q", "completion": "a"},
            said(("user", "this"), ("assistant", "yes")),
        ),
    ],
    ids=["alpaca", "sharegpt", "a mapped column wins over one of the format's own name"],
)
def test_columns_are_found_under_the_users_names(format_, row, columns, expected):
    assert convert(format_, row, columns).messages == expected


def test_text_under_the_users_name():
    assert convert("text", {"body": "Once."}, {"text": "body"}) == Text("Once.")


def turns(*pairs, **more):
    return {"conversations": [{"from": role, "value": value} for role, value in pairs], **more}


def chat(*pairs, **more):
    return {"messages": said(*pairs), **more}


ANSWERED = [("user", "Hi"), ("assistant", "Hello")]
OPENAI_ROLES = "system, developer, user, assistant, tool, function"
SHAREGPT_ROLES = "human, user, gpt, assistant, system, observation, tool, function_call"

REFUSED = {
    "a missing column names those there are": (
        "alpaca",
        {"question": "a", "answer": "b"},
        "has no column 'instruction'; it has 'question', 'answer'",
    ),
    "an empty row": ("alpaca", {}, "has no column 'instruction'; it has none"),
    "a null column is said to be null": (
        "alpaca",
        {"instruction": "a", "output": None},
        "column 'output' is null",
    ),
    "an empty answer": ("alpaca", {"instruction": "a", "output": ""}, "column 'output' is empty"),
    "an answer of white space": ("alpaca", {"instruction": "a", "output": " \n"}, "column 'output' is empty"),
    "an empty question": ("alpaca", {"instruction": "", "output": "b"}, "column 'instruction' is empty"),
    "a number": ("alpaca", {"instruction": "a", "output": 3}, "column 'output' must be a string, not int"),
    "a list": ("alpaca", {"instruction": ["a"], "output": "b"}, "column 'instruction' must be a string, not list"),
    "an optional column of another type": (
        "alpaca",
        {"instruction": "a", "input": 3, "output": "b"},
        "column 'input' must be a string, not int",
    ),
    "a system message of another type": (
        "alpaca",
        {"instruction": "a", "output": "b", "system": {"a": 1}},
        "column 'system' must be a string, not dict",
    ),
    **{
        f"history {history!r}": (
            "alpaca",
            {"instruction": "a", "output": "b", "history": history},
            "history must be a list of [question, answer] pairs of strings",
        )
        for history in (["a", "b"], [["a"]], [["a", "b", "c"]], [["a", 1]], "ab", {"a": "b"}, 5, True)
    },
    "instruction without a response": (
        "instruction",
        {"instruction": "a", "output": "b"},
        "has no column 'response'; it has 'instruction', 'output'",
    ),
    "prompt_completion without a completion": (
        "prompt_completion",
        {"prompt": "a", "completion": ""},
        "column 'completion' is empty",
    ),
    "text without text": ("text", {"content": "a"}, "needs 'text'|'training_content'; it has 'content'"),
    "empty text": ("text", {"text": "\n"}, "column 'text' is empty"),
    "empty training_content": ("text", {"training_content": ""}, "column 'training_content' is empty"),
    "text of another type": ("text", {"text": ["a"]}, "column 'text' must be a string, not list"),
    "conversations missing": ("sharegpt", {"text": "a"}, "has no column 'conversations'; it has 'text'"),
    "conversations empty": ("sharegpt", turns(), "column 'conversations' must be a list that is not empty"),
    "conversations a string": (
        "sharegpt",
        {"conversations": "Hi"},
        "column 'conversations' must be a list that is not empty",
    ),
    "sharegpt: a turn without value": (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt"}]},
        "turn 2 must be an object with 'from' and 'value'",
    ),
    "sharegpt: a turn that is a string": (
        "sharegpt",
        {"conversations": ["Hi"]},
        "turn 1 must be an object with 'from' and 'value'",
    ),
    "sharegpt: an unknown role": (
        "sharegpt",
        turns(("human", "a"), ("bot", "b")),
        f"turn 2 has the unknown role 'bot'; known: {SHAREGPT_ROLES}",
    ),
    "sharegpt: a role that is no string": (
        "sharegpt",
        turns((["human"], "a"), ("gpt", "b")),
        f"turn 1 has the unknown role ['human']; known: {SHAREGPT_ROLES}",
    ),
    "sharegpt: a value of another type": (
        "sharegpt",
        turns(("human", "a"), ("gpt", None)),
        "turn 2: 'value' must be a string, not NoneType",
    ),
    "sharegpt: function_call is not JSON": (
        "sharegpt",
        turns(("human", "a"), ("function_call", "{name: f}")),
        "turn 2: function_call is not JSON: Expecting property name enclosed in double quotes",
    ),
    "sharegpt: function_call without a name": (
        "sharegpt",
        turns(("human", "a"), ("function_call", '{"arguments": {}}')),
        "turn 2: function_call must be JSON with 'name' and 'arguments'",
    ),
    "sharegpt: function_call of a number": (
        "sharegpt",
        turns(("human", "a"), ("function_call", "5")),
        "turn 2: function_call must be JSON with 'name' and 'arguments'",
    ),
    "sharegpt: tools are not JSON": (
        "sharegpt",
        turns(("human", "a"), ("gpt", "b"), tools='[{"name": }]'),
        "column 'tools' is not JSON: Expecting value",
    ),
    "sharegpt: tools of one object": (
        "sharegpt",
        turns(("human", "a"), ("gpt", "b"), tools='{"name": "f"}'),
        "column 'tools' must be a list of tools, or JSON of one",
    ),
    "sharegpt: a system column beside a system turn": (
        "sharegpt",
        turns(("system", "a"), ("human", "b"), ("gpt", "c"), system="d"),
        "a system message stands after the first place",
    ),
    "messages missing": (
        "messages",
        {"conversations": []},
        "has no column 'messages'; it has 'conversations'",
    ),
    "messages: no role": (
        "messages",
        {"messages": [{"content": "a"}]},
        "message 1 must be an object with 'role' and 'content'",
    ),
    "messages: an unknown role": (
        "messages",
        chat(("human", "a")),
        f"message 1 has the unknown role 'human'; known: {OPENAI_ROLES}",
    ),
    "messages: a role beyond words": (
        "messages",
        chat(("user", "a"), ("x" * 1000, "b")),
        f"message 2 has the unknown role 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...; known: {OPENAI_ROLES}",
    ),
    "messages: no content": (
        "messages",
        {"messages": [*said(("user", "a")), {"role": "assistant"}]},
        "message 2 must be an object with 'role' and 'content'",
    ),
    "messages: null content": (
        "messages",
        {"messages": [*said(("user", "a")), {"role": "assistant", "content": None}]},
        "message 2: 'content' must be a string, not NoneType",
    ),
    "messages: tools of a number": (
        "messages",
        chat(*ANSWERED, tools=5),
        "column 'tools' must be a list of tools, or JSON of one",
    ),
    "system in the middle": (
        "messages",
        chat(*ANSWERED, ("system", "a"), *ANSWERED),
        "a system message stands after the first place",
    ),
    "an answer before any question": (
        "messages",
        chat(("assistant", "a"), ("user", "b")),
        "turn 1 should be a user or tool turn, not assistant",
    ),
    "an answer first after the system message": (
        "messages",
        chat(("system", "s"), ("assistant", "a")),
        "turn 2 should be a user or tool turn, not assistant",
    ),
    "two questions in a row": (
        "messages",
        chat(("user", "a"), ("user", "b"), ("assistant", "c")),
        "turn 2 should be an assistant turn, not user (data.on_same_role=merge joins it to the one before)",
    ),
    "two answers in a row": (
        "messages",
        chat(*ANSWERED, ("assistant", "c")),
        "turn 3 should be a user or tool turn, not assistant (data.on_same_role=merge joins it to the one before)",
    ),
    "ends with the user": (
        "messages",
        chat(*ANSWERED, ("user", "b")),
        "the conversation does not end with an assistant turn",
    ),
    "ends with the user's only turn": (
        "sharegpt",
        turns(("human", "a")),
        "the conversation does not end with an assistant turn",
    ),
    "nothing but a system message": (
        "messages",
        chat(("system", "a")),
        "the conversation does not end with an assistant turn",
    ),
    "after two tools' answers, a turn is still numbered by its place": (
        "messages",
        chat(*ANSWERED, ("tool", "1"), ("tool", "2"), ("user", "b"), ("assistant", "c")),
        "turn 5 should be an assistant turn, not user",
    ),
    "an empty answer in between": (
        "messages",
        chat(("user", "a"), ("assistant", "\n"), *ANSWERED),
        "message 2 (assistant) is empty",
    ),
    "an empty question in a conversation": (
        "sharegpt",
        turns(("human", ""), ("gpt", "b")),
        "turn 1 (user) is empty",
    ),
    "an empty answer in history": (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["c", "d"], ["e", " "]]},
        "history pair 2: the answer is empty",
    ),
    "an empty question in history": (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["", "d"]]},
        "history pair 1: the question is empty",
    ),
    "a tool that is a string": ("messages", chat(*ANSWERED, tools=[WEATHER, "f"]), "tool 2 must be an object, not str"),
    "tools of an object": (
        "messages",
        chat(*ANSWERED, tools={}),
        "column 'tools' must be a list of tools, or JSON of one",
    ),
    "tools with half of a surrogate pair": (
        "messages",
        chat(*ANSWERED, tools='[{"name": "\\ud800"}]'),
        "column 'tools' is not JSON: half of a surrogate pair",
    ),
    "tools with a number that Python does not read": (
        "messages",
        chat(*ANSWERED, tools="[" + "9" * 5000 + "]"),
        "column 'tools' is not JSON: a number of too many digits",
    ),
    "tools nested without end": (
        "messages",
        chat(*ANSWERED, tools="[" * 200_000),
        "column 'tools' is not JSON: nested too deeply",
    ),
    "prompt_completion: a number for a prompt": (
        "prompt_completion",
        {"prompt": 1, "completion": "a"},
        "column 'prompt' must be a string or a list of messages, not int",
    ),
    "prompt_completion: a number for a completion": (
        "prompt_completion",
        {"prompt": "a", "completion": 1},
        "column 'completion' must be a string, a message or a list of messages, not int",
    ),
    "prompt_completion: no prompt": (
        "prompt_completion",
        {"completion": "a"},
        "has no column 'prompt'; it has 'completion'",
    ),
    "prompt_completion: a prompt that is answered already": (
        "prompt_completion",
        {"prompt": said(*ANSWERED), "completion": "a"},
        "the prompt does not end with a user or tool turn",
    ),
    "prompt_completion: a completion that begins with a question": (
        "prompt_completion",
        {"prompt": "a", "completion": said(*ANSWERED)},
        "completion: turn 1 should be an assistant turn, not user",
    ),
    "an empty last answer": (
        "messages",
        chat(("user", "a"), ("assistant", " ")),
        "the last assistant turn is empty",
    ),
}


def test_refused(subtests):
    for name, (format_, row, reason) in REFUSED.items():
        with subtests.test(name):
            assert refused(format_, row) == reason


def test_refused_column_has_the_users_name():
    columns = {"instruction": "question", "output": "answer"}
    reason = refused("alpaca", {"question": "a", "output": "b"}, columns)
    assert reason == "has no column 'answer'; it has 'question', 'output'"


def test_a_column_set_to_null_is_not_read():
    row = {"instruction": "a", "input": "b", "output": "c", "system": "d", "id": 1}
    columns = {"input": None, "system": None, "id": None}
    assert convert("alpaca", row, columns).messages == said(("user", "a"), ("assistant", "c"))
    assert Columns(row, columns).id is None
    reason = refused("alpaca", row, {"output": None})
    assert reason == "has no column 'output'; it has 'instruction', 'input', 'output', 'system', 'id'"
    reason = refused("text", {"text": "a"}, {"text": None, "training_content": None})
    assert reason == "needs columns that data.columns sets to null; it has 'text'"


def test_a_reason_names_no_more_than_twelve_columns():
    assert refused("text", {f"c{i}": i for i in range(20)}).endswith("'c10', 'c11', ...")


def test_id():
    values = ["a1", 7, -7, 0, "", None, True, 1.0, [1]]
    expected = ["a1", "7", "-7", "0", None, None, None, None, None]
    assert [Columns({"id": value}, {}).id for value in values] == expected
    assert [Columns({"key": value, "id": "not this"}, {"id": "key"}).id for value in values] == expected


def test_an_id_of_too_many_digits_for_python():
    assert Columns({"id": 10**5000}, {}).id == hex(10**5000)


def test_a_row_that_is_no_object(subtests):
    for row in (5, None, "a", [["a", 1]]):
        with subtests.test(repr(row)):
            assert refused("text", row) == "is not an object with columns"


def test_every_format_has_its_columns():
    assert list(COLUMNS) == list(CONVERTERS)
    assert all(columns[-1] == "id" and len(set(columns)) == len(columns) for columns in COLUMNS.values())
    assert TAGS == ("role", "content", "user", "assistant", "observation", "function", "system")
