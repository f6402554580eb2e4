"""Lists of messages as OpenAI's API, ShareGPT and users' own words have them."""

from __future__ import annotations

import json

import pytest

from ftlab.data import prepare
from ftlab.data.formats import CONVERTERS, Columns, Conversation, RowError
from ftlab.data.sources.resolve import resolve
from ftlab.errors import DataError
from tests.runs import make_run


def convert(messages, format_="messages", tags=None, **more):
    column = {"messages": "messages"}.get(format_, "conversations")
    return CONVERTERS[format_](Columns({column: messages, **more}, {}, tags or {}))


def refused(messages, format_="messages", tags=None, **more):
    with pytest.raises(RowError) as caught:
        convert(messages, format_, tags, **more)
    return str(caught.value)


def user(content="Hi", **more):
    return {"role": "user", "content": content, **more}


def assistant(content="Hello", **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_tool_calls_and_results():
    messages = [
        user("Rain in Oslo and Rome?"),
        assistant(
            None,
            tool_calls=[
                {"id": "1", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Oslo"}'}},
                {"id": "2", "type": "function", "function": {"name": "rain", "arguments": {"city": "Rome"}}},
            ],
        ),
        {"role": "tool", "content": "yes", "tool_call_id": "1", "name": "rain"},
        {"role": "tool", "content": "", "tool_call_id": "2"},
        assistant("In Oslo.", reasoning_content="Only one said yes."),
    ]
    assert convert(messages, tools='[{"name": "rain"}]') == Conversation(
        [
            {"role": "user", "content": "Rain in Oslo and Rome?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "rain", "arguments": {"city": "Oslo"}}},
                    {"id": "2", "type": "function", "function": {"name": "rain", "arguments": {"city": "Rome"}}},
                ],
            },
            {"role": "tool", "content": "yes", "tool_call_id": "1", "name": "rain"},
            {"role": "tool", "content": "", "tool_call_id": "2"},
            {"role": "assistant", "content": "In Oslo.", "reasoning_content": "Only one said yes."},
        ],
        [{"type": "function", "function": {"name": "rain"}}],
    )


def test_no_arguments_are_an_empty_object():
    made = [call("now", arguments) for arguments in (None, "", " ", "{}", {})]
    found = convert([user(), assistant("", tool_calls=made)])
    assert found.messages[1]["tool_calls"] == [call("now", {})] * len(made)


def test_a_tool_call_without_its_wrapping():
    found = convert([user(), assistant("", tool_calls=[{"id": "7", "name": "now", "arguments": "{}"}])])
    assert found.messages[1]["tool_calls"] == [call("now", {}, id="7")]


def test_content_beside_a_tool_call_stays():
    found = convert([user(), assistant("Let me see.", tool_calls=[call("now", {})])])
    assert found.messages[1] == {"role": "assistant", "content": "Let me see.", "tool_calls": [call("now", {})]}


def test_the_legacy_function_call_and_its_result():
    found = convert(
        [
            user("Rain?"),
            {"role": "assistant", "content": None, "function_call": {"name": "rain", "arguments": '{"x": 1}'}},
            {"role": "function", "name": "rain", "content": "no"},
            assistant("No."),
        ]
    )
    assert found.messages == [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [call("rain", {"x": 1})]},
        {"role": "tool", "content": "no", "name": "rain"},
        {"role": "assistant", "content": "No."},
    ]


def test_a_developer_is_the_system():
    found = convert([{"role": "developer", "content": "Be kind."}, user(), assistant()])
    assert found.messages[0] == {"role": "system", "content": "Be kind."}


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there", "image_url": None}]
    assert convert([user(parts), assistant()]).messages == [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello"},
    ]


def test_keys_that_are_null_are_absent():
    """A Parquet file has every key in every message."""
    nulls = {"name": None, "tool_calls": None, "function_call": None, "weight": None, "train": None}
    assert convert([user(**nulls), assistant(**nulls)]) == Conversation([user(), assistant()], None, None)


def test_keys_of_their_own_stay():
    assert convert([user(), assistant(thinking="Hm.")]).messages[1] == assistant(thinking="Hm.")


TRAINS = [
    ([user(), assistant(), user(), assistant()], None),
    ([user(), assistant(weight=0), user(), assistant(weight=1)], [False, False, False, True]),
    ([user(), assistant(weight=0), user(), assistant()], [False, False, False, True]),
    ([user(), assistant(weight=1.0), user(), assistant(weight=0.0)], [False, True, False, False]),
    ([user(train=True), assistant(train=False), user(), assistant()], [True, False, False, True]),
    ([user(), assistant(weight=1, train=True)], [False, True]),
    ([{"role": "system", "content": "", "train": True}, user(), assistant(train=False)], [False, False]),
]


