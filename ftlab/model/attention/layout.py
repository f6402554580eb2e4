"""Where the segments of packed rows lie, and which keys each of them attends to.

Shape suffixes: S segments of a batch, T places of it (B rows of L tokens, one after the other), K keys of all segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Kernels are launched for the longest segment: rounded up, few lengths occur, and a compiled graph fits the next batch.
_ROUND_TO = 128


class Segment(NamedTuple):
    """Tokens that attend to each other causally, after a prefix that lies elsewhere among the places.

    :param start: place of the first token, 0 to T - 1. :param length: tokens. :param prefix_start: place of the first
        token of the prefix. :param prefix_length: its tokens, all of which every token of the segment attends to.
    """

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0

    @property
    def keys(self) -> int:
        return self.prefix_length + self.length


@dataclass(frozen=True)
class KernelArguments:
    """What kernels for variable lengths take, int32 and on the device that it is for.

    Their segments are those of the layout and the padding between them, so that they cover all places.

    :param cu_queries: shape (S + 1,): how many queries come before each segment's. :param cu_keys: the same of keys.
    :param longest_query: at least the queries of any segment. :param longest_key: at least the keys of any.
    :param key_places: int64, shape (K,): the place of each key; None where these are all places in their order.
    """

    cu_queries: Tensor
    cu_keys: Tensor
    longest_query: int
    longest_key: int
    key_places: Tensor | None


class SegmentLayout:
    """The segments of one batch, in the order of their places; no place belongs to two of them.

    Made of plain numbers on the host, so that no kernel's arguments have to be read back from a device.

    :param spans: int, shape (S, 4): of each segment what :class:`Segment` says. :param places: T.
    :ivar longest: the most keys of any segment.
    :ivar windows: None, or a list that gets the sliding window of every attention that is computed by this layout.
    """

    def __init__(self, spans: NDArray[np.int64], places: int):
        self.segments = [Segment(*span) for span in spans.tolist()]
        self.places = places
        self.longest = max(segment.keys for segment in self.segments)
        self.windows: list[int | None] | None = None
        self._arguments: dict[torch.device, KernelArguments] = {}

    @cached_property
    def is_whole(self) -> bool:
        """Whether every place belongs to a segment: there is no padding."""
        return sum(segment.length for segment in self.segments) == self.places

    @cached_property
    def has_prefixes(self) -> bool:
        return any(segment.prefix_length for segment in self.segments)

    @cached_property
    def covering(self) -> list[Segment]:
        """The segments, and of the padding between them segments of its own."""
        covering, end = [], 0
        for segment in self.segments:
            if segment.start > end:
                covering.append(Segment(end, segment.start - end))
            covering.append(segment)
            end = segment.start + segment.length
        if self.places > end:
            covering.append(Segment(end, self.places - end))
        return covering

    @cached_property
    def key_places(self) -> NDArray[np.int64]:
        """The place of each key of the covering segments, prefix first, shape (K,)."""
        ranges = [
            np.arange(start, start + length)
            for segment in self.covering
            for start, length in ((segment.prefix_start, segment.prefix_length), (segment.start, segment.length))
        ]
        return np.concatenate(ranges)

    def arguments(self, device: torch.device) -> KernelArguments:
        """Sent to the device once, without waiting for it."""
        if device not in self._arguments:

            def sent(numbers: NDArray[Any]) -> Tensor:
                return torch.from_numpy(numbers).to(device, non_blocking=True)

            queries = np.array([segment.length for segment in self.covering])
            keys = np.array([segment.keys for segment in self.covering])
            self._arguments[device] = KernelArguments(
                cu_queries=sent(_cumulated(queries)),
                cu_keys=sent(_cumulated(keys)),
                longest_query=_rounded_up(queries.max()),
                longest_key=_rounded_up(keys.max()),
                key_places=sent(self.key_places) if self.has_prefixes else None,
            )
        return self._arguments[device]

    def mask(self) -> Tensor:
        """Which places attend to which, bool, shape (T, T); padding attends to itself. For small batches: it is what
        the layout is there to do without."""
        mask_TT = torch.eye(self.places, dtype=torch.bool)
        for start, length, prefix_start, prefix_length in self.segments:
            own = slice(start, start + length)
            mask_TT[own, own] = torch.ones(length, length, dtype=torch.bool).tril()
            mask_TT[own, prefix_start : prefix_start + prefix_length] = True
        return mask_TT


def _cumulated(counts: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], counts.cumsum()]).astype(np.int32)


def _rounded_up(length: Any) -> int:
    return int(-(-length // _ROUND_TO) * _ROUND_TO)
