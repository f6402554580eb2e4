"""What the model reads and what it learns of it, spelled out.

The tiny tokenizer may be trained anew, so no id is written here, and of its vocabulary only this is taken for granted:
a special token is one token, and so is a digit.
"""

from __future__ import annotations

import pytest

from ftlab.data.encode import IGNORE, encode_rendered
from ftlab.data.formats import Conversation, RowError
from ftlab.data.templates import Rendered, Template, prompt_and_answer
from ftlab.errors import NotReadyError

START, END = "<|im_start|>", "<|im_end|>"
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


def test_two_turns_and_a_system_message_token_by_token(bench):
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
    pieces = iter(bench.pieces(bench.encode(DIGITS)))
    found = []
    for wanted, _ in expected:
        text, trained = next(pieces)
        while wanted in ("system", "user", "assistant") and text != wanted and wanted.startswith(text):
            more, flag = next(pieces)  # a vocabulary may spell the name of a role in several tokens
            text, trained = text + more, trained or flag
        found.append((text, trained))
    assert found == expected
    assert list(pieces) == []


def test_token_by_token_where_no_vocabulary_has_a_say(bench):
    """The same with a template of digits and special tokens alone, so that every token is known."""
    marked = "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    source = (
        "{% for message in messages %}<|im_start|>{% if message.role == 'assistant' %}0" + marked + "{% else %}1"
        "{{ message.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    rendered = Template(source, {}, "this test").render(Conversation(DIGITS))
    assert bench.pieces(next(encode_rendered(bench.tokenizer, [rendered], "assistant"))) == [
        ("<|im_start|>", False), ("1", False), ("1", False), ("<|im_end|>", False),
        ("<|im_start|>", False), ("1", False), ("2", False), ("3", False), ("<|im_end|>", False),
        ("<|im_start|>", False), ("0", False), ("4", True), ("5", True), ("6", True), ("<|im_end|>", True),
        ("<|im_start|>", False), ("1", False), ("7", False), ("<|im_end|>", False),
        ("<|im_start|>", False), ("0", False), ("8", True), ("9", True), ("<|im_end|>", True),
    ]  # fmt: skip


def test_two_turns_and_a_system_message_in_words(bench):
    sample = bench.encode(TWO_TURNS)
    assert stretches(bench.pieces(sample)) == [
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
    learned = sample.labels != IGNORE
    assert sample.labels[learned].tolist() == sample.input_ids[learned].tolist()


def test_spans_are_the_content_and_the_end_of_turn(bench):
    rendered = bench.template.render(Conversation(TWO_TURNS))
    assert rendered.text == TWO_TURNS_TEXT
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        "Paris, of course.<|im_end|>",
        "Oslo.\n\nAnything else?<|im_end|>",
    ]


def test_the_token_that_stops_generation_is_a_label_of_every_turn(bench):
    from ftlab.model.tokenizer import stop_tokens

    sample = bench.encode(TWO_TURNS)
    stop = stop_tokens(bench.tokenizer, "Oslo.\n\nAnything else?<|im_end|>")[0]
    assert bench.decode([stop]) == "<|im_end|>"
    assert sample.labels.tolist().count(stop) == 2
    assert sample.input_ids.tolist().count(stop) == 5


def test_train_on_last_learns_the_last_turn_only(bench):
    assert stretches(bench.pieces(bench.encode(TWO_TURNS, "last"))) == [
        (TWO_TURNS_TEXT.partition("Oslo")[0], False),
        ("Oslo.\n\nAnything else?<|im_end|>", True),
        ("\n", False),
    ]


def test_train_on_all_learns_everything_but_the_first_token(bench):
    """Nothing comes before the first token, so nothing can predict it."""
    assert stretches(bench.pieces(bench.encode(TWO_TURNS, "all"))) == [
        ("<|im_start|>", False),
        (TWO_TURNS_TEXT.removeprefix("<|im_start|>"), True),
    ]


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_what_is_trained_on_changes_no_id(bench, train_on):
    assert bench.encode(TWO_TURNS, train_on).input_ids.tolist() == bench.encode(TWO_TURNS).input_ids.tolist()


def test_a_token_that_begins_in_the_template_is_not_learned(bench):
    """An answer that opens with line breaks runs into the header's own, which the model is given at inference."""
    sample = bench.encode([{"role": "user", "content": "1"}, {"role": "assistant", "content": "\n\n2"}])
    assert bench.decode(sample.input_ids) == "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n\n\n2<|im_end|>\n"
    assert bench.trained(sample) in ("2<|im_end|>", "\n2<|im_end|>", "\n\n2<|im_end|>")
    assert stretches(bench.pieces(sample))[-1] == ("\n", False)


