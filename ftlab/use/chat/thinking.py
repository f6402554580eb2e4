"""What of a streamed answer is thinking: all between ``<think>`` and ``</think>``."""

from __future__ import annotations

from collections.abc import Iterator

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkingSplitter:
    """:param is_open: whether the prompt ends with ``<think>``, as some templates write it."""

    def __init__(self, is_open: bool):
        self._is_open, self._held = is_open, ""

    def feed(self, text: str) -> Iterator[tuple[str, bool]]:
        """Pieces of the answer so far that are certain, each with whether it is thinking; tags are left out."""
        self._held += text
        while self._held:
            tag = _CLOSE if self._is_open else _OPEN
            before, found, after = self._held.partition(tag)
            if found:
                yield from self._piece(before)
                self._is_open, self._held = not self._is_open, after
                continue
            sure = len(self._held) - _overlap(self._held, tag)
            yield from self._piece(self._held[:sure])
            self._held = self._held[sure:]
            return

    def end(self) -> Iterator[tuple[str, bool]]:
        """What was held back, because a tag might have begun there."""
        yield from self._piece(self._held)
        self._held = ""

    def _piece(self, text: str) -> Iterator[tuple[str, bool]]:
        if text:
            yield text, self._is_open


def _overlap(text: str, tag: str) -> int:
    """Characters at the end of the text that the tag may begin with."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)
