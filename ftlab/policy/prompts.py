"""Prompts as training writes them: the run's template, special tokens of a text kept as text, the tokenizer's ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftlab.data.formats import Conversation, Labelled, Pair, Prompt
from ftlab.data.tokens.encoder import Encoder
from ftlab.data.tokens.literals import Literals, special_tokens
from ftlab.data.tokens.templates import prompt_and_answer
from ftlab.policy.tokens import Tokens
from ftlab.schema import Data

_BLOCK = 256  # texts that are encoded at once


class PromptWriter:
    """:param tokens: with a template. :param data: says whether special tokens of a text are text."""

    def __init__(self, tokens: Tokens, data: Data):
        assert tokens.template is not None, "after stage=pt there is none"
        self._template = tokens.template
        self._literals = Literals(special_tokens(tokens.tokenizer) if data.special_tokens == "text" else ())
        self._encoder = Encoder(tokens.tokenizer, fast=False)

    def text(self, record: Conversation | Pair | Labelled | Prompt, thinks: bool | None = None) -> str:
        """The text that asks for the answer of a record.

        :param thinks: as of :meth:`ftlab.data.tokens.templates.Template.prompt`.
        :raises RowError: the template refuses it.
        """
        apart: Any = self._literals.kept_apart(record)
        return self._template.prompt(prompt_and_answer(apart)[0], apart.tools, thinks)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of such texts."""
        found: list[list[int]] = []
        for start in range(0, len(texts), _BLOCK):
            block = texts[start : start + _BLOCK]
            encoded = self._encoder.encode(block, [[]] * len(block))
            found += [part.tolist() for part in np.split(encoded.ids, encoded.counts.cumsum()[:-1])]
        return found
