"""Text with spans -> token ids and label mask, in batches; truncation and chunking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.data.templates import Rendered

BATCH = 1000  # texts per call of the tokenizer
IGNORE = -100  # the label of a token that is read but not learned

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sample:
    """:param input_ids: int32, shape (T,). :param labels: int32, shape (T,); IGNORE where nothing is learned.

    A label stands at its own token's place; the trainer shifts. The first label is always IGNORE: nothing precedes it.
    """

    input_ids: Ids
    labels: Ids

    @property
    def trained(self) -> int:
        return int((self.labels != IGNORE).sum())


def encode_rendered(tokenizer: Any, rendered: Sequence[Rendered], train_on: str) -> Iterator[Sample]:
    """One sample per rendered conversation.

    :param train_on: ``assistant``: every assistant turn; ``last``: the last one; ``all``: every token.
    """
    for start in range(0, len(rendered), BATCH):
        batch = rendered[start : start + BATCH]
        encoded = tokenizer([item.text for item in batch], add_special_tokens=False, return_offsets_mapping=True)
        for item, ids, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"]):
            input_ids = np.asarray(ids, dtype=np.int32)
            if train_on == "all":
                trained = np.ones(len(ids), dtype=bool)
            else:
                spans = item.spans[-1:] if train_on == "last" else item.spans
                trained = _inside(np.asarray(offsets, dtype=np.int64).reshape(-1, 2), spans)
            yield _sample(input_ids, trained)


def encode_texts(tokenizer: Any, texts: Sequence[str], end: int) -> Iterator[Sample]:
    """One sample per document, every token a label, with the token ``end`` after its last."""
    for start in range(0, len(texts), BATCH):
        for ids in tokenizer(list(texts[start : start + BATCH]), add_special_tokens=False)["input_ids"]:
            input_ids = np.asarray([*ids, end], dtype=np.int32)
            yield _sample(input_ids, np.ones(len(input_ids), dtype=bool))


def _inside(offsets: NDArray[np.int64], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Which tokens begin inside a span. A token that begins before it carries template text, and is not learned."""
    starts, ends = np.asarray(spans, dtype=np.int64).T
    place = np.searchsorted(starts, offsets[:, 0], side="right") - 1
    return (place >= 0) & (offsets[:, 0] < ends[place]) & (offsets[:, 1] > offsets[:, 0])


def _sample(input_ids: Ids, trained: NDArray[np.bool_]) -> Sample:
    labels = np.where(trained, input_ids, np.int32(IGNORE)).astype(np.int32)
    labels[:1] = IGNORE
    return Sample(input_ids, labels)


def cut(sample: Sample, length: int) -> Sample:
    """The first ``length`` tokens. No end token is invented: a cut answer does not teach the model to stop."""
    return Sample(sample.input_ids[:length], sample.labels[:length])


def chunk_spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open token ranges of at most ``size`` that cover ``length`` tokens, each sharing ``overlap`` with the last.

    >>> chunk_spans(10, 4, 1)
    [(0, 4), (3, 7), (6, 10)]
    """
    spans = [(0, min(size, length))]
    while spans[-1][1] < length:
        start = spans[-1][1] - overlap
        spans.append((start, min(start + size, length)))
    return spans


def chunk(sample: Sample, size: int, overlap: int) -> list[Sample]:
    """Chunks of a long text; every token is a label in at most one of them, the shared ones in the earlier."""
    chunks = []
    for start, end in chunk_spans(len(sample.input_ids), size, overlap):
        labels = sample.labels[start:end].copy()
        labels[: max(overlap, 1) if start else 0] = IGNORE
        chunks.append(Sample(sample.input_ids[start:end], labels))
    return chunks
