"""Whatever JSON a row holds, it becomes a record or is refused with a reason; nothing else is ever raised."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ftlab.data.formats import COLUMNS, CONVERTERS, TAGS, Columns, Conversation, Labelled, Pair, Prompt, RowError, Text

ROLES = ["user", "assistant", "system", "tool", "developer", "function", "human", "gpt", "observation", "function_call"]
KEYS = ["role", "content", "from", "value", "tool_calls", "function_call", "weight", "train", "name", "type", "text"]
WORDS = [*ROLES, "", " ", "a", "b", "true", "0", "[]", '{"name": "f"}', '[{"name": "f", "arguments": "{}"}]', "\\u"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=5),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*KEYS, "function", "arguments"]), inner, max_size=4),
    ),
    max_leaves=8,
)
calls = st.lists(
    st.fixed_dictionaries({}, optional={"type": scalars, "function": anything, "name": scalars, "arguments": anything}),
    max_size=2,
)
roles = st.sampled_from(ROLES)
message = st.one_of(
    st.fixed_dictionaries({"role": roles, "content": st.sampled_from(WORDS)}),
    st.fixed_dictionaries({"from": roles, "value": st.sampled_from(WORDS)}),
    st.fixed_dictionaries(
        {"role": roles | scalars, "content": anything},
        optional={"tool_calls": calls, "weight": scalars, "train": scalars, "name": scalars, "function_call": anything},
    ),
)
talk = st.builds(  # turns in the right order, which chance alone rarely gives
    lambda texts, keys, words: [dict(zip(keys, (words[i % 2], text))) for i, text in enumerate(texts)],
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5),
    st.sampled_from([("role", "content"), ("from", "value")]),
    st.sampled_from([("user", "assistant"), ("human", "gpt"), ("assistant", "user")]),
)
column = st.one_of(st.sampled_from(["a", "b"]), talk, st.lists(message, max_size=4), message, anything)
answer = st.one_of(st.sampled_from(["c", "d"]), st.just({"role": "assistant", "content": "e"}), talk)
USUAL = {  # rows that chance alone would not make: what a format needs, in the right kind
    "alpaca": {"instruction": st.just("a"), "output": st.just("b")},
    "sharegpt": {"conversations": talk},
    "messages": {"messages": talk},
    "instruction": {"instruction": st.just("a"), "response": st.just("b")},
    "prompt_completion": {"prompt": st.just("a") | talk, "completion": answer},
    "preference": {"chosen": answer, "rejected": answer},
    "kto": {"label": st.booleans(), "completion": answer},
    "prompts": {"prompt": st.just("a") | talk},
    "text": {"text": st.just("a")},
}
tags = st.just({}) | st.dictionaries(
    st.sampled_from(TAGS), st.sampled_from(["role", "content", "from", "user", "gpt"]), max_size=3
)

ENDS = {"user", "tool"}


def check(record):
    """What every stage may rely on."""
    match record:
        case Text(text):
            assert text.strip()
        case Conversation(messages, _, trains):
            check_messages(messages)
            assert messages[-1]["role"] == "assistant"
            assert trains is None or [type(said) for said in trains] == [bool] * len(messages)
        case Pair(prompt, chosen, rejected):
            assert chosen != rejected
            for answer in (chosen, rejected):
                check_messages([*prompt, *answer])
                assert prompt[-1]["role"] in ENDS
                assert answer[0]["role"] == answer[-1]["role"] == "assistant"
        case Labelled(prompt, answer, label):
            check_messages([*prompt, *answer])
            assert prompt[-1]["role"] in ENDS
            assert answer[0]["role"] == answer[-1]["role"] == "assistant"
            assert type(label) is bool
        case Prompt(messages, answer, columns):
            check_messages(messages)
            assert messages[-1]["role"] in ENDS
            assert answer is None or answer.strip()
            assert isinstance(columns, dict)
    tools = getattr(record, "tools", None)
    assert tools is None or (tools and all(isinstance(tool, dict) for tool in tools))


def check_messages(messages):
    before = None
    for message in messages:
        role, content, made = message["role"], message["content"], message.get("tool_calls")
        assert isinstance(content, str)
        assert content.strip() or role == "tool" or made
        assert (role == "assistant") == (before in ENDS) or (role == before == "tool")
        assert role in ({"user", "assistant", "tool", "system"} if before is None else {"user", "assistant", "tool"})
        assert made is None or (made and role == "assistant")
        for call in made or []:
            assert call["type"] == "function"
            assert isinstance(call["function"]["name"], str)
            assert isinstance(call["function"]["arguments"], dict)
        before = None if role == "system" else role
    assert any(message["role"] in ENDS for message in messages)


@pytest.mark.parametrize("format_", CONVERTERS)
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_record_or_a_reason(format_, data):
    names = COLUMNS[format_]
    usual = data.draw(st.sampled_from([{}, USUAL[format_]]))
    odd = dict.fromkeys(data.draw(st.lists(st.sampled_from([*names, "other"]), max_size=4)), column)
    row = data.draw(st.fixed_dictionaries({**usual, **odd}))
    before = pickle.dumps(row)
    columns = Columns(row, {}, data.draw(tags))
    assert columns.id is None or isinstance(columns.id, str)
    try:
        record = CONVERTERS[format_](columns)
    except RowError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        check(record)
        event("a record")
    assert pickle.dumps(row) == before


def nested():
    """A list within a list, further than Python compares or writes one."""
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


def check_odd(format_, odd):
    call = {"function": {"name": "f", "arguments": odd}}
    asked = {"role": "user", "content": "a"}
    values = [
        odd,
        [odd],
        {"role": odd, "content": odd},
        [{"role": "user", "content": odd}],
        [{"role": odd, "content": "a"}],
        [{"from": odd, "value": "a"}],
        [asked, {"role": "assistant", "content": "b", "weight": odd, "train": odd}],
        [asked, {"role": "assistant", "content": [{"type": odd, "text": odd}]}],
        [asked, {"role": "assistant", "content": "b", "tool_calls": [call]}],
        [asked, {"role": "assistant", "content": "b", "tool_calls": [{"type": odd, **call}]}],
        [asked, {"role": "assistant", "content": "b", "other": odd}],
    ]
    for name in COLUMNS[format_]:
        for value in values:
            row = {"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d", "label": 1, name: value}
            columns = Columns(row, {})
            assert columns.id is None or isinstance(columns.id, str)
            try:
                CONVERTERS[format_](columns)
            except RowError as error:
                assert len(str(error)) < 300


def test_what_python_itself_cannot_write(subtests):
    """Not drawn by hypothesis, which could not print them either."""
    values = {"nested": nested(), "huge": 10**5000, "nan": math.nan, "infinite": -math.inf}
    for format_ in CONVERTERS:
        for name, odd in values.items():
            with subtests.test(f"{format_}, {name}"):
                check_odd(format_, odd)


def test_answers_that_cannot_be_compared():
    chosen, rejected = ({"role": "assistant", "content": "b", "extra": nested()} for _ in range(2))
    with pytest.raises(RowError, match="nested too deeply"):
        CONVERTERS["preference"](Columns({"prompt": "a", "chosen": chosen, "rejected": rejected}, {}))
