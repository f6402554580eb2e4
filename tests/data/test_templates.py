"""What the model reads and what it learns of it, spelled out.

The tiny tokenizer may be trained anew, so no id is written here, and of its vocabulary only this is taken for granted:
a special token is one token, and so is a digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftlab.data.formats import Conversation, RowError
from ftlab.data.tokens.shipped_templates import template_names
from ftlab.data.tokens.templates import Rendered, Template, prompt_and_answer
from ftlab.errors import NotReadyError

START, END = "<|im_start|>", "<|im_end|>"
TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"


@dataclass(frozen=True)
class Reader:
    """The tiny model's tokenizer and template. Which tokens are trained is told from their offsets alone."""

    tokenizer: Any
    template: Template

    def encode(self, messages, tools=None, template=None) -> tuple[list[int], list[bool]]:
        """Ids, and whether each is trained: whether all of its text stands in a span."""
        rendered = (template or self.template).render(Conversation(messages, tools))
        read = self.tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
        inside = [
            any(start <= first and last <= end for start, end in rendered.spans)
            for first, last in read["offset_mapping"]
        ]
        return read["input_ids"], inside

    def pieces(self, messages, tools=None, template=None) -> list[tuple[str, bool]]:
        """Every token's own text, and whether it is trained."""
        ids, trained = self.encode(messages, tools, template)
        return [(self.tokenizer.decode([id_]), flag) for id_, flag in zip(ids, trained)]


@pytest.fixture(scope="module")
def tiny() -> Reader:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    return Reader(tokenizer, Template.for_tokenizer(tokenizer))


TWO_TURNS = [
    {"role": "system", "content": "You are a clerk."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris, of course."},
    {"role": "user", "content": "And of Norway?"},
    {"role": "assistant", "content": "Oslo.\n\nAnything else?"},
]
TWO_TURNS_TEXT = (
    "<|im_start|>system\nYou are a clerk.<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\nParis, of course.<|im_end|>\n"
    "<|im_start|>user\nAnd of Norway?<|im_end|>\n"
    "<|im_start|>assistant\nOslo.\n\nAnything else?<|im_end|>\n"
)
DIGITS = [
    {"role": "system", "content": "1"},
    {"role": "user", "content": "23"},
    {"role": "assistant", "content": "456"},
    {"role": "user", "content": "7"},
    {"role": "assistant", "content": "89"},
]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}
CALLED = [
    {"role": "user", "content": "Rain in Oslo and Rome?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}},
            {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        ],
    },
    {"role": "tool", "content": '{"rain": true}'},
    {"role": "assistant", "content": "It rains."},
]
CALLED_TEXT = (
    "<|im_start|>system\n"
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    '{"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}\n'
    "</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call><|im_end|>\n"
    "<|im_start|>user\nRain in Oslo and Rome?<|im_end|>\n"
    "<|im_start|>assistant\n"
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>\n'
    '<|im_start|>user\n<tool_response>\n{"rain": true}\n</tool_response><|im_end|>\n'
    "<|im_start|>assistant\nIt rains.<|im_end|>\n"
)


def stretches(pieces):
    """Neighbouring tokens of one kind joined: (text, trained?)."""
    joined: list[tuple[str, bool]] = []
    for text, trained in pieces:
        if joined and joined[-1][1] == trained:
            joined[-1] = (joined[-1][0] + text, trained)
        else:
            joined.append((text, trained))
    return joined


def test_two_turns_and_a_system_message_token_by_token(tiny):
    expected = [
        ("<|im_start|>", False), ("system", False), ("\n", False),
        ("1", False), ("<|im_end|>", False), ("\n", False),
        ("<|im_start|>", False), ("user", False), ("\n", False),
        ("2", False), ("3", False), ("<|im_end|>", False), ("\n", False),
        ("<|im_start|>", False), ("assistant", False), ("\n", False),
        ("4", True), ("5", True), ("6", True), ("<|im_end|>", True), ("\n", False),
        ("<|im_start|>", False), ("user", False), ("\n", False),
        ("7", False), ("<|im_end|>", False), ("\n", False),
        ("<|im_start|>", False), ("assistant", False), ("\n", False),
        ("8", True), ("9", True), ("<|im_end|>", True), ("\n", False),
    ]  # fmt: skip
    pieces = iter(tiny.pieces(DIGITS))
    found = []
    for wanted, _ in expected:
        text, trained = next(pieces)
        while wanted in ("system", "user", "assistant") and text != wanted and wanted.startswith(text):
            more, flag = next(pieces)  # a vocabulary may spell the name of a role in several tokens
            text, trained = text + more, trained or flag
        found.append((text, trained))
    assert found == expected
    assert list(pieces) == []


