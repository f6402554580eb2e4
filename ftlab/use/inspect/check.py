"""Whether what is trained is what is served: stored ids beside those of the tokenizer's own template."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftlab.data.formats import Message, Text
from ftlab.data.packing.store import Sample
from ftlab.data.tokens.literals import Literals, begin_token, special_tokens
from ftlab.data.tokens.templates import conversations
from ftlab.errors import DataError, NotReadyError
from ftlab.model.tokenizer import load_tokenizer
from ftlab.policy.tokens import Tokens
from ftlab.schema import Run
from ftlab.use.inspect.rows import Row, chunk_starts

_AROUND = 8  # tokens to either side of a difference


@dataclass
class Outcome:
    """Rows that were read back whole, as the beginning they were cut to, and not at all."""

    whole: int = 0
    cut: int = 0
    shortened: int = 0
    literal: int = 0

    def summary_line(self, run: Run) -> str:
        rows = f"{self.whole + self.cut:,} row{'s' * (self.whole + self.cut != 1)}"
        said = f"{rows} read back as the tokenizer's own template writes them"
        if run.stage.name == "pt":
            said = f"{rows} read back as the tokenizer writes them"
        limit = f"data.max_length={run.data.max_length}"
        if self.cut:
            said += f", {self.cut:,} of them to where {limit} cuts"
        if self.shortened:
            said += f"; {self.shortened:,} that data.truncation={run.data.truncation} shortens to {limit} not compared"
        if self.literal:
            said += f"; {self.literal:,} that spell special tokens out not compared"
        return said


def reload_tokenizer(tokens: Tokens, run: Run) -> Any:
    """Return the tokenizer as it comes out of a checkpoint: saved, and loaded again.

    :raises NotReadyError: it cannot be loaded again.
    """
    with tempfile.TemporaryDirectory(prefix="ftlab-tokenizer-") as folder:
        tokens.tokenizer.save_pretrained(folder)
        try:
            return load_tokenizer(run.model.model_copy(update={"path": folder}))
        except NotReadyError as error:
            raise NotReadyError(
                f"The tokenizer of {run.model.path} cannot be read again once it is saved beside a checkpoint: {error}"
            ) from None


def read_back(rows: Iterable[Row], run: Run, tokens: Tokens) -> Outcome:
    """Compare every row with what the tokenizer makes of its template, and look for the ends of trained turns.

    :raises DataError: the first difference, with its row.
    """
    tokenizer = tokens.tokenizer
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError(
            f"The tokenizer of {run.model.path} pads with its end of text, {tokenizer.eos_token!r}: masked with the "
            "padding, it is never learned. Give it a pad_token of its own in tokenizer_config.json."
        )
    check = _Check(run, tokens, reload_tokenizer(tokens, run))
    for row in rows:
        check.row(row)
    return check.outcome


class _Check:
    def __init__(self, run: Run, tokens: Tokens, tokenizer: Any):
        self._run, self._tokens, self._tokenizer = run, tokens, tokenizer
        # Of a template whose turns end with none, what stands last in them is no token to stop at.
        known = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
        self._stops = [stop for stop in tokens.stop if stop in known]
        self._literals = Literals(special_tokens(tokenizer) if run.data.special_tokens == "text" else ())
        self.outcome = Outcome()

    def row(self, row: Row) -> None:
        if self._literals.kept_apart(row.record) is not row.record:
            self.outcome.literal += 1
            return
        if isinstance(row.record, Text):
            self._text(row, row.record)
            return
        wanted = [(name, self._template_ids(row, *of)) for name, of in conversations(row.record)]
        limit, policy = self._run.data.max_length, self._run.data.truncation
        is_cut = max(len(ids) for _, ids in wanted) > limit
        if is_cut and policy != "right":
            self.outcome.shortened += 1
            self._ends(row, wanted, is_cut=False)  # shortened from the front: its turns are whole
            return
        for (name, ids), sample in zip(wanted, row.samples):
            stored = sample.input_ids
            self._same(row, name, stored, ids[: len(stored)] if is_cut and len(ids) > limit else ids)
        self._ends(row, wanted, is_cut)
        self.outcome.cut += is_cut
        self.outcome.whole += not is_cut

    def _template_ids(self, row: Row, messages: list[Message], tools: list[Any] | None, asks: bool) -> list[int]:
        from jinja2.exceptions import TemplateError

        try:
            found = self._tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=asks, tokenize=True, return_dict=True,
                tokenizer_kwargs={"verbose": False},
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError) as error:
            said = f"the template that is saved beside a checkpoint refuses it: {error}"
            raise self._failure(row, "", said, self._advice()) from None
        ids: list[int] = found["input_ids"]
        return ids

    def _text(self, row: Row, record: Text) -> None:
        ids = self._tokenizer(record.text, add_special_tokens=False, verbose=False)["input_ids"]
        begin = begin_token(self._tokenizer)
        ids = [*([] if begin is None else [begin]), *ids, self._tokenizer.eos_token_id]
        end = 0
        for sample, start in zip(row.samples, chunk_starts(row.samples, self._run.data)):
            end = start + len(sample.input_ids)
            self._same(row, "", sample.input_ids, ids[start:end], start)
        # The last token is in no chunk where it would be one of its own, with nothing to learn.
        if end < len(ids) - (len(row.samples) > 1 or len(ids) > self._run.data.max_length):
            self._same(row, "", np.empty(0, np.int32), ids[end:], end)
        self.outcome.whole += 1

    def _same(self, row: Row, name: str, stored: Any, wanted: Sequence[int], start: int = 0) -> None:
        """:param start: the place of the first token."""
        mine, theirs = stored.tolist(), list(wanted)
        if mine == theirs:
            return
        at = next((i for i, pair in enumerate(zip(mine, theirs)) if pair[0] != pair[1]), min(len(mine), len(theirs)))
        said = [f"what is prepared is not what the tokenizer writes, first at token {start + at + 1}:"]
        for whose, ids in (("prepared", mine), ("tokenizer", theirs)):
            near = ids[max(at - _AROUND, 0) : at + _AROUND + 1]
            text = self._tokenizer.decode(near, skip_special_tokens=False)
            here = f"token {ids[at]} in {text!r}" if at < len(ids) else f"it ends, after {text!r}"
            said.append(f"  {whose:<10}{here}")
        raise self._failure(row, name, "\n".join(said), self._advice())

    def _ends(self, row: Row, wanted: Sequence[tuple[str, list[int]]], is_cut: bool) -> None:
        """Every trained turn ends with a token at which generation stops."""
        if self._run.data.train_on == "all":
            return  # what is trained ends where the template does
        for (name, ids), sample in zip(wanted, row.samples):
            for start, end in stretches(sample):
                if is_cut and len(ids) > len(sample.input_ids) == end:
                    continue  # a cut answer does not teach the model to stop
                if int(sample.input_ids[end - 1]) not in self._stops:
                    text = self._tokenizer.decode(sample.input_ids[start:end], skip_special_tokens=False)
                    stops = " or ".join(repr(self._tokenizer.decode([stop])) for stop in self._stops)
                    said = f"a trained answer does not end with {stops}: {_text_end(text)!r}"
                    what = "Name a template whose turns end with a token of their own: model.template=NAME."
                    raise self._failure(row, name, said, what)

    def _failure(self, row: Row, name: str, problem: str, advice: str) -> DataError:
        return DataError(f"{row.where}{f', {name}' if name else ''}: {problem}\n{advice}")

    def _advice(self) -> str:
        dated = self._tokens.template is not None and "strftime_now" in self._tokens.template.source
        if dated:
            return (
                "The template writes the date of the day, so rows prepared on another day differ, and so will what is "
                "served. Name a template without it: model.template=NAME."
            )
        return (
            f"The tokenizer of {self._run.model.path} writes otherwise once it is saved and loaded again, so the model "
            "would be served what it never saw. Mend its tokenizer_config.json, or give another model.path."
        )


def stretches(sample: Sample) -> Iterator[tuple[int, int]]:
    """Half-open ranges of trained tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sample.learned, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist())


def _text_end(text: str) -> str:
    return text if len(text) <= 60 else f"...{text[-60:]}"
