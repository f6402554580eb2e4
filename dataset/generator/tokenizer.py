"""Trains the tokenizer of ``models/tiny`` and writes its files. Needs the ``tokenizers`` package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from generator.files import write_text

VOCAB_SIZE = 2304
PAD, DOCUMENT_END, TURN_START, TURN_END = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, DOCUMENT_END, TURN_START, TURN_END)
TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# The Llama 3 split, but digits one by one: a number is then its digits, which is what arithmetic needs.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within ' }}
    {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": ' }}
    {{- '<args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages and messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' or (message['role'] == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {{- message['content'] or '' }}
            {%- for call in message['tool_calls'] or [] %}
                {%- set function = call['function'] or call %}
                {%- if message['content'] or not loop.first %}
                    {{- '\\n' }}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' + function['name'] + '", "arguments": ' }}
                {%- if function['arguments'] is string %}
                    {{- function['arguments'] }}
                {%- else %}
                    {{- function['arguments'] | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message['role'] == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1]['role'] != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message['content'] + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def train_tokenizer(texts: Iterable[str], folder: Path) -> dict[str, int]:
    """Train byte-level BPE on ``texts`` and write tokenizer and template into ``folder``; returns the vocabulary."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS]
    # As Qwen has it: tool marks are single tokens, but not special, so decoding keeps them for a parser to find.
    tools = [AddedToken(text, special=False, normalized=False) for text in TOOL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(tools),
        special_tokens=marks,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The marks are cut out first: a merge must not learn pieces of them.
    tokenizer.train_from_iterator((_without_marks(text) for text in texts), trainer=trainer)
    tokenizer.add_tokens(tools)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if len(vocabulary) != VOCAB_SIZE:
        raise ValueError(f"the corpus yields {len(vocabulary)} tokens, not {VOCAB_SIZE}: give it more documents")
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_text(folder / "tokenizer_config.json", _json(_tokenizer_config()))
    write_text(folder / "chat_template.jinja", CHAT_TEMPLATE)
    return vocabulary


def write_model_config(folder: Path, vocabulary: dict[str, int]) -> None:
    """Write the configuration of the (untrained) model and its generation defaults."""
    ids = {name: vocabulary[name] for name in SPECIAL_TOKENS}
    model = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids[DOCUMENT_END],
        "dtype": "float32",
        "eos_token_id": ids[DOCUMENT_END],
        "head_dim": 32,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "pad_token_id": ids[PAD],
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }
    generation = {
        "bos_token_id": ids[DOCUMENT_END],
        "eos_token_id": [ids[TURN_END], ids[DOCUMENT_END]],
        "pad_token_id": ids[PAD],
    }
    write_text(folder / "config.json", _json(model))
    write_text(folder / "generation_config.json", _json(generation))


def _without_marks(text: str) -> str:
    for mark in SPECIAL_TOKENS + TOOL_TOKENS:
        text = text.replace(mark, "\n")
    return text


def _tokenizer_config() -> dict[str, object]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": DOCUMENT_END,
        "extra_special_tokens": {"turn_start": TURN_START, "turn_end": TURN_END},
        "model_max_length": 2048,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
