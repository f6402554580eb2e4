"""tiktoken's core on a tokenizer's own vocabulary: the same ids several times sooner, where that can be shown.

Byte-level BPE by ``tokenizers`` applies a list of merges; tiktoken merges any two neighbours whose bytes are a token,
in order of rank. Ranked by the merge that makes them, both find the same tokens if

1. every merge joins tokens that earlier merges made (or single bytes),
2. all merges that make one token stand side by side in the list, and
3. every token's own bytes encode to that token alone.

For then, whatever stands around a stretch of bytes, as long as no merge crosses its ends it goes through the very
merges that it goes through alone; so the pair that makes a token is always the pair that makes it alone, whichever
others the rules would allow. :func:`fast_core` checks this for the whole vocabulary, and that the rest of the tokenizer
(pattern, normalizer, added tokens) is something that tiktoken does in the same way. What depends on the versions of
Unicode tables is probed for each character that the data has, when it first comes up.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pre-tokenizer patterns that both engines are known to read alike.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERNS = {
    _GPT2,
    _WORD + r"\p{N}{1,3}" + _REST,  # llama 3
    _WORD + r"\p{N}" + _REST,  # qwen 2
    "|".join(part + _SUFFIX for part in _CASED) + r"|\p{N}{1,3}" + _CASED_REST,  # o200k
    "|".join(_CASED) + r"|\p{N}" + _CASED_REST,  # tekken
}
# A character among each kind of neighbour that the patterns tell apart.
_CONTEXTS = ("{0}", "a{0}a", "A{0}a", "1{0}1", " {0} ", ".{0}.", "\n{0}\n", "'{0}", "{0}{0}", "s {0}e", "a{0}  {0}")


@dataclass(frozen=True, slots=True)
class FastCore:
    """:param ids: int32, a rank's token id. :param widths: int64, a rank's length in bytes."""

    bpe: Any
    special: set[str]
    ids: NDArray[np.int32]
    widths: NDArray[np.int64]
    needs_nfc: bool

    def encode(self, text: str) -> NDArray[np.uint32]:
        """The ranks of one text's tokens.

        :raises ValueError: the regex engine ran out of stack, in a run of white space of some 100,000 characters.
        """
        return np.frombuffer(self.bpe.encode_to_tiktoken_buffer(text, self.special), dtype=np.uint32)


def fast_core(tokenizer: Any) -> FastCore | str:
    """Return tiktoken's core on the tokenizer's vocabulary, or the reason why the two would differ."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "it is written in Python"
    config = json.loads(backend.to_str())
    pattern = _pattern(config["pre_tokenizer"])
    if pattern not in PATTERNS:
        return "its pre-tokenizer is none of those that tiktoken is known to reproduce"
    if (config["normalizer"] or {"type": "NFC"}) != {"type": "NFC"}:
        return f"its normalizer is {config['normalizer']['type']}"
    added = config["added_tokens"]
    if problem := _added_tokens_problem(added):
        return problem
    return _core(config["model"], {token["content"]: token["id"] for token in added}, pattern, config["normalizer"])


def _core(model: dict[str, Any], added: dict[str, int], pattern: str, normalizer: Any) -> FastCore | str:
    from tiktoken._tiktoken import CoreBPE
    from tokenizers import models

    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "fuse_unk")
    if model["type"] != "BPE" or any(model[option] for option in options):
        return "it is no plain byte-level BPE"
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    merges = [(left, right) for left, right in pairs]
    ranked = _rank_tokens(model["vocab"], merges, set(added))
    if isinstance(ranked, str):
        return ranked
    letters = _byte_letters()
    if model["ignore_merges"]:
        for token in model["vocab"].keys() - ranked.keys():
            if set(token) <= letters.keys() and bytes(letters[letter] for letter in token) != token.encode():
                return f"its added token {token!r} is also how its vocabulary writes other text"
    tokens = [bytes(letters[letter] for letter in token) for token in ranked]
    plain = models.BPE({token: i for i, token in enumerate(ranked)}, [m for m in merges if set(m) <= ranked.keys()])
    bpe = CoreBPE(
        {token: rank for rank, token in enumerate(tokens)},
        {token: len(tokens) + i for i, token in enumerate(added)},
        pattern,
    )
    for token in ranked:
        if len(plain.tokenize(token)) != 1:
            return f"its merges never make the token {token!r}, which tiktoken would"
    return FastCore(
        bpe,
        set(added),
        np.array([*ranked.values(), *added.values()], dtype=np.int32),
        np.array([*map(len, tokens), *(len(token.encode()) for token in added)], dtype=np.int64),
        normalizer is not None,
    )


