"""Small byte-level tokenizers of every structure, built for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

# Characters of one to four bytes, spaces, marks and what the patterns tell apart.
MULTI_BYTE = ["a", "b", "Z", "1", " ", "  ", "\n", "\t", ".", "'", "s", "é", "e\u0301", "漢", "字", "😀", "\u00a0",
              "\u200b", "ß", "İ", "\u2028", "<|im_end|>", "ǅ", "²", "ⅷ", "ـ"]  # fmt: skip
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(
    merges: Sequence[tuple[str, str]] = (),
    more: Sequence[str] = (),
    pattern: str = QWEN2,
    normalizer: Any = None,
    added: Sequence[str | AddedToken] = ("<|end|>",),
    trim_offsets: bool = False,
    **options: Any,
) -> Tokenizer:
    """:param more: tokens of the vocabulary that no merge makes. :param options: of the BPE model."""
    vocab = {token: i for i, token in enumerate(letters())}
    for token in (*(left + right for left, right in merges), *more):
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, list(merges), **options))
    split = pre_tokenizers.Split(Regex(pattern), "isolated", invert=False)
    letters_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters_of])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim_offsets)])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) if isinstance(t, str) else t for t in added])
    return tokenizer


def nfc(**options: Any) -> Tokenizer:
    return byte_level(normalizer=normalizers.NFC(), **options)


def in_transformers(tokenizer: Tokenizer, end: str = "<|end|>") -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return found
