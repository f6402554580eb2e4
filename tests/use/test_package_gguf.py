"""Packages for llama.cpp: what the file holds, what llama.cpp makes of it, and the Modelfile of Ollama.

``FTLAB_LLAMA_CPP=FOLDER`` names where ``npm install --ignore-scripts node-llama-cpp`` was run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ftlab.data.tokens.shipped_templates import front_matter, template_names
from ftlab.data.tokens.templates import Template
from ftlab.errors import ConfigError, NotReadyError, PackageError
from ftlab.model.tokenizer import complete, stop_tokens
from ftlab.policy.tokens import Tokens, _probe_answer
from ftlab.rundir.directory import RunDir
from ftlab.use.package.check import Prompt, Reference, check_right
from ftlab.use.package.gguf_file import tensors_of, write_gguf
from ftlab.use.package.llama_cpp import VARIABLE, ask, find_build
from ftlab.use.package.modelfile import chat_shape, go_template, modelfile
from tests.conftest import ROOT
from tests.runs import train_run
from tests.use.test_package import GIVEN, answer_of, unpacked
from tests.use.test_package_archive import packaged

pytest.importorskip("gguf", reason="pip install 'ftlab[gguf]'")
TINY = ROOT / "models" / "tiny"
needs_llama_cpp = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder with node-llama-cpp"
)
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama 3.1": (
        "llama",
        {
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 16}),
    "gemma3": (
        "gemma3_text",
        {"num_hidden_layers": 6, "query_pre_attn_scalar": 16, "sliding_window": 16, "layer_types": None},
    ),
    "phi3": ("phi3", {"num_key_value_heads": 4}),
    "phi3, long": (
        "phi3",
        {
            "max_position_embeddings": 1024, "original_max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0 + i / 9 for i in range(8)],
                "long_factor": [1.5 + i / 5 for i in range(8)], "original_max_position_embeddings": 512,
            },
        },
    ),
}  # fmt: skip


def family_model(folder: Path, name: str) -> Any:
    """A model of a family with random weights, and the embedded tokenizer. Its norms and biases are no ones and zeros:
    what is done to them counts too."""
    kind, more = FAMILIES[name]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = AutoConfig.for_model(kind, **{**SMALL, "vocab_size": len(tokenizer), **more})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "embed" not in key and "lm_head" not in key:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tokens_of(tokenizer: Any, template_name: str | None = None) -> Tokens:
    """As a run has them."""
    template = Template.for_tokenizer(tokenizer, template_name)
    about = front_matter(template.source)
    additions = complete(tokenizer, about.tokens if about else ())
    return Tokens(tokenizer, template, additions, stop_tokens(tokenizer, _probe_answer(template)))


def reference(model: Any, tokens: Tokens, texts: Sequence[str]) -> Reference:
    """What transformers makes of texts."""
    prompts, logits = [], []
    for text in texts:
        ids = tokens.tokenizer(text, add_special_tokens=False)["input_ids"]
        given = torch.tensor([ids])
        with torch.no_grad():
            out = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=32, do_sample=False,
                eos_token_id=tokens.stop, pad_token_id=0,
            )  # fmt: skip
            answer = out[0, len(ids) :].tolist()
            logits.append(model(out, use_cache=False).logits[0, len(ids) - 1 : -1].float())
        shown = tokens.tokenizer.decode(answer, skip_special_tokens=True)
        prompts.append(Prompt(None, text, ids, answer, shown))
    return Reference(None, tokens.stop, prompts, logits)


CHATS = (
    "What is 3 plus 4?",
    "Say  it   twice:\n\n\tdef f(x):\n        return x ** 2  # don't, I'll, YOU'RE 1234567 3.14",
    "Grüße, naïve café, 你好世界, здравствуй, ✓ 🙂👍🏽, \u00a0non-breaking",
)


SOON = ("llama", "gemma2")  # the others wait for make test-matrix


@needs_llama_cpp
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in SOON else pytest.mark.matrix) for n in FAMILIES])
def test_llama_cpp_computes_a_family_as_transformers_does(name, tmp_path):
    model = family_model(tmp_path / "model", name)
    tokens = tokens_of(AutoTokenizer.from_pretrained(tmp_path / "model"))
    write_gguf(tmp_path / "model", tmp_path / "m.gguf", name, "fp32", tokens, tokens.template.source)
    texts = [tokens.template.prompt([{"role": "user", "content": text}]) for text in CHATS]
    build = find_build(None)
    outcomes = ask(build, tmp_path / "m.gguf", reference(model, tokens, texts), 5e-3, tmp_path)
    print(name, [one.found for one in outcomes])
    check_right(outcomes)
    # And it is seen where something else is computed: the same file, one matrix of which is another.
    weights = tmp_path / "model" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    changed = load_file(weights)
    key = next(one for one in changed if "layers.1" in one and ("k_proj.weight" in one or "qkv_proj.weight" in one))
    changed[key] = changed[key].flip(0).contiguous()
    save_file(changed, weights, metadata={"format": "pt"})
    write_gguf(tmp_path / "model", tmp_path / "other.gguf", name, "fp32", tokens, tokens.template.source)
    with pytest.raises(PackageError, match=r"in llama\.cpp: logits"):
        check_right(ask(build, tmp_path / "other.gguf", reference(model, tokens, texts), 5e-3, tmp_path))


# Of other families it does not read all that the file says: biases of attention, soft caps, factors of frequencies.
READ_BY_TRANSFORMERS = ("llama", "qwen2", "phi3")


@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_file_as_the_model_that_it_was_made_of(name, tmp_path):
    """Its reader of GGUF is written by others: it takes rows and norms back to where they were."""
    model = family_model(tmp_path / "model", name)
    tokens = tokens_of(AutoTokenizer.from_pretrained(tmp_path / "model"))
    (tmp_path / "gguf").mkdir()
    write_gguf(tmp_path / "model", tmp_path / "gguf" / "m.gguf", name, "fp32", tokens, None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "gguf", gguf_file="m.gguf", dtype=torch.float32).eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, model(ids).logits, atol=1e-4)


def test_fewer_bits_are_near(tmp_path):
    model = family_model(tmp_path / "model", "llama")
    tokens = tokens_of(AutoTokenizer.from_pretrained(tmp_path / "model"))
    own = model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    for dtype, limit in (("fp32", 0.0), ("fp16", 5e-4), ("bf16", 4e-3), ("q8_0", 5e-3)):
        file = tmp_path / f"{dtype}.gguf"
        write_gguf(tmp_path / "model", file, "m", dtype, tokens, None)
        found = dict(tensors_of(file))["blk.0.ffn_up.weight"]
        assert (torch.tensor(found) - own).abs().max() <= limit * own.abs().max()
    sizes = [(tmp_path / f"{dtype}.gguf").stat().st_size for dtype in ("fp32", "bf16", "q8_0")]
    assert sizes[0] > sizes[1] > sizes[2]
    again = tmp_path / "again.gguf"
    write_gguf(tmp_path / "model", again, "m", "bf16", tokens, None)
    assert again.read_bytes() == (tmp_path / "bf16.gguf").read_bytes()


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("starcoder2", {}, "model_type=starcoder2 cannot be packed as GGUF, which is for llama, mistral, qwen2"),
        ("gpt2", {}, "model_type=gpt2 cannot be packed as GGUF"),
        ("llama", {"rope_parameters": DYNAMIC}, "The rope scaling dynamic of llama cannot be packed as GGUF"),
        ("gemma2", {"query_pre_attn_scalar": 99}, "query_pre_attn_scalar=99 of gemma2 is 16 in llama.cpp"),
        ("gemma2", {"query_pre_attn_scalar": 16, "layer_types": ["full_attention"] * 2}, "layer_types of this gemma2"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=true of qwen2"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused_by_name(kind, more, said, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    AutoConfig.for_model(kind, **{**SMALL, "vocab_size": len(tokenizer), **more}).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(NotReadyError, match=re.escape(said)):
        write_gguf(tmp_path, tmp_path / "m.gguf", "m", "fp32", tokens_of(tokenizer), None)


# ------------------------------------------------------------------------------------------------------ tokenizers

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(*patterns: str) -> Any:
    from tokenizers import Regex

    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


BYTES: dict[str, tuple[Any, bool]] = {
    "qwen2": (split_by(QWEN2), False),
    "llama3": (split_by(QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), True),
    "llama3 without ignore_merges": (split_by(QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")), False),
    "tekken": (split_by(TEKKEN), True),
    "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        False,
    ),
}
PIECES = {
    "llama2": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    "gemma": normalizers.Replace(" ", "▁"),
}
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def corpus() -> list[str]:
    rows = (ROOT / "dataset" / "instructions" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    return [*rows, *CHATS, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))[:3])]


def byte_tokenizer(kind: str) -> Any:
    """A BPE of bytes, trained on the spot."""
    found, (splitter, ignore_merges) = Tokenizer(models.BPE()), BYTES[kind]
    found.pre_tokenizer, found.decoder = splitter, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator(corpus(), trainer)
    whole = json.loads(found.to_str())
    whole["model"]["ignore_merges"] = ignore_merges
    return wrapped(Tokenizer.from_str(json.dumps(whole)))


def piece_tokenizer(kind: str) -> Any:
    """A BPE as SentencePiece has it: pieces with a mark for the space, and bytes for what has no piece."""
    found = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    found.normalizer = PIECES[kind]
    strip = [decoders.Strip(" ", 1, 0)] if kind == "llama2" else []
    found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    some = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=1100, special_tokens=[*SPECIAL, *some], show_progress=False, max_token_length=16, limit_alphabet=80
    )
    found.train_from_iterator([one for text in corpus() for one in re.findall(r"\s?\S+|\s+", text)], trainer)
    whole = json.loads(found.to_str())
    whole["added_tokens"] = [one for one in whole["added_tokens"] if one["content"] in SPECIAL]
    return wrapped(Tokenizer.from_str(json.dumps(whole)))


def wrapped(tokenizer: Tokenizer) -> Any:
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


@needs_llama_cpp
@pytest.mark.matrix
@pytest.mark.parametrize("kind", [*BYTES, *PIECES])
def test_llama_cpp_makes_the_same_ids_of_texts(kind, tmp_path):
    tokenizer = byte_tokenizer(kind) if kind in BYTES else piece_tokenizer(kind)
    tokens = tokens_of(tokenizer, "chatml")
    config = AutoConfig.for_model("llama", **{**SMALL, "vocab_size": len(tokenizer) + 7})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    write_gguf(tmp_path / "model", tmp_path / "m.gguf", kind, "fp32", tokens, tokens.template.source)
    texts = [tokens.template.prompt([{"role": "user", "content": text}]) for text in (*CHATS, *corpus()[:12])]
    outcomes = ask(find_build(None), tmp_path / "m.gguf", reference(model, tokens, texts), 1e-2, tmp_path)
    check_right(outcomes[:1])
    assert f"{len(texts)} of {len(texts)} the same" in outcomes[0].found


def test_a_tokenizer_that_splits_in_another_way_is_refused(tmp_path):
    family_model(tmp_path, "llama")
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\s+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(NotReadyError, match=r"splits texts by \\p\{L\}\+\|\\s\+, and no pre-tokenizer"):
        write_gguf(tmp_path, tmp_path / "m.gguf", "m", "fp32", tokens_of(AutoTokenizer.from_pretrained(TINY)), None)


# ------------------------------------------------------------------------------------------------------- Modelfile

_TAG = re.compile(r"(\{\{.*?\}\})", re.DOTALL)


def rendered(go: str, system: str | None, messages: Sequence[tuple[str, str]]) -> str:
    """What Go's text/template makes of the few words that a Modelfile here has."""
    parts = [part for part in _TAG.split(go) if part]
    text, end = _block(parts, 0, {"System": system or "", "Messages": messages})
    assert end == len(parts)
    return text


