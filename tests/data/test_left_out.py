"""What a template leaves out of rows is counted, by what of a row's own words does not come out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftlab.data.formats import Conversation, Pair, Prompt, RowError
from ftlab.data.ledger.table import ledger_lines
from ftlab.data.tokens.left_out import KINDS, LeftOut, kinds_of
from ftlab.data.tokens.shipped_templates import read_template, template_names
from ftlab.data.tokens.templates import Template
from tests.data.helpers import options, turns

EARLIER = "reasoning of earlier turns"
TOOL = {"type": "function", "function": {"name": "weather", "description": 'Tells the "weather".', "parameters": {}}}
CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": 'the "old" one'}}}
CALLED = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": '{"rain": "yes"}'},
    {"role": "assistant", "content": "It rains."},
]


def shipped(name: str) -> Template:
    return Template(read_template(name), {"bos_token": "<s>", "eos_token": "</s>"}, name)


def written_as(content: str, others: str = "{{ m.content }}") -> Template:
    """A template by what it writes of an assistant's message and of others."""
    answer = "{% generation %}" + content + "</s>{% endgeneration %}"
    source = "{% for m in messages %}{% if m.role == 'assistant' %}" + answer + "{% else %}" + others
    return Template(source + "\n{% endif %}{% endfor %}", {"eos_token": "</s>"}, "here")


def lost(template: Template, messages: list[dict[str, Any]], tools: Any = None) -> dict[str, list[int | None]]:
    """The messages, from 1, of which each kind is left out."""
    found: dict[str, list[int | None]] = {}
    record = Conversation(messages, tools)
    (losses,) = LeftOut(template).losses(record)
    for loss in losses:
        found.setdefault(loss.kind, []).append(None if loss.message is None else loss.message + 1)
    bits = LeftOut(template).bits(record, [template.text(messages, tools)])
    assert set(kinds_of(bits)) == set(found) - ({EARLIER} if "reasoning" in found else set())
    return found


def think(messages: list[dict[str, Any]], *reasoning: str, inline: bool = False) -> list[dict[str, Any]]:
    """Messages whose assistants reason."""
    of = iter(reasoning)
    return [
        message if message["role"] != "assistant"
        else {**message, "content": f"<think>\n{next(of)}\n</think>\n\n{message['content']}"} if inline
        else {**message, "reasoning_content": next(of)}
        for message in messages
    ]  # fmt: skip


FOUR = turns("2", "456", "7", "89", system="1")


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("qwen3", {EARLIER: [3]}), ("deepseek_r1", {}), ("qwen3_nothink", {EARLIER: [3], "reasoning": [5]})],
)
def test_reasoning(name, expected, inline):
    """Also where the words of what is left out stand elsewhere by chance: "4" in "456"."""
    for thoughts in (("First.", "Then."), ("4", "8"), ("same", "same")):
        assert lost(shipped(name), think(FOUR, *thoughts, inline=inline)) == expected


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (written_as("{{ m.content }}", "{% if m.role == 'user' %}{{ m.content }}{% endif %}"), FOUR,
         {"the system message": [1]}),
        (written_as("{{ m.content }}", "{{ m.role }}"), FOUR, {"the system message": [1], "a user's message": [2, 4]}),
        (written_as("{{ m.content if loop.last else 4 }}"), FOUR, {"an assistant's message": [3]}),
        (shipped("chatml"), [{**FOUR[1], "name": "Ada"}, *FOUR[2:]], {"names": [1]}),
        (shipped("chatml"), [{**FOUR[1], "name": "2"}, *FOUR[2:]], {"names": [1]}),
        (written_as("{{ m.content }}", "{{ m.name }}: {{ m.content }}"), [{**FOUR[1], "name": "Ada"}, FOUR[2]], {}),
        (shipped("chatml"), think(FOUR, "a", "b"), {EARLIER: [3], "reasoning": [5]}),
        (written_as("{{ m.thinking }}{{ m.content }}"), [FOUR[1], {**FOUR[2], "reasoning": "a"}], {}),
    ],
)  # fmt: skip
def test_parts(template, messages, expected):
    assert lost(template, messages) == expected


def test_tools_and_their_calls():
    blind = written_as("{{ m.content }}")
    assert lost(blind, CALLED, [TOOL]) == {"tool calls": [2], "tools": [None]}
    half = written_as("{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}")
    assert lost(half, CALLED) == {"tool calls": [2]}


@pytest.mark.parametrize("name", ["qwen", "qwen3", "mistral", "mistral_nemo", "llama3_1"])
def test_words_that_are_written_as_json_are_not_left_out(name):
    assert lost(shipped(name), CALLED, [TOOL]) == {}


@pytest.mark.parametrize("how", ["| trim", "| upper", "| tojson", "| replace(' ', '_')", "| e", "[1:]", "| indent"])
def test_words_that_are_written_otherwise_are_not_left_out(how):
    template = written_as("{{ m.content " + how + " }}", "{{ m.content " + how + " }}")
    assert lost(template, turns("  Where\nis   <it>?\n", ' "Here" é ', system="\tBe kind. ")) == {}