def test_token_by_token_where_no_vocabulary_has_a_say(tiny):
    """The same with a template of digits and special tokens alone, so that every token is known."""
    marked = "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    source = (
        "{% for message in messages %}<|im_start|>{% if message.role == 'assistant' %}0" + marked + "{% else %}1"
        "{{ message.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    assert tiny.pieces(DIGITS, template=Template(source, {}, "this test")) == [
        ("<|im_start|>", False), ("1", False), ("1", False), ("<|im_end|>", False),
        ("<|im_start|>", False), ("1", False), ("2", False), ("3", False), ("<|im_end|>", False),
        ("<|im_start|>", False), ("0", False), ("4", True), ("5", True), ("6", True), ("<|im_end|>", True),
        ("<|im_start|>", False), ("1", False), ("7", False), ("<|im_end|>", False),
        ("<|im_start|>", False), ("0", False), ("8", True), ("9", True), ("<|im_end|>", True),
    ]  # fmt: skip


def test_two_turns_and_a_system_message_in_words(tiny):
    assert stretches(tiny.pieces(TWO_TURNS)) == [
        (
            "<|im_start|>system\nYou are a clerk.<|im_end|>\n"
            "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
            "<|im_start|>assistant\n",
            False,
        ),
        ("Paris, of course.<|im_end|>", True),
        ("\n<|im_start|>user\nAnd of Norway?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Oslo.\n\nAnything else?<|im_end|>", True),
        ("\n", False),
    ]


def test_spans_are_the_content_and_the_end_of_turn(tiny):
    rendered = tiny.template.render(Conversation(TWO_TURNS))
    assert rendered.text == TWO_TURNS_TEXT
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        "Paris, of course.<|im_end|>",
        "Oslo.\n\nAnything else?<|im_end|>",
    ]
    assert rendered.turns == [2, 4]


def test_the_token_that_stops_generation_is_a_label_of_every_turn(tiny):
    from ftlab.model.tokenizer import stop_tokens

    ids, trained = tiny.encode(TWO_TURNS)
    stop = stop_tokens(tiny.tokenizer, "Oslo.\n\nAnything else?<|im_end|>")[0]
    assert tiny.tokenizer.decode([stop]) == "<|im_end|>"
    assert [flag for id_, flag in zip(ids, trained) if id_ == stop] == [False, False, True, False, True]


def test_a_token_that_begins_in_the_template_is_not_learned(tiny):
    """An answer that opens with line breaks runs into the header's own, which the model is given at inference."""
    pieces = tiny.pieces([{"role": "user", "content": "1"}, {"role": "assistant", "content": "\n\n2"}])
    assert (
        "".join(text for text, _ in pieces) == "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n\n\n2<|im_end|>\n"
    )
    assert "".join(text for text, trained in pieces if trained) in ("2<|im_end|>", "\n2<|im_end|>", "\n\n2<|im_end|>")
    assert stretches(pieces)[-1] == ("\n", False)


def test_tools_and_their_calls(tiny):
    rendered = tiny.template.render(Conversation(CALLED, [WEATHER]))
    assert rendered.text == CALLED_TEXT
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
        "It rains.<|im_end|>",
    ]


def test_tools_stand_after_the_system_message_in_one_turn(tiny):
    messages = [{"role": "system", "content": "Be brief."}, *CALLED]
    text = tiny.template.render(Conversation(messages, [WEATHER])).text
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call")
    assert text.count("<|im_start|>system") == 1
    assert text.endswith(CALLED_TEXT.partition("</tool_call><|im_end|>\n")[2])