def _rank_tokens(vocab: dict[str, int], merges: Sequence[tuple[str, str]], added: set[str]) -> dict[str, int] | str:
    """Token -> id in the order in which merges make them, the single bytes first."""
    letters = _byte_letters()
    if missing := [letter for letter in letters if letter not in vocab]:
        return f"{len(missing)} of the 256 bytes have no token"
    ranks = {letter: i for i, letter in enumerate(letters)}
    last = None
    for left, right in merges:
        whole = left + right
        if left not in ranks or right not in ranks:
            return f"its merge of {left!r} and {right!r} joins what no earlier merge makes"
        if whole in ranks and whole != last:
            return f"its merges that make {whole!r} stand apart"
        ranks.setdefault(whole, len(ranks))
        last = whole
    if unmade := [token for token in vocab if token not in ranks and token not in added]:
        return f"no merge makes {len(unmade)} of its tokens, such as {unmade[0]!r}"
    if unknown := [token for token in ranks if token not in vocab]:
        return f"its merges make {unknown[0]!r}, which is no token"
    return {token: vocab[token] for token in ranks}


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str:
    """The regular expression that cuts text into words; empty where it is not one expression and the bytes' letters."""
    if pre_tokenizer is None:
        return ""
    if pre_tokenizer["type"] == "ByteLevel":
        plain = pre_tokenizer["use_regex"] and not pre_tokenizer["add_prefix_space"]
        return _GPT2 if plain else ""
    parts = pre_tokenizer.get("pretokenizers", [])
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return ""
    split, letters = parts
    is_plain = split["behavior"] == "Isolated" and not split["invert"]
    is_plain = is_plain and not letters["use_regex"] and not letters["add_prefix_space"]
    return split["pattern"].get("Regex", "") if is_plain else ""


def _added_tokens_problem(added: Sequence[dict[str, Any]]) -> str | None:
    """What is found first must not depend on how it is looked for."""
    for token in added:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            return f"its token {token['content']!r} takes in the space around it"
    names = sorted(token["content"] for token in added)
    for one, other in pairwise(names):
        if other.startswith(one):
            return f"its token {one!r} is the beginning of {other!r}"
    by_pass = [[t["content"] for t in added if bool(t["normalized"]) is flag] for flag in (False, True)]
    for one in by_pass[0]:
        for other in by_pass[1]:
            if _overlap(one, other) or _overlap(other, one):
                return f"its tokens {one!r} and {other!r} overlap"
    return None


def _overlap(one: str, other: str) -> bool:
    return other in one or any(one.endswith(other[:size]) for size in range(1, len(other)))


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level vocabularies write for each byte (GPT-2's table): itself where it is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class FastPath:
    """Decides for each text whether the core does what the tokenizer does. Characters are probed as they come up."""

    def __init__(self, core: FastCore, tokenizer: Any):
        self.core = core
        self._tokenizer = tokenizer
        self._alike: set[str] = set(map(chr, range(128)))
        self._unlike: set[str] = set()

    def supports(self, text: str) -> bool:
        if text.isascii():
            return True
        if self.core.needs_nfc and not unicodedata.is_normalized("NFC", text):
            return False
        characters = set(text)
        if new := characters - self._alike - self._unlike:
            self._probe(new)
        return not characters & self._unlike

    def _probe(self, characters: set[str]) -> None:
        for character in characters:
            texts = [context.format(character) for context in _CONTEXTS]
            if self.matches_tokenizer(texts):
                self._alike.add(character)
            else:
                self._unlike.add(character)

    def matches_tokenizer(self, texts: Sequence[str]) -> bool:
        """Whether the core and the tokenizer produce the same ids."""
        theirs = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return all(self.core.ids[self.core.encode(text)].tolist() == ids for text, ids in zip(texts, theirs))