def test_what_messages_say_of_being_trained():
    found = [convert(messages) for messages, _ in TRAINS]
    assert [one.trains for one in found] == [trains for _, trains in TRAINS]
    assert not {"weight", "train"} & {key for one in found for message in one.messages for key in message}


def test_turns_of_sharegpt_say_it_too():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": False}]
    assert convert(turns, "sharegpt", system="s") == Conversation(
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ],
        None,
        [False, False, False],
    )


@pytest.mark.parametrize(
    ("completion", "trains"),
    [("c", [False, False, False, True]), ([assistant("c", train=False)], [False, False, False, False])],
)
def test_an_answer_within_a_prompt_is_not_what_a_completion_teaches(completion, trains):
    row = {"prompt": [user(), assistant(), user()], "completion": completion}
    found = CONVERTERS["prompt_completion"](Columns(row, {}))
    assert found == Conversation([user(), assistant(), user(), assistant("c")], None, trains)


TAGGED = {
    "sharegpt with OpenAI's words": (
        "sharegpt",
        {"role": "role", "content": "content", "user": "user", "assistant": "assistant"},
        [user(), assistant()],
        [user(), assistant()],
    ),
    "sharegpt: the words not given are the default ones": (
        "sharegpt",
        {"role": "speaker", "assistant": "bot"},
        [
            {"speaker": "system", "value": "s"},
            {"speaker": "human", "value": "a"},
            {"speaker": "function_call", "value": '{"name": "f"}'},
            {"speaker": "observation", "value": "1"},
            {"speaker": "bot", "value": "b"},
        ],
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call("f", {})]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "b"},
        ],
    ),
    "messages with a role of its own for calls": (
        "messages",
        {"function": "caller", "observation": "result"},
        [user(), {"role": "caller", "content": '{"name": "f"}'}, {"role": "result", "content": "1"}, assistant()],
        [
            user(),
            {"role": "assistant", "content": "", "tool_calls": [call("f", {})]},
            {"role": "tool", "content": "1"},
            assistant(),
        ],
    ),
    "words that have changed places": (
        "sharegpt",
        {"user": "gpt", "assistant": "human"},
        [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}],
        [user("a"), assistant("b")],
    ),
}


def test_tags(subtests):
    for name, (format_, tags, turns, expected) in TAGGED.items():
        with subtests.test(name):
            assert convert(turns, format_, tags).messages == expected


def test_a_word_replaced_by_a_tag_is_known_no_more():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    known = "human, observation, function_call, system, bot"
    assert refused(turns, "sharegpt", {"assistant": "bot"}) == f"turn 2 has the unknown role 'gpt'; known: {known}"
    assert refused([user(), {"role": "function", "content": "1"}], tags={"user": "user"}).startswith(
        "message 2 has the unknown role 'function'; known: "
    )


