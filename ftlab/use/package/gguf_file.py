"""Writes the file of GGUF, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.policy.tokens import Tokens
from ftlab.use.package import gguf_families as families
from ftlab.use.package.gguf_vocabulary import Vocabulary, read_vocabulary

INSTALL = "pip install 'ftlab[gguf]'"


def check_installed() -> None:
    """:raises NotReadyError: gguf is not."""
    if find_spec("gguf") is None:
        raise NotReadyError(f"format=gguf needs the package gguf: {INSTALL}")


def write_gguf(model: Path, file: Path, name: str, dtype: str, tokens: Tokens, template: str | None) -> None:
    """:param model: the folder of the whole model, in safetensors. :param name: what the file says it is.
    :param dtype: of matrices; all else is fp32. :param template: of conversations.

    :raises NotReadyError: llama.cpp has no place for the model or its tokenizer, or would compute something else.
    """
    import gguf
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model).get_text_config()
    family = families.family_of(config.model_type)
    families.check_config(config)
    starts_special = _starts_with_special(tokens)
    vocabulary = read_vocabulary(model, config.vocab_size, starts_special)
    kinds = {
        "fp32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
        "fp16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
        "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    }
    kind, file_type = kinds[dtype]
    writer = gguf.GGUFWriter(file, family.architecture)
    if (shown := _general_name(name, family.architecture, vocabulary)) is not None:
        writer.add_name(shown)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    families.write_parameters(writer, config)
    _write_vocabulary(writer, vocabulary, tokens, template, starts_special)
    places = _places(model, config, family)
    for target, shape, _ in places:
        chosen = _kind_of(shape, kind)
        size = _bytes(shape, chosen)
        writer.add_tensor_info(target, shape, _numpy_type(chosen), size, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, shape, read in places:
        writer.write_tensor_data(gguf.quants.quantize(read(), _kind_of(shape, kind)))
    writer.close()


# llama.cpp knows by a name with one of these that white space behind special tokens belongs to them, and looks for the
# tokens below, without which it ends.
_PHI3 = ("phi-3", "phi3")
_OF_PHI3 = {"</s>", "<unk>", "<s>", "<|endoftext|>"}


def _general_name(name: str, architecture: str, vocabulary: Vocabulary) -> str | None:
    """What the file says that it is called; None where llama.cpp would take the name for that of another model."""
    is_named = any(one in name.lower() for one in _PHI3)
    if not _OF_PHI3.issubset(vocabulary.tokens):
        return None if is_named else name
    return name if is_named or not vocabulary.strips or architecture != "phi3" else f"phi-3 {name}"


Place = tuple[str, tuple[int, ...], Callable[[], Any]]  # name in GGUF, shape, what reads it as fp32


def _places(model: Path, config: Any, family: families.Family) -> list[Place]:
    import gguf
    import numpy as np
    from safetensors import safe_open

    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family.architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found: list[Place] = [
        (name, (len(values),), lambda values=values: np.array(values, np.float32))  # type: ignore[misc]
        for name, values in families.rope_tensors(config).items()
    ]
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                target = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if target is None or (name.startswith("lm_head") and not family.has_head):
                    raise NotReadyError(
                        f"{name} of the model has no place in GGUF ({config.model_type}); use format=hf."
                    )
                shape = tuple(tensors.get_slice(name).get_shape())
                found.append((target, shape, _reader(path, name, config, family)))
    return found


def _reader(path: Path, name: str, config: Any, family: families.Family) -> Callable[[], Any]:
    def read() -> Any:
        import torch
        from safetensors import safe_open

        with safe_open(path, framework="pt") as tensors:
            values = tensors.get_tensor(name).to(torch.float32)
        if family.permutes and ".q_proj." in name:
            values = _interleaved(values, config.num_attention_heads)
        if family.permutes and ".k_proj." in name:
            values = _interleaved(values, config.num_key_value_heads)
        if family.adds_one and name.endswith("norm.weight"):
            values = values + 1
        return values.numpy()

    return read


def _interleaved(values: Any, heads: int) -> Any:
    """Rows of each head in pairs that are rotated together, (x0, y0, x1, y1, ...); transformers has (x0, x1, ..., y0,
    y1, ...). :param values: (heads x width, ...)."""
    width = values.shape[0] // heads
    return values.reshape(heads, 2, width // 2, *values.shape[1:]).transpose(1, 2).reshape(values.shape)


def _kind_of(shape: tuple[int, ...], kind: Any) -> Any:
    import gguf

    if len(shape) < 2:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _bytes(shape: tuple[int, ...], kind: Any) -> int:
    import gguf

    count = 1
    for size in shape:
        count *= size
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return count // block * size


def _numpy_type(kind: Any) -> Any:
    import gguf
    import numpy as np

    return np.dtype(np.float16 if kind == gguf.GGMLQuantizationType.F16 else np.float32)


def _starts_with_special(tokens: Tokens) -> bool:
    if tokens.template is None:
        return False
    ids = _ids_of_conversation(tokens)
    return bool(ids) and ids[0] in {*tokens.tokenizer.all_special_ids, *tokens.tokenizer.added_tokens_decoder}


def _ids_of_conversation(tokens: Tokens) -> list[int]:
    from ftlab.data.formats import RowError

    assert tokens.template is not None
    try:
        text = tokens.template.prompt([{"role": "user", "content": "a"}])
    except RowError:
        return []
    ids: list[int] = tokens.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _write_vocabulary(
    writer: Any, vocabulary: Vocabulary, tokens: Tokens, template: str | None, starts_special: bool
) -> None:
    tokenizer = tokens.tokenizer
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.adds_space)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokens.stop[0] != tokenizer.eos_token_id:
        writer.add_eot_token_id(tokens.stop[0])  # what ends a turn, beside what ends a text
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_add_bos_token(adds_bos(tokens))
    writer.add_add_eos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def adds_bos(tokens: Tokens) -> bool:
    """Whether a prompt begins with the token that begins a text: servers put it there themselves."""
    bos = tokens.tokenizer.bos_token_id
    if bos is None:
        return False
    ids = tokens.tokenizer("a")["input_ids"] if tokens.template is None else _ids_of_conversation(tokens)
    return bool(ids) and ids[0] == bos


def tensors_of(file: Path) -> Iterator[tuple[str, Any]]:
    """Name and values, fp32, of every tensor of a file: for who compares them."""
    import gguf

    for tensor in gguf.GGUFReader(file).tensors:
        yield tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type)
