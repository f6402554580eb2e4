"""The shipped templates: what each writes, what of it is trained, and where both come from.

``bos_token`` is ``<s>`` and ``eos_token`` is ``</s>`` wherever no tokenizer has its own.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftlab import schema
from ftlab.data.formats import Conversation, RowError
from ftlab.data.tokens.shipped_templates import FrontMatter, front_matter, read_template, template_names
from ftlab.data.tokens.templates import Template
from ftlab.errors import NotReadyError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "templates").glob("*.jinja"))
TINY = ROOT / "models" / "tiny"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
# The families whose published template refuses a system message.
NO_SYSTEM = {"gemma": "System role not supported", "starcoder2": "System messages are not allowed in this template."}
# Without marks these write an answer otherwise when it is the last (qwen3: with its thinking; phi3: with the end of
# text) or when it is asked for (deepseek_r1: with <think>), so their spans cannot be told.
AMBIGUOUS = {"deepseek_r1", "phi3", "qwen3", "qwen3_nothink"}

WORDS: list[dict[str, Any]] = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "An assistant.\n\nAnd you?"},
]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tells the weather.", "parameters": {"type": "object"}},
    }
]


def call(arguments: Any = None) -> dict[str, Any]:
    function = {"name": "weather", "arguments": {"city": "Oslo"} if arguments is None else arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "call00001", "function": function}],
    }


CALLED: list[dict[str, Any]] = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Rain in Oslo?"},
    call(),
    {"role": "tool", "tool_call_id": "call00001", "content": '{"rain": true}'},
    {"role": "assistant", "content": "It rains."},
]
WORDS_EXPECTED: dict[str, tuple[str, list[str]]] = {
    "alpaca": (
        "<s>You are terse.\n\n### Instruction:\nHello\n\n### Response:\nHi there.</s>\n\n"
        "### Instruction:\nWho are you?\n\n### Response:\nAn assistant.\n\nAnd you?</s>\n\n",
        ["Hi there.</s>", "An assistant.\n\nAnd you?</s>"],
    ),
    "baichuan": (
        "You are terse.<reserved_106>Hello<reserved_107>Hi there.</s><reserved_106>Who are "
        "you?<reserved_107>An assistant.\n\nAnd you?</s>",
        ["Hi there.</s>", "An assistant.\n\nAnd you?</s>"],
    ),
    "chatglm3": (
        "[gMASK]sop<|system|>\n You are terse.<|user|>\n Hello<|assistant|>\n Hi there.</s><|user|>\n"
        " Who are you?<|assistant|>\n An assistant.\n\nAnd you?</s>",
        ["\n Hi there.</s>", "\n An assistant.\n\nAnd you?</s>"],
    ),
    "chatml": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "codeqwen": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "deepseek": (
        "<s>You are terse.\n\nUser: Hello\n\nAssistant: Hi there.</s>User: Who are you?\n\n"
        "Assistant: An assistant.\n\nAnd you?</s>",
        [" Hi there.</s>", " An assistant.\n\nAnd you?</s>"],
    ),
    "deepseek_coder": (
        "<s>You are terse.### Instruction:\nHello\n### Response:\nHi there.\n<|EOT|>\n"
        "### Instruction:\nWho are you?\n### Response:\nAn assistant.\n\nAnd you?\n<|EOT|>\n",
        ["Hi there.\n<|EOT|>", "An assistant.\n\nAnd you?\n<|EOT|>"],
    ),
    "deepseek_r1": (
        "<s>You are terse.<｜User｜>Hello<｜Assistant｜>Hi there.<｜end▁of▁sentence｜><｜User｜>Who are "
        "you?<｜Assistant｜>An assistant.\n\nAnd you?<｜end▁of▁sentence｜>",
        ["Hi there.<｜end▁of▁sentence｜>", "An assistant.\n\nAnd you?<｜end▁of▁sentence｜>"],
    ),
    "falcon": (
        "You are terse.\n\nUser: Hello\n\nAssistant: Hi there.</s>\n\nUser: Who are you?\n\n"
        "Assistant: An assistant.\n\nAnd you?</s>",
        [" Hi there.</s>", " An assistant.\n\nAnd you?</s>"],
    ),
    "gemma": (
        "<s><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi there.<end_of_turn>\n"
        "<start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\nAn assistant.\n\n"
        "And you?<end_of_turn>\n",
        ["Hi there.<end_of_turn>", "An assistant.\n\nAnd you?<end_of_turn>"],
    ),
    "gemma3": (
        "<s><start_of_turn>user\nYou are terse.\n\nHello<end_of_turn>\n<start_of_turn>model\n"
        "Hi there.<end_of_turn>\n<start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n"
        "An assistant.\n\nAnd you?<end_of_turn>\n",
        ["Hi there.<end_of_turn>", "An assistant.\n\nAnd you?<end_of_turn>"],
    ),
    "internlm2": (
        "<s><|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "llama2": (
        "<s>[INST] <<SYS>>\nYou are terse.\n<</SYS>>\n\n"
        "Hello [/INST] Hi there. </s><s>[INST] Who are you? [/INST] An assistant.\n\nAnd you? </s>",
        [" Hi there. </s>", " An assistant.\n\nAnd you? </s>"],
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\n"
        "You are terse.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Hello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "Hi there.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Who are you?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nAn assistant.\n\n"
        "And you?<|eot_id|>",
        ["Hi there.<|eot_id|>", "An assistant.\n\nAnd you?<|eot_id|>"],
    ),
    "llama3_1": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n"
        "You are terse.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Hello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "Hi there.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Who are you?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nAn assistant.\n\n"
        "And you?<|eot_id|>",
        ["Hi there.<|eot_id|>", "An assistant.\n\nAnd you?<|eot_id|>"],
    ),
    "mistral": (
        "<s>[INST] You are terse.\n\n"
        "Hello[/INST] Hi there.</s>[INST] Who are you?[/INST] An assistant.\n\nAnd you?</s>",
        [" Hi there.</s>", " An assistant.\n\nAnd you?</s>"],
    ),
    "mistral_nemo": (
        "<s>[INST]You are terse.\n\nHello[/INST]Hi there.</s>[INST]Who are you?[/INST]An assistant.\n\nAnd you?</s>",
        ["Hi there.</s>", "An assistant.\n\nAnd you?</s>"],
    ),
    "mixtral": (
        "<s> [INST] You are terse.\n\n"
        "Hello [/INST] Hi there.</s> [INST] Who are you? [/INST] An assistant.\n\nAnd you?</s>",
        [" Hi there.</s>", " An assistant.\n\nAnd you?</s>"],
    ),
    "phi3": (
        "<|system|>\nYou are terse.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\nHi there.<|end|>\n"
        "<|user|>\nWho are you?<|end|>\n<|assistant|>\nAn assistant.\n\nAnd you?<|end|>\n</s>",
        ["Hi there.<|end|>", "An assistant.\n\nAnd you?<|end|>"],
    ),
    "phi4": (
        "<|im_start|>system<|im_sep|>You are "
        "terse.<|im_end|><|im_start|>user<|im_sep|>Hello<|im_end|><|im_start|>assistant<|im_sep|>"
        "Hi there.<|im_end|><|im_start|>user<|im_sep|>Who are "
        "you?<|im_end|><|im_start|>assistant<|im_sep|>An assistant.\n\nAnd you?<|im_end|>",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "plain": (
        "You are terse.\nHello\nHi there.</s>Who are you?\nAn assistant.\n\nAnd you?</s>",
        ["Hi there.</s>", "An assistant.\n\nAnd you?</s>"],
    ),
    "qwen": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "qwen3": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "<think>\n\n</think>\n\nAn assistant.\n\nAnd you?<|im_end|>"],
    ),
    "qwen3_nothink": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "starcoder2": (
        "<s>You are an exceptionally intelligent coding assistant that consistently delivers "
        "accurate and reliable responses to user instructions.\n\n### Instruction\nHello\n\n"
        "### Response\nHi there.</s>\n\n### Instruction\nWho are you?\n\n### Response\n"
        "An assistant.\n\nAnd you?</s>\n\n",
        ["Hi there.</s>", "An assistant.\n\nAnd you?</s>"],
    ),
    "vicuna": (
        "<s>You are terse. USER: Hello ASSISTANT: Hi there.</s>USER: Who are you? ASSISTANT: An "
        "assistant.\n\nAnd you?</s>",
        [" Hi there.</s>", " An assistant.\n\nAnd you?</s>"],
    ),
    "yi": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nAn assistant.\n\nAnd you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "yi_1_5": (
        "You are terse.<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi there.<|im_end|>\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nAn assistant.\n\n"
        "And you?<|im_end|>\n",
        ["Hi there.<|im_end|>", "An assistant.\n\nAnd you?<|im_end|>"],
    ),
    "zephyr": (
        "<|system|>\nYou are terse.</s>\n<|user|>\nHello</s>\n<|assistant|>\nHi there.</s>\n<|user|>\n"
        "Who are you?</s>\n<|assistant|>\nAn assistant.\n\nAnd you?</s>\n",
        ["Hi there.</s>", "An assistant.\n\nAnd you?</s>"],
    ),
}
CALLED_EXPECTED: dict[str, tuple[str, list[str]]] = {
    "llama3_1": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        "You are terse.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Given the following functions, please respond with a JSON for a function call with its "
        "proper arguments that best answers the given prompt.\n\n"
        'Respond in the format {"name": function name, "parameters": dictionary of argument name '
        'and its value}.Do not use variables.\n\n{\n    "type": "function",\n    "function": {\n'
        '        "name": "weather",\n        "description": "Tells the weather.",\n'
        '        "parameters": {\n            "type": "object"\n        }\n    }\n}\n\n'
        "Rain in Oslo?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "weather", "parameters": {"city": '
        '"Oslo"}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n'
        '"{\\"rain\\": true}"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
        "It rains.<|eot_id|>",
        ['{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>', "It rains.<|eot_id|>"],
    ),
    "mistral": (
        '<s>[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "weather", '
        '"description": "Tells the weather.", "parameters": {"type": '
        '"object"}}}][/AVAILABLE_TOOLS][INST] You are terse.\n\n'
        'Rain in Oslo?[/INST][TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, '
        '"id": "call00001"}]</s>[TOOL_RESULTS] {"content": {"rain": true}, "call_id": '
        '"call00001"}[/TOOL_RESULTS] It rains.</s>',
        ['[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "call00001"}]</s>', " It rains.</s>"],
    ),
    "mistral_nemo": (
        '<s>[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "weather", '
        '"description": "Tells the weather.", "parameters": {"type": '
        '"object"}}}][/AVAILABLE_TOOLS][INST]You are terse.\n\n'
        'Rain in Oslo?[/INST][TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}, '
        '"id": "call00001"}]</s>[TOOL_RESULTS]{"content": {"rain": true}, "call_id": '
        '"call00001"}[/TOOL_RESULTS]It rains.</s>',
        ['[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}, "id": "call00001"}]</s>', "It rains.</s>"],
    ),
    "qwen": (
        "<|im_start|>system\nYou are terse.\n\n# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "Tells the '
        'weather.", "parameters": {"type": "object"}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nRain in Oslo?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        '<tool_response>\n{"rain": true}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
        "It rains.<|im_end|>\n",
        [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>',
            "It rains.<|im_end|>",
        ],
    ),
    "qwen3": (
        "<|im_start|>system\nYou are terse.\n\n# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "Tells the '
        'weather.", "parameters": {"type": "object"}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nRain in Oslo?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        '<tool_response>\n{"rain": true}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
        "<think>\n\n</think>\n\nIt rains.<|im_end|>\n",
        [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>',
            "<think>\n\n</think>\n\nIt rains.<|im_end|>",
        ],
    ),
    "qwen3_nothink": (
        "<|im_start|>system\nYou are terse.\n\n# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "Tells the '
        'weather.", "parameters": {"type": "object"}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nRain in Oslo?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        '<tool_response>\n{"rain": true}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
        "<think>\n\n</think>\n\nIt rains.<|im_end|>\n",
        [
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>',
            "It rains.<|im_end|>",
        ],
    ),
}


@functools.cache
def about(name: str) -> FrontMatter:
    found = front_matter(read_template(name))
    assert found is not None
    return found


def stop_of(name: str) -> str:
    return SPECIAL.get(about(name).stop, about(name).stop)


@functools.cache
def template(name: str) -> Template:
    return Template(read_template(name), SPECIAL, name)


def without_system(name: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return messages[1:] if name in NO_SYSTEM else messages


WITH_TOOLS = [name for name in SHIPPED if about(name).tools]
WITHOUT_TOOLS = [name for name in SHIPPED if not about(name).tools]


def test_every_template_has_its_expectations_and_can_be_named():
    assert template_names() == SHIPPED == list(WORDS_EXPECTED)
    assert list(CALLED_EXPECTED) == WITH_TOOLS
    assert sorted(get_args(schema.Template)) == SHIPPED


def test_the_front_matter_is_what_the_template_does(subtests):
    for name in SHIPPED:
        with subtests.test(name):
            said = about(name)
            body = read_template(name).split("-#}", 1)[1]
            assert said.source
            assert said.stop == "eos_token" or said.stop in said.tokens
            # The role tokens of chatglm3 and phi3 are put together from the role's name.
            put_together = r"<\|(system|user)\|>" if "'<|' + message['role'] + '|>" in body else "(?!)"
            unwritten = [token for token in said.tokens if token not in body and not re.fullmatch(put_together, token)]
            assert unwritten == []
            expected = "".join(text for text, _ in (WORDS_EXPECTED[name], CALLED_EXPECTED.get(name, ("", []))))
            written = set(
                re.findall(r"<[|｜][^<>|｜]*[|｜]>|<(?:start|end)_of_turn>|<reserved_\d+>|\[/?[A-Z_]{4,}\]", expected)
            )
            if name not in ("llama2", "mixtral", "zephyr"):  # where these are words, not tokens
                assert written <= set(said.tokens)


def check_rendered(name: str, conversation: Conversation, expected: tuple[str, list[str]], turns: list[int]) -> None:
    rendered = template(name).render(conversation)
    text, trained = expected
    assert rendered.text == text
    assert [rendered.text[start:end] for start, end in rendered.spans] == trained
    assert rendered.turns == turns
    assert [one for one in trained if not one.endswith(stop_of(name))] == []


def test_words(subtests):
    for name in SHIPPED:
        with subtests.test(name):
            turns = [1, 3] if name in NO_SYSTEM else [2, 4]
            check_rendered(name, Conversation(without_system(name, WORDS)), WORDS_EXPECTED[name], turns)


def test_tools(subtests):
    for name in WITH_TOOLS:
        with subtests.test(name):
            check_rendered(name, Conversation(CALLED, TOOLS), CALLED_EXPECTED[name], [2, 4])


def test_arguments_that_are_json_already_are_not_encoded_again():
    as_text = Conversation([*CALLED[:2], call('{"city": "Oslo"}'), *CALLED[3:]], TOOLS)
    texts = {name: template(name).render(as_text).text for name in WITH_TOOLS}
    assert texts == {name: text for name, (text, _) in CALLED_EXPECTED.items()}


def test_words_beside_two_calls():
    said = {**call(), "content": "Let me see.", "tool_calls": [*call()["tool_calls"], *call()["tool_calls"]]}
    conversation = Conversation([*CALLED[:2], said, *CALLED[3:]], TOOLS)
    rendered = {name: template(name).render(conversation) for name in ("qwen", "qwen3", "qwen3_nothink")}
    one = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert {name: found.text[slice(*found.spans[0])] for name, found in rendered.items()} == dict.fromkeys(
        rendered, f"Let me see.\n{one}\n{one}<|im_end|>"
    )


def test_words_beside_a_call_are_refused_where_they_would_be_dropped(subtests):
    beside = Conversation([*CALLED[:2], {**call(), "content": "Let me see."}, *CALLED[3:]], TOOLS)
    for name in ("llama3_1", "mistral", "mistral_nemo"):
        with subtests.test(name), pytest.raises(RowError, match="has no form for words beside a tool call"):
            template(name).render(beside)


def test_calls_that_a_family_refuses():
    two = {**call(), "tool_calls": [*call()["tool_calls"], *call()["tool_calls"]]}
    with pytest.raises(RowError, match="This model only supports single tool-calls at once!"):
        template("llama3_1").render(Conversation([*CALLED[:2], two, *CALLED[3:]], TOOLS))
    short = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {}}}
    with pytest.raises(RowError, match="Tool call IDs should be alphanumeric strings with length 9!"):
        template("mistral").render(Conversation([*CALLED[:2], {**call(), "tool_calls": [short]}, *CALLED[3:]], TOOLS))


@pytest.mark.parametrize("name", ["mistral", "mistral_nemo"])
def test_calls_without_an_id_get_one_and_their_results_the_same(name):
    one = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    asked = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": [one, one]}]
    told = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "0"}]
    rendered = template(name).render(Conversation([*asked, *told, {"role": "assistant", "content": "Half."}], TOOLS))
    calls = ", ".join(f'{{"name": "weather", "arguments": {{}}, "id": "call0000{n}"}}' for n in (0, 1))
    assert f"[{calls}]" in rendered.text
    assert [f'"call_id": "call0000{n}"' in rendered.text for n in (0, 1, 2)] == [True, True, False]


def refusal(name: str, messages: list[dict[str, Any]], tools: Any = None) -> str:
    with pytest.raises(RowError) as caught:
        template(name).render(Conversation(messages, tools))
    return str(caught.value)


def test_tools_are_refused_where_the_family_has_no_form_for_them(subtests):
    for name in WITHOUT_TOOLS:
        with subtests.test(name):
            messages = without_system(name, CALLED)
            reason = f"the chat template refuses it: The {name} template has no form for tools."
            assert refusal(name, messages, TOOLS) == reason
            assert re.search(r"has no form for tool calls|roles", refusal(name, messages))
            alternating = [*messages[:-3], {"role": "assistant", "content": "a"}, *messages[-2:]]
            assert re.search(r"no form for tool calls, nor for the role 'tool'|roles", refusal(name, alternating))


def test_a_system_message_is_refused_where_the_family_refuses_it(subtests):
    for name, reason in NO_SYSTEM.items():
        with subtests.test(name):
            assert refusal(name, WORDS) == f"the chat template refuses it: {reason}"


def test_an_order_of_roles_that_the_family_refuses(subtests):
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]
    for name in ("gemma", "gemma3", "llama2", "mistral", "mistral_nemo", "mixtral"):
        with subtests.test(name):
            assert refusal(name, twice).endswith("roles must alternate user/assistant/user/assistant/...")


DEFAULTS = {
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\nHello",
    "codeqwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    "deepseek_coder": "You are an AI programming assistant, utilizing the Deepseek Coder model",
    "llama3_1": "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n",
    "qwen": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
    "starcoder2": "You are an exceptionally intelligent coding assistant",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: Hello",
}


def test_what_stands_where_no_system_message_is_given(subtests):
    for name in SHIPPED:
        with subtests.test(name):
            text = template(name).render(Conversation(WORDS[1:])).text.removeprefix("<s>")
            if name in DEFAULTS:
                assert text.startswith(DEFAULTS[name])
            else:
                assert len(text.partition("Hello")[0]) < 60
                assert "assistant" not in text.partition("Hello")[0]


# Equality with the templates that trl ships, which are the published ones.

TRL = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"  # type: ignore[index,union-attr]
THINKING: list[dict[str, Any]] = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\nOne and one.\n</think>\n\n2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\n4"},
]
REASONING = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2", "reasoning_content": "One more."},
]
STEPS = [*CALLED, {"role": "user", "content": "And in Rome?"}, call({"city": "Rome"}), *CALLED[3:]]
PUBLISHED = {
    "gemma": ("gemma", {}),
    "gemma3": ("gemma3", {}),
    "llama3": ("llama3", {}),
    "llama3_1": ("llama3_1", {}),
    "llama3_1 for 3.2": ("llama3_2", {"date_string": "26 Jul 2024"}),
    "phi3": ("phi3", {}),
    "phi3 for 3.5": ("phi3_5", {}),
    "qwen": ("qwen2_5", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_nothink": ("qwen3", {"enable_thinking": False}),
    "deepseek_r1": ("deepseek_r1_distill", {}),
}
TALKS = {
    "words": (WORDS, None),
    "no system": (WORDS[1:], None),
    "one turn": (WORDS[:3], None),
    "spaces": ([{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "b  "}], None),
    "thinking": (THINKING, None),
    "reasoning": (REASONING, None),
    "tools": (CALLED, TOOLS),
    "tools, no system": (CALLED[1:], TOOLS),
    "calls without tools": (CALLED, None),
    "two steps": (STEPS, TOOLS),
}


def published(file: str, messages: list[dict[str, Any]], tools: Any, **options: Any) -> Any:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (TRL / f"{file}.jinja").read_text(encoding="utf-8")
    return render_jinja_template([messages], tools, chat_template=source, **SPECIAL, **options)


# What a published template drops or shows in silence, and the shipped one does not; each has a test of its own.
APART = {
    ("deepseek_r1", "thinking"),  # cut out of what would be trained
    ("deepseek_r1", "reasoning"),  # dropped
    ("qwen3_nothink", "thinking"),  # the last is shown, though the prompt has closed it
    ("qwen3_nothink", "reasoning"),
}
COMPARED = [
    (which, talk)
    for which in PUBLISHED
    for talk, (messages, _) in TALKS.items()
    # Tools and calls, which the published templates without a form for them drop in silence, are refused.
    if which.split()[0] in WITH_TOOLS or not any("tool_calls" in message for message in messages)
    if (which, talk) not in APART
]


def check_published(name: str, file: str, options: dict[str, Any], messages: list[dict[str, Any]], tools: Any) -> None:
    from jinja2.exceptions import TemplateError

    said = template(name)
    try:
        expected = published(file, messages, tools, **options)[0][0]
    except TemplateError as error:
        assert str(error) in refusal(name, messages, tools)
        return
    assert said.render(Conversation(messages, tools)).text == expected
    for end in range(len(messages)):
        if messages[end]["role"] == "assistant":
            asked = published(file, messages[:end], tools, **options, add_generation_prompt=True)[0][0]
            assert said.prompt(messages[:end], tools) == asked


def test_the_text_is_the_published_one(subtests):
    assert len(COMPARED) > 80
    for which, talk in COMPARED:
        with subtests.test(f"{which}: {talk}"):
            check_published(which.split()[0], *PUBLISHED[which], *TALKS[talk])


# What trl's training templates mark beyond what is marked here, before and after each turn: the end of the header and
# the line break after the turn, which no prompt asks for and no generation reaches.
BEYOND = {
    "gemma": ("gemma", "", "\n"),
    "gemma3": ("gemma3", "", "\n"),
    "llama3": ("llama3", "", ""),
    "phi3": ("phi3", "", "\n"),
    "qwen": ("qwen2_5", "\n", "\n"),
    "qwen3": ("qwen3", "", "\n"),
    "deepseek_r1": ("deepseek_r1_distill", "<｜Assistant｜>", ""),
}


def test_what_is_trained_is_what_trl_trains(subtests):
    for name, (file, before, after) in BEYOND.items():
        # trl's qwen3 writes an empty thought into every answer, the published one into the last only.
        messages = WORDS[1:3] if name == "qwen3" else WORDS[1:]
        tools = TOOLS if name == "qwen" else None
        with subtests.test(name):
            texts, marked = published(f"{file}_training", messages, tools, return_assistant_tokens_mask=True)
            # The end of text after phi3's last turn has a mark of its own.
            spans = marked[0][:-1] if name == "phi3" else marked[0]
            rendered = template(name).render(Conversation(messages, tools))
            assert rendered.text == texts[0]
            ours = [before + rendered.text[start:end] + after for start, end in rendered.spans]
            assert ours == [texts[0][start:end] for start, end in spans]


def test_thinking_of_r1():
    """As in trl's training template, but that the <think> of the prompt is not trained."""
    rendered = template("deepseek_r1").render(Conversation(THINKING))
    assert rendered.text == published("deepseek_r1_distill_training", THINKING, None)[0][0]
    assert [rendered.text[start:end] for start, end in rendered.spans] == [
        "One and one.\n</think>\n\n2<｜end▁of▁sentence｜>",
        "Two and two.\n</think>\n\n4<｜end▁of▁sentence｜>",
    ]
    assert rendered.text.startswith(template("deepseek_r1").prompt(THINKING[:1]))
    reasoned = template("deepseek_r1").render(Conversation(REASONING)).text
    assert reasoned == "<s><｜User｜>1+1?<｜Assistant｜><think>\nOne more.\n</think>\n\n2<｜end▁of▁sentence｜>"


