"""Special tokens that a row's own text spells out: read as the characters that they are, and not as the tokens.

A user who writes ``<|im_end|>`` would otherwise end the turn, in training and wherever the text is served.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ftlab.data.formats import Record, RowError
from ftlab.data.tokens.encoder import SPLIT


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Every token of a tokenizer that stands for no text, with its id."""
    added = {str(token): id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids))


def begin_token(tokenizer: Any) -> int | None:
    """The id that a tokenizer writes by itself before a text; None where it writes none."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return whole[0] if len(whole) > len(plain) and whole[0] == tokenizer.bos_token_id else None


class Literals:
    """:param tokens: that are text where a row holds them; none to read them as tokens."""

    def __init__(self, tokens: Iterable[str]):
        # A token of one character has no place within it.
        longest_first = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, [SPLIT, *longest_first])))
        self._search = self._pattern.search

    def kept_apart(self, record: Record) -> Record:
        """The record with :data:`SPLIT` within each special token of its text; itself where there is none.

        :raises RowError: it holds :data:`SPLIT` already, which would be lost.
        """
        values = {name: getattr(record, name) for name in record.__dataclass_fields__}
        if not self._holds([*values.values()]):
            return record
        return replace(record, **{name: self._split(value) for name, value in values.items()})

    def _holds(self, value: Any) -> bool:
        if isinstance(value, dict):
            value = [*value, *value.values()]
        elif not isinstance(value, list):
            return False
        # Nearly all are strings, for which no call of this is made: it looks at every word of every row.
        return any(self._search(inner) if isinstance(inner, str) else self._holds(inner) for inner in value)

    def _split(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(_split_token, value)
        if isinstance(value, dict):
            return {self._split(key): self._split(inner) for key, inner in value.items()}
        return [self._split(inner) for inner in value] if isinstance(value, list) else value


def _split_token(found: re.Match[str]) -> str:
    if found[0] == SPLIT:
        raise RowError(f"holds U+{ord(SPLIT):04X}, which Unicode keeps out of texts; remove it")
    return f"{found[0][0]}{SPLIT}{found[0][1:]}"