def _block(parts: Sequence[str], at: int, scope: dict[str, Any]) -> tuple[str, int]:
    text = ""
    while at < len(parts):
        part = parts[at]
        word = part[2:-2].strip() if part.startswith("{{") else None
        if word is None:
            text, at = text + part, at + 1
        elif word == "end" or word.startswith("else"):
            return text, at
        elif word.startswith("range"):
            for role, content in scope["Messages"]:
                one, end = _block(parts, at + 1, {**scope, "Role": role, "Content": content})
                text += one
            if not scope["Messages"]:
                _, end = _block(parts, at + 1, {**scope, "Role": "", "Content": ""})
            at = end + 1
        elif word.startswith("if"):
            chosen, condition = None, word.removeprefix("if ")
            while True:
                one, end = _block(parts, at + 1, scope)
                if chosen is None and _is_true(condition, scope):
                    chosen = one
                following = parts[end][2:-2].strip()
                at = end
                if following == "end":
                    break
                condition = following.removeprefix("else").strip().removeprefix("if ").strip() or "true"
            text, at = text + (chosen or ""), at + 1
        elif word.startswith('"'):
            text, at = text + word[1:-1], at + 1
        else:
            text, at = text + scope[word.removeprefix(".")], at + 1
    return text, at


def _is_true(condition: str, scope: dict[str, Any]) -> bool:
    if condition == "true":
        return True
    if found := re.fullmatch(r'eq \.(\w+) "(\w+)"', condition):
        return bool(scope[found[1]] == found[2])
    return bool(scope[condition.removeprefix(".")])


