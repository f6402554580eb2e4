"""A tokenizer of the tokenizers library as GGUF has it.

llama.cpp has two kinds of BPE: that of bytes, with a pattern which splits a text first and is known by a name, and that
of SentencePiece, whose merges follow from a score of each piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's types of tokens
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# What splits a text, as tokenizer.json spells it -> its name in llama.cpp.
_SPLITS = {
    (f"{_CONTRACTIONS}|{_LETTERS}|\\p{{N}}|{_REST}",): "qwen2",
    (f"{_CONTRACTIONS}|{_LETTERS}|\\p{{N}}{{1,3}}|{_REST}",): "llama-bpe",
    (
        f"[^\\r\\n\\p{{L}}\\p{{N}}]?{_UPPER}*{_LOWER}+|[^\\r\\n\\p{{L}}\\p{{N}}]?{_UPPER}+{_LOWER}*|\\p{{N}}|{_OTHERS}",
    ): "tekken",
    ("gpt-2",): "gpt-2",
    ("digits", "gpt-2"): "smollm",
}
_ANY_MERGES = {"llama-bpe": "dbrx"}  # of a pattern that has two names: the one without ignore_merges


@dataclass(frozen=True)
class Vocabulary:
    """:param model: ``gpt2`` or ``llama``. :param pre: the name of the pattern. :param scores: of SentencePiece.
    :param merges: of bytes. :param adds_space: whether a text gets a space before it.
    :param strips: whether white space behind special tokens belongs to them.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str] | None
    adds_space: bool
    strips: bool


def read_vocabulary(folder: Path, rows: int, starts_special: bool) -> Vocabulary:
    """:param folder: with tokenizer.json. :param rows: of the embedding; rows without a token get names of their own.
    :param starts_special: whether the text of a conversation begins with a special token.

    :raises NotReadyError: it is of a kind, or splits texts in a way, that llama.cpp does not have.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise NotReadyError("The tokenizer has no tokenizer.json, which GGUF is made of; use format=hf.")
    whole = json.loads(file.read_text(encoding="utf-8"))
    model = whole["model"]
    if model.get("type") != "BPE":
        raise NotReadyError(f"A tokenizer of type {model.get('type')} cannot be packed as GGUF; use format=hf.")
    tokens, types = _tokens(whole, rows, is_bytes=not model.get("byte_fallback"))
    merges = [" ".join(one) if isinstance(one, list) else one for one in model["merges"]]
    strips = any(one.get("rstrip") for one in whole["added_tokens"] if one["special"])
    if not model.get("byte_fallback"):
        return Vocabulary("gpt2", _pre(whole), tokens, types, None, merges, False, strips)
    scores, adds_space = _scores(tokens, merges), _adds_space(whole, starts_special)
    return Vocabulary("llama", "default", tokens, types, scores, None, adds_space, strips)


def _tokens(whole: Mapping[str, Any], rows: int, is_bytes: bool) -> tuple[list[str], list[int]]:
    vocabulary, added = whole["model"]["vocab"], {one["id"]: one for one in whole["added_tokens"]}
    by_id = {place: token for token, place in vocabulary.items()}
    by_id |= {place: one["content"] for place, one in added.items()}
    unknown = whole["model"].get("unk_token")
    tokens, types = [], []
    for place in range(max(rows, max(by_id) + 1)):
        token = by_id.get(place)
        if token is None:
            tokens.append(f"[PAD{place}]")
            types.append(_UNUSED)
            continue
        tokens.append(token)
        if token == unknown and not is_bytes:
            types.append(_UNKNOWN)
        elif place in added:
            types.append(_CONTROL if added[place]["special"] else _USER_DEFINED)
        elif not is_bytes and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types.append(_BYTE)
        else:
            types.append(_NORMAL)
    return tokens, types


def _pre(whole: Mapping[str, Any]) -> str:
    """The name of the pattern. :raises NotReadyError: llama.cpp has none that is known to be the same."""
    if whole.get("normalizer") is not None and whole["normalizer"].get("type") != "NFC":
        raise NotReadyError(
            f"The tokenizer changes texts first ({whole['normalizer'].get('type')}), which llama.cpp does not; "
            "use format=hf."
        )
    found = tuple(_splits(whole.get("pre_tokenizer")))
    if found not in _SPLITS:
        raise NotReadyError(
            f"The tokenizer splits texts by {', '.join(found) or 'nothing'}, and no pre-tokenizer of llama.cpp is "
            "known to do the same; use format=hf."
        )
    name = _SPLITS[found]
    return name if whole["model"].get("ignore_merges") else _ANY_MERGES.get(name, name)


def _splits(node: Mapping[str, Any] | None) -> Sequence[str]:
    if node is None:
        return []
    kind = node["type"]
    if kind == "Sequence":
        return [one for part in node["pretokenizers"] for one in _splits(part)]
    if kind == "ByteLevel":
        return ["gpt-2"] if node.get("use_regex", True) else []
    if kind == "Digits":
        return ["digits"] if node.get("individual_digits") else ["numbers"]
    if kind == "Split" and "Regex" in node["pattern"]:
        return [node["pattern"]["Regex"]]
    return [kind]


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """A piece is made by the merge of the highest score that is left; so its score is the place of its first merge."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else -1e9 for token in tokens]


def _adds_space(whole: Mapping[str, Any], starts_special: bool) -> bool:
    normalizer, splitter = whole.get("normalizer") or {}, whole.get("pre_tokenizer") or {}
    if any(one.get("type") == "Prepend" for one in normalizer.get("normalizers", [normalizer])):
        return True
    scheme = next(
        (
            one.get("prepend_scheme")
            for one in splitter.get("pretokenizers", [splitter])
            if one.get("type") == "Metaspace"
        ),
        "never",
    )
    return scheme == "always" or (scheme == "first" and not starts_special)