def test_only_the_assistants_part_of_a_tool_conversation_is_trained(tiny):
    trained = [text for text, flag in stretches(tiny.pieces(CALLED, [WEATHER])) if flag]
    assert trained == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
        "It rains.<|im_end|>",
    ]


CONVERSATIONS = {
    "two turns": (TWO_TURNS, None),
    "digits": (DIGITS, None),
    "tools": (CALLED, [WEATHER]),
    "no system": (TWO_TURNS[1:], None),
    "unicode": ([{"role": "user", "content": "你好 😀"}, {"role": "assistant", "content": "👩‍👩‍👧 e\u0301"}], None),
}


@pytest.mark.parametrize(("messages", "tools"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_text_and_the_mask_are_those_of_transformers(tiny, messages, tools):
    """Everyone else reads a checkpoint's chat template with ``apply_chat_template``."""
    text = tiny.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert tiny.template.render(Conversation(messages, tools)).text == text
    encoded = tiny.tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, trained = tiny.encode(messages, tools)
    assert ids == encoded["input_ids"]
    assert list(map(int, trained)) == encoded["assistant_masks"]
    assert sum(encoded["assistant_masks"]) > 0


@pytest.mark.parametrize(("messages", "tools"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_prompt_is_where_the_full_text_begins(tiny, messages, tools):
    """What is asked at inference is what was read in training, up to the first token that was learned."""
    rendered = tiny.template.render(Conversation(messages, tools))
    asked, _ = prompt_and_answer(Conversation(messages, tools))
    prompt = tiny.template.prompt(asked, tools)
    assert prompt == tiny.tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=True)
    assert rendered.text[: len(prompt)] == prompt
    assert len(prompt) == rendered.spans[-1][0]
    asked_ids = tiny.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids, trained = tiny.encode(messages, tools)
    assert ids[: len(asked_ids)] == asked_ids
    assert trained[len(asked_ids)] and not trained[len(asked_ids) - 1]


def test_prompt_and_answer():
    assert prompt_and_answer(Conversation(TWO_TURNS)) == (TWO_TURNS[:-1], "Oslo.\n\nAnything else?")


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Phi-3's: the end of text comes after the last turn alone.
ENDED = CHATML.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")
STOPS = [START, END, "<|endoftext|>"]


def test_without_marks_a_turn_is_what_follows_its_prompt_down_to_the_token_that_ends_it():
    rendered = Template(CHATML, {}, "acme/model", STOPS).render(Conversation(TWO_TURNS))
    assert rendered.text == TWO_TURNS_TEXT
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        "Paris, of course.<|im_end|>",
        "Oslo.\n\nAnything else?<|im_end|>",
    ]
    assert rendered.turns == [2, 4]


def test_without_marks_or_a_prompt_of_its_own_the_header_is_the_assistants():
    """Where no prompt asks for the header, a model must write it too."""
    source = CHATML.partition("{% if add")[0]
    rendered = Template(source, {}, "acme/model", STOPS).render(Conversation(DIGITS[1:3]))
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["<|im_start|>assistant\n456<|im_end|>"]


@pytest.mark.parametrize(
    ("between", "content", "trained"),
    [("", "4", "4"), ("\n\n", "4", "4"), ("\n\n", "4\n", "4\n\n\n"), ("!\n", "4", "4!\n")],
)
def test_without_marks_or_special_tokens_a_turn_ends_with_its_content_where_that_is_certain(between, content, trained):
    source = "{% for m in messages %}{{ m.content }}" + between + "{% endfor %}"
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": content}]
    rendered = Template(source, {}, "acme/model").render(Conversation(messages))
    assert [rendered.text[start:end] for start, end in rendered.spans] == [trained]


def test_an_ambiguous_template_is_refused_with_advice_before_any_data_is_read():
    with pytest.raises(NotReadyError) as caught:
        Template(ENDED, {}, "acme/chatml-9b", STOPS)
    assert str(caught.value) == (
        "The chat template of acme/chatml-9b has no {% generation %} marks, and it writes an answer otherwise when it "
        "is the last than when others follow or it is asked for, so nothing says which tokens are the assistant's. "
        "Name a shipped template (model.template=chatml is the nearest), or put {% generation %} and "
        "{% endgeneration %} around the assistant's content and the token that ends its turn, in chat_template.jinja "
        "of the model's folder."
    )


def test_a_row_of_which_a_template_without_marks_cannot_tell_the_turns():
    source = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}")
    template = Template(source, {}, "acme/model", STOPS)
    assert len(template.render(Conversation(TWO_TURNS)).spans) == 2
    thinking = [{**m, "content": "<think>a</think>b"} if m["role"] == "assistant" else m for m in TWO_TURNS]
    with pytest.raises(RowError) as caught:
        template.render(Conversation(thinking))
    assert str(caught.value).startswith(
        "the chat template has no {% generation %} marks and writes message 3 otherwise when it is the last than when "
        "others follow or it is asked for. Name a shipped template (model.template="
    )


def test_a_template_without_marks_that_refuses_the_probe_is_judged_by_the_rows():
    source = "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML
    template = Template(source, {}, "acme/model", STOPS)
    rendered = template.render(Conversation(TWO_TURNS[1:3]))
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["Paris, of course.<|im_end|>"]
    with pytest.raises(RowError, match=r"^the chat template refuses it: one turn only$"):
        template.render(Conversation(TWO_TURNS))


TWICE = "{% generation %}{{ m.content }}{% endgeneration %}{% generation %}!{% endgeneration %}"


@pytest.mark.parametrize(("count", "condition"), [(0, "false"), (4, "m.role == 'assistant'"), (10, "true")])
def test_marks_that_are_not_one_for_each_turn(count, condition):
    source = "{% for m in messages %}{% if " + condition + " %}" + TWICE + "{% endif %}{% endfor %}"
    with pytest.raises(RowError) as caught:
        Template(source, {}, "here").render(Conversation(TWO_TURNS))
    assert str(caught.value) == (
        f"the chat template marks {count} stretches as the assistant's, and the conversation has 2 assistant turns"
    )


@pytest.mark.parametrize("mark", ["{% generation %}", "{%- generation -%}", "{%generation%}", "{%-  generation %}"])
def test_marks_are_known_however_they_are_spelled(mark):
    source = "{% for m in messages %}a" + mark + "{{ m.content }}{% endgeneration %}{% endfor %}"
    rendered = Template(source, {}, "here").render(Conversation([{"role": "assistant", "content": "b"}]))
    assert rendered == Rendered("ab", [(1, 2)], [0])


def test_a_tokenizer_without_a_template_is_refused_with_advice(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.tokenizer.name_or_path)
    tokenizer.chat_template = None
    with pytest.raises(NotReadyError) as caught:
        Template.for_tokenizer(tokenizer)
    assert str(caught.value) == (
        f"The tokenizer of {tokenizer.name_or_path} has no chat template. Name a shipped one: model.template=NAME, "
        f"with NAME of {', '.join(template_names())}. Or put one in its chat_template.jinja."
    )


def test_special_tokens_can_be_named_in_a_template(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.tokenizer.name_or_path)
    tokenizer.chat_template = (
        "{% for m in messages %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endfor %}"
    )
    rendered = Template.for_tokenizer(tokenizer).render(Conversation([{"role": "assistant", "content": "b"}]))
    assert rendered == Rendered("b<|endoftext|>", [(0, 14)], [0])


def test_a_conversation_that_the_template_refuses():
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    with pytest.raises(RowError) as caught:
        Template(source, {}, "here").render(Conversation(TWO_TURNS))
    assert str(caught.value) == "the chat template refuses it: no system messages here"


def test_tool_calls_that_the_template_cannot_write(tiny):
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "", "tool_calls": ["weather"]}]
    with pytest.raises(RowError, match=r"^the chat template refuses it: "):
        tiny.template.render(Conversation(messages))


def test_a_conversation_without_an_answer(tiny):
    with pytest.raises(RowError) as caught:
        tiny.template.render(Conversation([{"role": "user", "content": "1"}]))
    assert str(caught.value) == "has no assistant turn to learn from"