REFUSED = {
    "a string for a message": (["Hi"], "message 1 must be an object with 'role' and 'content'"),
    "a list for a message": ([["role", "content"]], "message 1 must be an object with 'role' and 'content'"),
    "a role that is a number": (
        [{"role": 1, "content": "a"}],
        "message 1 has the unknown role 1; known: system, developer, user, assistant, tool, function",
    ),
    "content that is a number": ([user(5)], "message 1: 'content' must be a string, not int"),
    "an image": (
        [user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}])],
        "message 1: a part of 'content' is of type 'image_url'; only 'text' can be read",
    ),
    "a part that is a string": (
        [user(["a"])],
        "message 1: a part of 'content' must be an object with 'type' and 'text'",
    ),
    "a part without text": (
        [user([{"type": "text"}])],
        "message 1: a part of 'content' must be an object with 'type' and 'text'",
    ),
    "no parts": ([user([]), assistant()], "message 1 (user) is empty"),
    "half a weight": ([user(), assistant(weight=0.5)], "message 2: 'weight' must be 0 or 1, not 0.5"),
    "a weight in words": ([user(), assistant(weight="1")], "message 2: 'weight' must be 0 or 1, not '1'"),
    "a train that is a number": ([user(), assistant(train=1)], "message 2: 'train' must be true or false, not 1"),
    "weight against train": (
        [user(), assistant(train=True, weight=0)],
        "message 2: 'weight' and 'train' contradict each other",
    ),
    "a name that is a number": ([user(name=5), assistant()], "message 1: 'name' must be a string, not int"),
    "a user who calls tools": (
        [user(tool_calls=[call("f", {})]), assistant()],
        "message 1: only an assistant calls tools, not user",
    ),
    "tool_calls of one call": (
        [user(), assistant(tool_calls=call("f", {}))],
        "message 2: 'tool_calls' must be a list, not dict",
    ),
    "a tool call that is a string": (
        [user(), assistant(tool_calls=["f"])],
        "message 2: a tool call must be an object with 'name' and 'arguments'",
    ),
    "a tool call without a name": (
        [user(), assistant(tool_calls=[{"function": {"arguments": {}}}])],
        "message 2: a tool call must be an object with 'name' and 'arguments'",
    ),
    "a tool call of another type": (
        [user(), assistant(tool_calls=[{"type": "custom", "custom": {}}])],
        "message 2: a tool call is of type 'custom'; only 'function' can be read",
    ),
    "arguments that are a list": (
        [user(), assistant(tool_calls=[call("f", "[1]")])],
        "message 2: the arguments of a tool call must be an object, not list",
    ),
    "arguments that are no JSON": (
        [user(), assistant(tool_calls=[call("f", "{x}")])],
        "message 2: the arguments of a tool call are not JSON: Expecting property name enclosed in double quotes",
    ),
    "arguments with half of a surrogate pair": (
        [user(), assistant(tool_calls=[call("f", '{"x": "\\ud800"}')])],
        "message 2: the arguments of a tool call are not JSON: half of a surrogate pair",
    ),
    "two ways of calling": (
        [user(), assistant(tool_calls=[call("f", {})], function_call={"name": "f"})],
        "message 2 has both 'tool_calls' and 'function_call'",
    ),
    "a legacy call of a string": (
        [user(), assistant(function_call="f")],
        "message 2: 'function_call' must be an object with 'name' and 'arguments'",
    ),
    "no tool calls and no content": (
        [user(), assistant(None, tool_calls=[])],
        "message 2: 'content' must be a string, not NoneType",
    ),
}


def test_refused(subtests):
    for name, (messages, reason) in REFUSED.items():
        with subtests.test(name):
            assert refused(messages) == reason


def test_a_function_call_of_no_calls():
    turns = [{"from": "human", "value": "a"}, {"from": "function_call", "value": "[]"}]
    assert refused(turns, "sharegpt") == "turn 2: function_call must be JSON with 'name' and 'arguments'"


def test_the_row_is_left_as_it_was():
    made = [call("f", "{}", id="1")]
    row = [user([{"type": "text", "text": "a"}]), assistant(None, tool_calls=made, weight=0), user(), assistant()]
    before = repr(row)
    convert(row)
    assert repr(row) == before


