"""Text with spans -> token ids and which of them are trained, many texts at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.data.tokens.tiktoken_core import FastCore, FastPath, fast_core

PROBED = 2  # texts that are also read by the tokenizer itself, at first and then
PROBE_EVERY = 500  # whenever so many have gone by,
PROBED_LENGTH = 20_000  # as far as this many characters

# Between the characters of what no token may stand for as a whole. Unicode keeps it out of texts.
SPLIT = "\ufdd0"

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Spans = Sequence[tuple[int, int]]  # half-open character ranges, in order


class FastPathMismatch(Exception):
    """The fast path found other ids than the tokenizer; everything must be encoded without it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of several texts, one after the other.

    :param ids: int32, shape (T,). :param trained: bool, shape (T,). :param counts: tokens of each text.
    """

    ids: Ids
    trained: Flags
    counts: Counts


class Encoder:
    """A tokenizer, through tiktoken's core where that does the same.

    :param engine: what encodes, and if not the fast path, why, for the ledger.
    """

    def __init__(self, tokenizer: Any, fast: bool = True):
        self._tokenizer = tokenizer
        self._trims = _trims_offsets(tokenizer)
        core = fast_core(tokenizer) if fast else "another result was found on this data"
        self._fast = FastPath(core, tokenizer) if isinstance(core, FastCore) else None
        self._until_probe = 0
        self.engine = "tiktoken's core" if isinstance(core, FastCore) else f"tokenizers: {core}"

    def encode(self, texts: Sequence[str], spans: Sequence[Spans]) -> Tokens:
        """:param spans: of each text, what is trained. A token that begins before a span carries text of the template,
        and is not trained.

        :raises Unlike: a probe of the fast path failed.
        """
        if any(SPLIT in text for text in texts):
            return self._encode_split(texts, spans)
        if self._fast is None:
            return self._encode_slow(texts, spans)
        quick: list[NDArray[np.uint32]] = []
        others = []
        for i, text in enumerate(texts):
            try:
                if not self._fast.supports(text):
                    raise ValueError
                quick.append(self._fast.core.encode(text))
            except ValueError:
                others.append(i)
        found = self._join_with_slow(quick, texts, spans, others) if others else self._join(quick, texts, spans)
        self._until_probe -= len(texts)
        if self._until_probe <= 0:
            slow = set(others)
            self._check([text for i, text in enumerate(texts) if i not in slow][:PROBED])
            self._until_probe = PROBE_EVERY
        return found

    def _encode_split(self, texts: Sequence[str], spans: Sequence[Spans]) -> Tokens:
        """Texts of which some hold :data:`SPLIT`: no token reaches over one."""
        parts: list[str] = []
        ranges: list[Spans] = []
        firsts = []
        for text, of_text in zip(texts, spans):
            firsts.append(len(parts))
            start = 0
            for part in text.split(SPLIT):
                end = start + len(part)
                clipped = [(max(a, start) - start, min(b, end) - start) for a, b in of_text if a < end and b > start]
                parts.append(part)
                ranges.append(clipped)
                start = end + len(SPLIT)
        found = self.encode(parts, ranges)
        counts = np.add.reduceat(found.counts, firsts) if firsts else found.counts
        return Tokens(found.ids, found.trained, counts)

    def _check(self, texts: Sequence[str]) -> None:
        assert self._fast is not None
        for text in texts:
            if not self._fast.matches_tokenizer([text[:PROBED_LENGTH]]):
                raise FastPathMismatch(text)

    def _join(self, ranks: Sequence[NDArray[np.uint32]], texts: Sequence[str], spans: Sequence[Spans]) -> Tokens:
        assert self._fast is not None
        core = self._fast.core
        counts = np.fromiter(map(len, ranks), dtype=np.int64, count=len(ranks))
        flat = np.concatenate(ranks) if len(ranks) else np.empty(0, np.uint32)
        widths = core.widths[flat]
        ends = widths.cumsum()
        bounds, base = [], 0
        for text, ranges in zip(texts, spans):
            if text.isascii():
                bounds += [(base + start, base + end) for start, end in ranges]
                base += len(text)
            else:
                bounds += [(base + start, base + end) for start, end in _in_bytes(text, ranges)]
                base += len(text.encode())
        assert base == (ends[-1] if len(ends) else 0), "tokens are the bytes of their text, no more and no less"
        return Tokens(core.ids[flat], _inside_spans(ends - widths, bounds), counts)

    def _join_with_slow(
        self, quick: list[NDArray[np.uint32]], texts: Sequence[str], spans: Sequence[Spans], others: Sequence[int]
    ) -> Tokens:
        slow = set(others)
        taken = [i for i in range(len(texts)) if i not in slow]
        parts: dict[int, tuple[Ids, Flags]] = {}
        for indices, found in (
            (taken, self._join(quick, [texts[i] for i in taken], [spans[i] for i in taken])),
            (others, self._encode_slow([texts[i] for i in others], [spans[i] for i in others])),
        ):
            cuts = found.counts.cumsum()[:-1]
            parts |= dict(zip(indices, zip(np.split(found.ids, cuts), np.split(found.trained, cuts))))
        ordered = [parts[i] for i in range(len(texts))]
        counts = np.array([len(ids) for ids, _ in ordered], dtype=np.int64)
        return Tokens(np.concatenate([p[0] for p in ordered]), np.concatenate([p[1] for p in ordered]), counts)

    def _encode_slow(self, texts: Sequence[str], spans: Sequence[Spans]) -> Tokens:
        if not any(spans):
            ids = self._ids(texts)
            trained = [np.zeros(len(found), dtype=bool) for found in ids]
        else:
            encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids = encoded["input_ids"]
            offsets = map(self._offsets, encoded["offset_mapping"])
            trained = [
                _inside_spans(starts, ranges) & (ends > starts) for (starts, ends), ranges in zip(offsets, spans)
            ]
        counts = np.array([len(found) for found in ids], dtype=np.int64)
        flat = [np.empty(0, np.int32), *(np.asarray(found, dtype=np.int32) for found in ids)]
        return Tokens(np.concatenate(flat), np.concatenate([np.empty(0, bool), *trained]), counts)

    def _offsets(self, encodings: Any) -> tuple[Counts, Counts]:
        """Where each token's text begins and ends."""
        starts, ends = np.asarray(encodings, dtype=np.int64).reshape(-1, 2).T
        if self._trims:
            starts = np.minimum(starts, np.concatenate([np.zeros(1, np.int64), ends])[:-1])
        return starts, ends

    def _ids(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _trims_offsets(tokenizer: Any) -> bool:
    """Whether offsets leave out the spaces that a token begins with, as Llama 3's do: all of a token of only spaces."""
    processor = getattr(getattr(tokenizer, "backend_tokenizer", None), "post_processor", None)
    config = json.loads(processor.__getstate__()) if processor is not None else {}
    parts = config.get("processors") or [config]  # of a sequence, its parts
    return any(part.get("trim_offsets") for part in parts)


def _in_bytes(text: str, spans: Spans) -> list[tuple[int, int]]:
    """Character ranges as ranges of the text's UTF-8 bytes."""
    found, place, at = [], 0, 0
    for start, end in spans:
        first = at + len(text[place:start].encode())
        at = first + len(text[start:end].encode())
        place = end
        found.append((first, at))
    return found


def _inside_spans(starts: Counts, spans: Spans) -> Flags:
    """Which places lie in a span."""
    if not len(spans):
        return np.zeros(len(starts), dtype=bool)
    firsts, ends = np.asarray(spans, dtype=np.int64).T
    place = np.searchsorted(firsts, starts, side="right") - 1
    return (place >= 0) & (starts < ends[place])