def test_tools_and_their_calls(bench):
    rendered = bench.template.render(Conversation(CALLED, [WEATHER]))
    assert rendered.text == CALLED_TEXT
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>',
        "It rains.<|im_end|>",
    ]


def test_tools_stand_after_the_system_message_in_one_turn(bench):
    messages = [{"role": "system", "content": "Be brief."}, *CALLED]
    text = bench.template.render(Conversation(messages, [WEATHER])).text
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call")
    assert text.count("<|im_start|>system") == 1
    assert text.endswith(CALLED_TEXT.partition("</tool_call><|im_end|>\n")[2])


def test_only_the_assistants_part_of_a_tool_conversation_is_trained(bench):
    trained = [text for text, flag in stretches(bench.pieces(bench.encode(CALLED, tools=[WEATHER]))) if flag]
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
def test_the_text_and_the_mask_are_those_of_transformers(bench, messages, tools):
    """Everyone else reads a checkpoint's chat template with ``apply_chat_template``."""
    text = bench.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert bench.template.render(Conversation(messages, tools)).text == text
    encoded = bench.tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    sample = bench.encode(messages, tools=tools)
    assert sample.input_ids.tolist() == encoded["input_ids"]
    assert (sample.labels != IGNORE).astype(int).tolist() == encoded["assistant_masks"]
    assert sum(encoded["assistant_masks"]) > 0


@pytest.mark.parametrize(("messages", "tools"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_prompt_is_where_the_full_text_begins(bench, messages, tools):
    """What is asked at inference is what was read in training, up to the first token that was learned."""
    rendered = bench.template.render(Conversation(messages, tools))
    asked, _ = prompt_and_answer(Conversation(messages, tools))
    prompt = bench.template.prompt(asked, tools)
    assert prompt == bench.tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=True)
    assert rendered.text[: len(prompt)] == prompt
    assert len(prompt) == rendered.spans[-1][0]
    ids = bench.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    sample = bench.encode(messages, "last", tools)
    assert sample.input_ids[: len(ids)].tolist() == ids
    assert (sample.labels != IGNORE).tolist().index(True) == len(ids)


def test_prompt_and_answer():
    assert prompt_and_answer(Conversation(TWO_TURNS)) == (TWO_TURNS[:-1], "Oslo.\n\nAnything else?")


def test_a_template_without_marks_is_refused_with_advice():
    with pytest.raises(NotReadyError) as caught:
        Template("{% for m in messages %}{{ m.content }}{% endfor %}", {}, "acme/model")
    assert str(caught.value) == (
        "The chat template of acme/model has no {% generation %} marks, so nothing says which tokens are the "
        "assistant's. Put {% generation %} and {% endgeneration %} around the assistant's content and the "
        "token that ends its turn, in chat_template.jinja of the model's folder."
    )


@pytest.mark.parametrize("mark", ["{% generation %}", "{%- generation -%}", "{%generation%}", "{%-  generation %}"])
def test_marks_are_known_however_they_are_spelled(mark):
    source = "{% for m in messages %}a" + mark + "{{ m.content }}{% endgeneration %}{% endfor %}"
    rendered = Template(source, {}, "here").render(Conversation([{"role": "assistant", "content": "b"}]))
    assert rendered == Rendered("ab", [(1, 2)])


def test_a_tokenizer_without_a_template_is_refused_with_advice(bench):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.tokenizer.name_or_path)
    tokenizer.chat_template = None
    with pytest.raises(NotReadyError) as caught:
        Template.of(tokenizer)
    assert str(caught.value) == (
        f"The tokenizer of {tokenizer.name_or_path} has no chat template. Put one in its chat_template.jinja."
    )


def test_special_tokens_can_be_named_in_a_template(bench):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.tokenizer.name_or_path)
    tokenizer.chat_template = (
        "{% for m in messages %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endfor %}"
    )
    rendered = Template.of(tokenizer).render(Conversation([{"role": "assistant", "content": "b"}]))
    assert rendered == Rendered("b<|endoftext|>", [(0, 14)])


def test_a_conversation_that_the_template_refuses():
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    with pytest.raises(RowError) as caught:
        Template(source, {}, "here").render(Conversation(TWO_TURNS))
    assert str(caught.value) == "the chat template refuses it: no system messages here"


def test_tool_calls_that_the_template_cannot_write(bench):
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "", "tool_calls": ["weather"]}]
    with pytest.raises(RowError, match=r"^the chat template refuses it: "):
        bench.template.render(Conversation(messages))


def test_a_conversation_without_an_answer(bench):
    with pytest.raises(RowError) as caught:
        bench.template.render(Conversation([{"role": "user", "content": "1"}]))
    assert str(caught.value) == "has no assistant turn to learn from"