@pytest.mark.parametrize("name", template_names())
def test_a_template_of_ollama_writes_what_the_chat_template_writes(name):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    template = tokens_of(tokenizer, name).template
    assert template is not None
    shape = chat_shape(template, "<s>")
    assert shape is not None
    go = go_template(shape)
    asked: list[list[tuple[str, str]]] = [
        [("user", "One {{ brace }} and \"quotes\"?")],
        [("user", "First?"), ("assistant", "An answer."), ("user", "Second?")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    ]  # fmt: skip
    for system in (None, "Be brief."):
        for turns in asked:
            messages = [{"role": role, "content": content} for role, content in turns]
            if system is not None:
                if shape.opening_with_system is None:
                    continue
                messages.insert(0, {"role": "system", "content": system})
            wanted = template.prompt(messages).removeprefix("<s>")
            given = turns if system is None else [("system", system), *turns]
            assert rendered(go, system, given) == wanted


def test_what_cannot_be_written_for_ollama_is_said_in_the_file():
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = (
        "{%- for m in messages %}{{ loop.index }}: {{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}<|im_end|>{% endif %}{%- endfor %}"
        "{% if add_generation_prompt %}{{ messages | length + 1 }}: {% endif %}"
    )
    tokens = tokens_of(tokenizer)
    text = modelfile("m.gguf", tokens)
    assert chat_shape(tokens.template, None) is None
    assert "# The chat template cannot be written as one of Ollama" in text and "TEMPLATE" not in text
    assert 'PARAMETER stop "<|im_end|>"' in text


# ------------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunDir:
    return train_run(tmp_path_factory.mktemp("gguf") / "run", *GIVEN)


@pytest.fixture
def run(here, trained) -> Path:
    shutil.copytree(trained.path, here / "run", symlinks=True)
    return here / "run"


@needs_llama_cpp
def test_a_run_is_packed_as_gguf_and_checked_in_llama_cpp(run, capsys):
    packaged("run", "format=gguf")
    printed = capsys.readouterr().out
    assert re.search(r"in llama\.cpp: ids of prompts +3 of 3 the same", printed)
    assert re.search(r"in llama\.cpp: greedy answers +3 of 3 the same", printed)
    folder = unpacked(run / "packages" / "run-gguf.tar.gz")
    assert 'PARAMETER stop "<|im_end|>"' in (folder / "Modelfile").read_text()
    check = json.loads((folder / "check.json").read_text())
    asked = next(one for one in check["prompts"] if one["messages"][-1]["content"] == "What is 3 plus 4?")
    assert asked["answer"].startswith(answer_of(run))


@needs_llama_cpp
@pytest.mark.matrix
@pytest.mark.parametrize("dtype", ["bf16", "q8_0"])
def test_fewer_bits_are_checked_in_llama_cpp_too(dtype, run, capsys):
    packaged("run", "format=gguf", f"dtype={dtype}")
    printed = capsys.readouterr().out
    print(printed)
    assert re.search(r"in llama\.cpp: ids of prompts +3 of 3 the same", printed) and "not checked" not in printed
    assert re.search(r"in llama\.cpp: logits +largest difference 0\.\d+ of ", printed)


@pytest.mark.matrix
def test_without_a_build_of_llama_cpp_that_is_said(run, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    packaged("run", "format=gguf", "dtype=q8_0")
    assert "not checked: no build found; npm install --ignore-scripts node-llama-cpp" in capsys.readouterr().out
    packaged("verify", "run/packages/run-gguf-q8_0.tar.gz")
    with pytest.raises(NotReadyError, match=r"is loaded by llama\.cpp"):
        packaged("verify", "run/packages/run-gguf-q8_0.tar.gz", "load=true")


def test_what_gguf_cannot_have_is_told_before_anything_is_loaded(run, monkeypatch):
    with pytest.raises(ConfigError, match=r"task\.llama_cpp=nowhere: it has no node-llama-cpp: npm install"):
        packaged("run", "format=gguf", "llama_cpp=nowhere")
    with pytest.raises(ConfigError, match=r"task\.llama_cpp=x: is of format=gguf"):
        packaged("run", "llama_cpp=x")
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(text.replace("family: llama", "family: falcon"))
    with pytest.raises(NotReadyError, match="model_type=falcon cannot be packed as GGUF"):
        packaged("run", "format=gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(NotReadyError, match=r"format=gguf needs the package gguf: pip install 'ftlab\[gguf\]'"):
        packaged("run", "format=gguf")


def test_a_file_without_a_modelfile_is_no_package(run):
    packaged("run", "format=gguf", "check=false")
    folder = unpacked(run / "packages" / "run-gguf.tar.gz")
    (folder / "Modelfile").unlink()
    (folder / "SHA256SUMS").write_text(
        "".join(line for line in (folder / "SHA256SUMS").open() if "Modelfile" not in line)
    )
    with pytest.raises(PackageError, match="is of format gguf and has no Modelfile"):
        packaged("verify", str(folder))