QUESTIONS = [
    {"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "A"},
    {"role": "assistant", "content": "B"}, {"role": "user", "content": "Three?"}, {"role": "assistant", "content": "C"},
]  # fmt: skip


def test_turns_of_one_side_in_a_row_are_joined_where_that_is_wanted():
    row = {"messages": [dict(turn) for turn in QUESTIONS]}
    with pytest.raises(RowError, match="turn 2 should be an assistant turn, not user"):
        CONVERTERS["messages"](Columns(row, {}))
    found = CONVERTERS["messages"](Columns(row, {}, {}, merges=True))
    assert [(turn["role"], turn["content"]) for turn in found.messages] == [
        ("user", "One?\n\nTwo?"), ("assistant", "A\n\nB"), ("user", "Three?"), ("assistant", "C"),
    ]  # fmt: skip
    assert row["messages"] == QUESTIONS, "the row is left as it was"


def test_turns_that_are_trained_otherwise_are_not_joined():
    turns = [*QUESTIONS[:3], {**QUESTIONS[3], "weight": 0}]
    with pytest.raises(RowError, match="message 4 is merged with the one before it, and only one of them is trained"):
        CONVERTERS["messages"](Columns({"messages": turns}, {}, {}, merges=True))
    both = [*QUESTIONS[:2], *({**turn, "weight": 0} for turn in QUESTIONS[2:4]), *QUESTIONS[4:]]
    assert CONVERTERS["messages"](Columns({"messages": both}, {}, {}, merges=True)).trains == [
        False,
        False,
        False,
        True,
    ]


def test_what_both_turns_have_is_kept():
    turns = [{**turn, "name": "Ada"} for turn in QUESTIONS[:2]]
    found = CONVERTERS["messages"](Columns({"messages": [*turns, QUESTIONS[2]]}, {}, {}, merges=True))
    assert found.messages[0] == {"role": "user", "content": "One?\n\nTwo?", "name": "Ada"}


@pytest.mark.parametrize("turns", [
    [{"role": "system", "content": "x"}, {"role": "system", "content": "y"}, *QUESTIONS[1:3]],
    [QUESTIONS[0], {"role": "tool", "content": "x"}, QUESTIONS[2]],
    [*QUESTIONS[1:3], {**QUESTIONS[3], "reasoning_content": "of this answer alone"}],
    [QUESTIONS[0], {**QUESTIONS[1], "name": "another"}, QUESTIONS[2]],
])  # fmt: skip
def test_what_is_not_text_of_one_side_is_refused_as_before(turns):
    with pytest.raises(RowError):
        CONVERTERS["messages"](Columns({"messages": turns}, {}, {}, merges=True))


def part(kind, value):
    return {"type": kind, "value": value}


CALL = json.dumps({"name": "add", "arguments": {"x": 1}})


def test_rows_of_llamafactorys_v1():
    """Parts with a value, reasoning and calls among them, and a weight for each message."""
    turns = [
        {"role": "system", "content": [part("text", "Be "), part("text", "brief.")], "loss_weight": 0.0},
        {"role": "user", "content": [part("text", "1 + 1?")], "loss_weight": 0.0},
        {"role": "assistant", "loss_weight": 1.0,
         "content": [part("reasoning", "Adding."), part("text", "Let me."), part("tool_call", CALL)]},
        {"role": "tool", "content": [part("text", "2")], "loss_weight": 0.0},
        {"role": "assistant", "content": [part("text", "2")], "loss_weight": 0.0},
    ]  # fmt: skip
    found = CONVERTERS["messages"](Columns({"messages": turns}, {}))
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    assert found.messages == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "Let me.", "reasoning_content": "Adding.", "tool_calls": [call]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": "2"},
    ]  # fmt: skip
    assert found.trains == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"content": [part("image_url", "cat.png")]},
         "message 1: a part of 'content' is of type 'image_url'; only 'text', 'reasoning', 'tool_call' can be read"),
        ({"content": [part("text", 7)]}, "message 1: a part of 'content' must be an object with 'type' and 'value'"),
        ({"content": [part("text", "x")], "loss_weight": 0.5}, "message 1: 'loss_weight' must be 0 or 1, not 0.5"),
    ],
)  # fmt: skip
def test_what_of_them_cannot_be_read_is_told(change, told):
    turns = [{"role": "user", "content": "x", **change}, {"role": "assistant", "content": "y"}]
    with pytest.raises(RowError) as error:
        CONVERTERS["messages"](Columns({"messages": turns}, {}))
    assert str(error.value) == told


# --- two turns of one side in a row ----------------------------------------------------------------------------------

TWICE = [user("One."), user("Two."), assistant("A."), assistant("B."), user("Three."), assistant("C.")]


def test_two_turns_of_one_side_in_a_row_are_refused_or_joined_as_the_config_says(write):
    """``data.on_same_role``, of a run's own command line."""
    path = write("rows.jsonl", [{"messages": TWICE}])
    found = {}
    for choice in ("error", "merge"):
        run = make_run(f"data.path={path}", "data.format=messages", f"data.on_same_role={choice}")
        (source,) = resolve(run.data, "sft")
        try:
            prepare.check_first_rows([source], run.data)
            found[choice] = prepare._convert(source, {"messages": TWICE})
        except DataError as error:
            found[choice] = str(error)
    reason = "turn 2 should be an assistant turn, not user (data.on_same_role=merge joins it to the one before)"
    assert f"{path}, row 1: {reason}." in found["error"]
    joined = [user("One.\n\nTwo."), assistant("A.\n\nB."), user("Three."), assistant("C.")]
    assert found["merge"] == Conversation(joined)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user(), assistant(None, tool_calls=[call("f", {})]), assistant()], "turn 3 should be a user or tool turn"),
        ([user(), assistant(), assistant(loss_weight=0)], "message 3 is merged with the one before it, and only one"),
    ],
)
def test_what_is_not_text_alone_or_not_trained_alike_is_not_joined(messages, reason):
    with pytest.raises(RowError, match=reason):
        CONVERTERS["messages"](Columns({"messages": messages}, {}, {}, merges=True))