def test_thinking_of_qwen3():
    """The family shows the last thinking only, so an answer reads otherwise once another question follows."""
    both, first = (template("qwen3").render(Conversation(messages)) for messages in (THINKING, THINKING[:2]))
    assert [both.text[start:end] for start, end in both.spans] == [
        "2<|im_end|>",
        "<think>\nTwo and two.\n</think>\n\n4<|im_end|>",
    ]
    assert first.text[slice(*first.spans[0])] == "<think>\nOne and one.\n</think>\n\n2<|im_end|>"
    assert not both.text.startswith(first.text)


def test_no_thinking_of_qwen3():
    rendered = template("qwen3_nothink").render(Conversation(THINKING))
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["2<|im_end|>", "4<|im_end|>"]
    assert "<think>\n\n</think>\n\n4<|im_end|>\n" in rendered.text
    assert "Two and two" not in rendered.text


# Whatever is said.

said_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[|"), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)


exchanges = st.lists(
    st.tuples(said_text, st.none() | st.tuples(said_text, said_text), said_text), min_size=1, max_size=3
)


def conversation_for(name: str, system: str | None, drawn: list[Any], with_tools: bool) -> Conversation:
    """What was drawn, without the parts that the family has no form for."""
    messages = [] if name in NO_SYSTEM or system is None else [{"role": "system", "content": system}]
    calls = about(name).tools and with_tools
    for question, called, answer in drawn:
        messages.append({"role": "user", "content": question})
        if calls and called is not None:
            messages += [call({"city": called[0]}), {**CALLED[3], "content": called[1]}]
        messages.append({"role": "assistant", "content": answer})
    return Conversation(messages, TOOLS if calls else None)


def check_whatever_is_said(name: str, conversation: Conversation, place: int) -> None:
    messages, said = conversation.messages, template(name)
    rendered = said.render(conversation)
    assert rendered.turns == [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    rebuilt, done = "", 0
    for (start, end), turn in zip(rendered.spans, rendered.turns, strict=True):
        assert done <= start < end
        trained = rendered.text[start:end]
        assert messages[turn]["content"].strip() in trained
        assert trained.endswith(stop_of(name)) and trained.count(stop_of(name)) == 1
        rebuilt, done = rebuilt + rendered.text[done:start] + trained, end
    assert rebuilt + rendered.text[done:] == rendered.text
    turn = rendered.turns[place % len(rendered.turns)]
    prompt = said.prompt(messages[:turn], conversation.tools)
    until = said.render(Conversation(messages[: turn + 1], conversation.tools))
    if name == "deepseek_r1":  # an answer that does not think is not what its prompt asks for
        prompt = prompt.removesuffix("<think>\n")
    assert until.text[: until.spans[-1][0]] == prompt


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.none() | said_text, exchanges, st.booleans(), st.integers(0, 5))
def test_whatever_is_said(system, drawn, with_tools, place):
    """One conversation at a time, by every template."""
    wrong = {}
    for name in SHIPPED:
        try:
            check_whatever_is_said(name, conversation_for(name, system, drawn, with_tools), place)
        except (AssertionError, RowError) as error:
            wrong[name] = str(error)
    assert wrong == {}


def test_spans_without_the_marks(subtests):
    """Rendering prefixes finds what the marks say, or the template is refused before any data is read."""
    for name in SHIPPED:
        source = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", read_template(name))
        with subtests.test(name):
            assert "generation %" not in source
            if name in AMBIGUOUS:
                with pytest.raises(NotReadyError, match=f"model.template={name} is the nearest"):
                    Template(source, SPECIAL, f"acme/{name}", about(name).tokens)
                continue
            bare, marked = Template(source, SPECIAL, name, about(name).tokens), template(name)
            talks = [Conversation(without_system(name, WORDS))]
            talks += [Conversation(STEPS, TOOLS)] if name in WITH_TOOLS else []
            for conversation in talks:
                assert bare.render(conversation) == marked.render(conversation)


def check_tokens(name: str, tokenizer: Any) -> None:
    """With the tokens that the front matter names added to the tokenizer where they are missing."""
    from transformers import AddedToken

    missing = [token for token in (*about(name).tokens, "<s>") if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    tokenizer.bos_token = "<s>"
    stop = about(name).stop.replace("eos_token", tokenizer.eos_token)
    rendered = Template.for_tokenizer(tokenizer, name).render(Conversation(without_system(name, WORDS)))
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    for start, end in rendered.spans:
        inside = [index for index, (first, last) in enumerate(offsets) if start <= first and last <= end]
        assert ids[inside[-1]] == tokenizer.convert_tokens_to_ids(stop)
        assert offsets[inside[-1]] == (end - len(stop), end)
        assert [ids[index] for index in inside].count(ids[inside[-1]]) == 1
    for token in about(name).tokens:
        found = [index for index, (first, last) in enumerate(offsets) if rendered.text[first:last] == token]
        assert len(found) == rendered.text.count(token)


def test_the_tokens_of_a_turn_end_with_the_stop_token(subtests, tiny):
    """One token, the last of the turn."""
    for name in SHIPPED:
        with subtests.test(name):
            check_tokens(name, copy.deepcopy(tiny))


# Naming one.


@pytest.fixture(scope="module")
def tiny() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


def test_a_template_can_travel(tiny):
    said = Template.for_tokenizer(tiny, "qwen")
    again = pickle.loads(pickle.dumps(said))
    assert again.render(Conversation(WORDS)) == said.render(Conversation(WORDS))


def test_of_a_name_is_the_shipped_one(tiny):
    assert Template.for_tokenizer(tiny, "chatml").source == read_template("chatml")
    assert Template.for_tokenizer(tiny).source == tiny.chat_template


def test_an_unknown_name():
    with pytest.raises(NotReadyError) as caught:
        read_template("qwen9")
    assert str(caught.value) == f"There is no template 'qwen9'. Known: {', '.join(SHIPPED)}."


def test_a_tokenizer_without_the_token_that_ends_turns(tiny):
    tokenizer = copy.deepcopy(tiny)
    tokenizer.eos_token = None
    with pytest.raises(NotReadyError, match=r"zephyr ends turns with eos_token, and the tokenizer of .* none"):
        Template.for_tokenizer(tokenizer, "zephyr")


def test_a_template_without_front_matter():
    sources = ["{{ x }}", "{#- a word -#}", "{#\nsource: x\n#}", "{#-\na: [\n-#}", ""]
    assert [source for source in sources if front_matter(source) is not None] == []


def test_front_matter():
    assert front_matter(read_template("chatml")) == FrontMatter(
        source="https://huggingface.co/docs/transformers/chat_templating (ChatML), as in llama.cpp "
        'tests/test-chat-template.cpp "teknium/OpenHermes-2.5-Mistral-7B"',
        tokens=("<|im_start|>", "<|im_end|>"),
        stop="<|im_end|>",
        tools=False,
    )


FAMILY = {
    "DeepSeek-R1": "deepseek_r1", "deepseek-llm": "deepseek", "deepseek-coder": "deepseek_coder", "gemma-3": "gemma3",
    "gemma-2": "gemma", "Llama-3.": "llama3_1", "Meta-Llama-3-": "llama3", "Llama-2": "llama2", "CodeLlama": "llama2",
    "Mistral-7B": "mistral", "Mistral-Nemo": "mistral_nemo", "Mixtral": "mixtral", "Qwen2.5": "qwen", "Qwen3": "qwen3",
    "Yi-1.5": "yi_1_5", "01-ai/Yi-": "yi", "Phi-3-mini": "phi3", "microsoft/phi-4": "phi4", "SmolLM2": "chatml",
}  # fmt: skip


def test_the_template_of_every_model():
    wrong, without = [], []
    for file in sorted((ROOT / "conf" / "model").glob("[!_]*.yaml")):
        model = yaml.safe_load(file.read_text(encoding="utf-8"))
        model = model.get("model", model)
        if "template" not in model:
            without.append(file.stem)
            continue
        family = next(
            (template for part, template in FAMILY.items() if part in (model["path"] or "")), model["template"]
        )
        if model["template"] not in (None, *SHIPPED) or model["template"] != family:
            wrong.append(f"{file.stem} has {model['template']}, its family {family}")
    assert wrong == []
    assert without == ["tiny_instruct"], "it has its base's"