def test_all_shipped_templates_keep_a_plain_conversation():
    """Roles with other names and spaces that are stripped are no losses; a system message is refused or written."""
    for name in template_names():
        for messages in (turns(" 1\n", "2 ", "3", "4\n\n", system=" Be kind.\n"), turns("1", "2")):
            try:
                assert lost(shipped(name), messages) == {}
            except RowError:
                assert messages[0]["role"] == "system"


WORDS = st.sampled_from(["4", "456", " a \n", '{"x": "y"}', "one two three", "s", "say: 4", "user", "it's"])


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    found = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        found.append({"role": "user", "content": draw(WORDS)})
        found[-1] |= {"name": draw(WORDS)} if draw(st.integers(0, 3)) == 0 else {}
        answer = {"role": "assistant", "content": draw(WORDS)}
        how = draw(st.sampled_from(["none", "key", "inline"]))
        found += think([answer], draw(WORDS), inline=how == "inline") if how != "none" else [answer]
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(template_names()), conversations())
def test_a_part_is_left_out_if_the_text_is_the_same_without_its_words(name, messages):
    """Judged once more by changing one part at a time, its first and last letters kept."""
    template = shipped(name)
    try:
        text = template.text(messages)
    except RowError:
        return
    expected: dict[str, list[int]] = {}
    questions = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for i, message in enumerate(messages):
        kinds = {"content": {"system": "the system message", "user": "a user's message"}.get(message["role"]),
                 "name": "names", "reasoning_content": EARLIER if i < questions[-1] else "reasoning"}  # fmt: skip
        for key, kind in kinds.items():
            if key not in message:
                continue
            pieces = {key: kind or "an assistant's message"}
            if key == "content" and "</think>" in message[key]:
                pieces = {"<think>\n": kinds["reasoning_content"], "</think>\n\n": "an assistant's message"}
            for piece, of in pieces.items():
                other = copy.deepcopy(messages)
                head, sep, tail = message[key].partition(piece) if piece != key else ("", "", message[key])
                first = len(tail) - len(tail.lstrip()) + 1
                other[i][key] = f"{head}{sep}{tail[:first]}QQQ{tail[:first].strip()}{tail[first:]}"
                if template.text(other) == text:
                    expected.setdefault(of, []).append(i + 1)
    assert lost(template, messages) == expected


def test_the_ledger_counts_rows_and_says_what_to_do(bench, write):
    rows = [{"messages": think(FOUR, "a", "b")}, {"messages": FOUR}, {"messages": [{**FOUR[1], "name": "x"}, FOUR[2]]}]
    path = write("rows.jsonl", [*rows, *rows[:1]])
    template = Template.for_tokenizer(bench.tokenizer, "qwen3")
    prepared = bench.prepare(*options("messages", path, "data.max_length=512"), template=template)
    counted = {EARLIER: {"rows": 2, "first": [f"{path}:1", f"{path}:4"]}, "names": {"rows": 1, "first": [f"{path}:3"]}}
    assert prepared.ledger.as_dict()["splits"]["train"]["left_out_by_template"] == counted
    told = [str(line) for line in ledger_lines(prepared.ledger, False, None) if "leaves out" in str(line)]
    assert told == [
        f"[yellow]train: 2 of 4 rows: the template leaves out {EARLIER}, first {path}:1. {KINDS[EARLIER]}[/yellow]",
        f"[yellow]train: 1 of 4 rows: the template leaves out names, first {path}:3. {KINDS['names']}[/yellow]",
    ]
    kept = bench.prepare(*options("messages", write("plain.jsonl", rows[1:2]), "data.max_length=512"))
    assert kept.ledger.as_dict()["splits"]["train"]["left_out_by_template"] == {}


def test_pairs_and_prompts():
    template = shipped("qwen3")
    first = think(FOUR[:3], "a")
    pair = Pair([*first, FOUR[3]], think(FOUR[4:], "b"), FOUR[4:])
    of_pair = LeftOut(template).losses(pair)
    assert [[(loss.kind, loss.message) for loss in losses] for losses in of_pair] == [[(EARLIER, 2)]] * 2
    (asked,) = LeftOut(template).losses(Prompt([*first, FOUR[3]], "89", {}))
    assert [(loss.kind, loss.message) for loss in asked] == [(EARLIER, 2)]


def test_the_advice_helps():
    thinking = think(FOUR, "a", "b")
    for name in ("qwen3", "deepseek_r1"):
        assert name in KINDS["reasoning"] and "reasoning" not in lost(shipped(name), thinking)
    cut = [thinking[:3], thinking]  # each answer is once the last
    assert [lost(shipped("qwen3"), messages).get("reasoning") for messages in cut] == [None, None]
    assert lost(shipped("qwen3"), thinking[:3]) == {}
    assert lost(shipped("chatml"), think(FOUR, "a", "b", inline=True)) == {}
    for name in ("qwen", "llama3_1"):
        assert name in KINDS["tools"] and lost(shipped(name), CALLED, [TOOL]) == {}
