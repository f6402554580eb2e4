"""Rows as a person reads them: pieces of text, in colour on a terminal, between marks elsewhere, or as HTML."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rich.style import Style
from rich.text import Text as Coloured

from ftlab.data.formats import Labelled, Pair, Prompt, Text
from ftlab.data.packing.store import Sample
from ftlab.data.tokens.left_out import LeftOut, Loss
from ftlab.data.tokens.literals import special_tokens
from ftlab.policy.tokens import Tokens
from ftlab.use.inspect.rows import Row

TEXT_TOKENS, IDS, CHUNKS = 1000, 64, 3  # shown of one sample, and of one text, unless all are asked for

Kind = Literal["text", "special", "gap"]
Marks = tuple[str, str]
_BRACKETS = (("⟦", "⟧"), ("⟪", "⟫"), ("⦃", "⦄"))
_STYLES = {"text": Style(), "special": Style(color="magenta"), "gap": Style(italic=True, color="yellow")}
_TRAINED = Style(color="black", bgcolor="green")
_TRAINED_SPECIAL = Style(color="black", bgcolor="green", bold=True)
_EDGES = re.compile(r"^ +| +(?=\n)| +$")
_DRAWN = "·↵→"


@dataclass(frozen=True, slots=True)
class Piece:
    """:param kind: special is a token that stands for no text, gap is said in place of what is left out."""

    text: str
    kind: Kind
    trained: bool


@dataclass(frozen=True, slots=True)
class SampleView:
    """One sample. :param title: whose it is, and how long. :param text: as the model reads it. :param ids: the same.
    :param left_out: what of its row the template does not write; empty if nothing.
    """

    title: str
    text: list[Piece]
    ids: list[Piece]
    left_out: str = ""


def show_row(row: Row, tokens: Tokens, full: bool, text_tokens: int = TEXT_TOKENS) -> Iterator[SampleView]:
    """The samples of a row. :param full: leave nothing out of long ones, and no chunk of a text. :param text_tokens: of
    each else, about."""
    if tokens.template is not None and not isinstance(row.record, Text):
        losses = LeftOut(tokens.template).losses(row.record)
        for view, of in zip(_show_samples(row, tokens.tokenizer, full, text_tokens), losses):
            yield replace(view, left_out=_left_out(of))
    else:
        yield from _show_samples(row, tokens.tokenizer, full, text_tokens)


def _left_out(losses: Sequence[Loss]) -> str:
    places: dict[str, list[str]] = {}
    for loss in losses:
        places.setdefault(loss.kind, []).extend([] if loss.message is None else [str(loss.message + 1)])
    named = [f"{kind} (message {', '.join(of)})" if of else kind for kind, of in places.items()]
    return f"left out by the template: {'; '.join(named)}" if named else ""


def _show_samples(row: Row, tokenizer: Any, full: bool, text_tokens: int) -> Iterator[SampleView]:
    named = list(zip(_names(row), row.samples))
    if not full and len(named) > CHUNKS:
        between = f"{CHUNKS} to {len(named) - 1} left out; full=true shows all"
        named = [*named[: CHUNKS - 1], (f"{named[-1][0]} ({between})", named[-1][1])]
    for name, sample in named:
        yield show_sample([row.where, name], sample, tokenizer, full, text_tokens)


def show_sample(
    names: Sequence[str], sample: Sample, tokenizer: Any, full: bool, text_tokens: int = TEXT_TOKENS
) -> SampleView:
    """:param names: of what its title begins with. :param text_tokens: as in :func:`show_row`."""
    total, trained = len(sample.input_ids), sample.trained
    learned = f"{trained:,} trained" if trained else "none trained"
    title = "   ".join(filter(None, [*names, f"{total:,} token{'s' * (total != 1)}, {learned}"]))
    # What is a little too long is shown whole: a gap of two tokens tells less than they do.
    text_limit, ids_limit = (total if full or total <= 1.2 * most else most for most in (text_tokens, IDS))
    return SampleView(title, list(_text(sample, tokenizer, text_limit)), list(_ids(sample, tokenizer, ids_limit)))


def _names(row: Row) -> list[str]:
    record = row.record
    if isinstance(record, Pair):
        return ["chosen", "rejected"]
    if isinstance(record, Labelled):
        return ["label: good" if record.label else "label: bad"]
    if isinstance(record, Prompt):
        return [f"prompt; answer: {visible(record.answer)}" if record.answer is not None else "prompt; no answer"]
    if isinstance(record, Text) and len(row.samples) > 1:
        return [f"chunk {i} of {len(row.samples)}" for i in range(1, len(row.samples) + 1)]
    return [""] * len(row.samples)


# --- pieces ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens of one kind, or those that are left out."""

    start: int
    end: int
    kind: Kind
    trained: bool


def _runs(sample: Sample, tokenizer: Any, limit: int) -> Iterator[_Run]:
    ids, total = sample.input_ids, len(sample.input_ids)
    special = np.isin(ids, list(special_tokens(tokenizer).values()))
    head, tail = (total, total) if total <= limit else (limit // 2, total - limit // 2)
    kinds = sample.learned.astype(np.int8) + 2 * special.astype(np.int8)
    cuts = np.flatnonzero(np.diff(kinds)) + 1
    for start, end in ((0, head), (head, tail), (tail, total)):
        if start == head and end == tail and head < tail:
            yield _Run(start, end, "gap", False)
        elif start < end:
            inner = cuts[(cuts > start) & (cuts < end)].tolist()
            for a, b in zip([start, *inner], [*inner, end]):
                yield _Run(a, b, "special" if special[a] else "text", bool(sample.learned[a]))


def _text(sample: Sample, tokenizer: Any, limit: int) -> Iterator[Piece]:
    runs = list(_runs(sample, tokenizer, limit))
    ids = sample.input_ids.tolist()

    def decoded(part: list[int]) -> str:
        text: str = tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    # A stretch alone may decode otherwise than within its text (SentencePiece drops a space at the front), so all is
    # decoded once and cut where the tokens up to each edge end. A character in two stretches belongs to the later.
    whole = decoded(ids)
    befores = [decoded(ids[: run.end]).rstrip("�") for run in runs[:-1]]
    edges = [0, *map(len, befores), len(whole)]
    is_sure = edges == sorted(edges) and all(map(whole.startswith, befores))
    for run, start, end in zip(runs, edges, edges[1:]):
        if run.kind == "gap":
            yield _gap(sample, run, "tokens")
        else:
            yield Piece(whole[start:end] if is_sure else decoded(ids[run.start : run.end]), run.kind, run.trained)


def _ids(sample: Sample, tokenizer: Any, limit: int) -> Iterator[Piece]:
    for run in _runs(sample, tokenizer, limit):
        if run.kind == "gap":
            yield _gap(sample, run, "ids")
        else:
            yield Piece(" ".join(map(str, sample.input_ids[run.start : run.end].tolist())), run.kind, run.trained)


def _gap(sample: Sample, run: _Run, what: str) -> Piece:
    trained = int(np.count_nonzero(sample.learned[run.start : run.end]))
    learned = f", {trained:,} of them trained" if trained else ""
    return Piece(f"[... {run.end - run.start:,} {what} left out{learned}; full=true shows all ...]", "gap", False)


# --- what cannot be seen ---------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """Line breaks, tabs and spaces at edges drawn; characters that show nothing, or do something, by their number.

    >>> visible("a \\n\\u00a0")
    'a·↵\\n<U+00A0>'
    """
    text = _EDGES.sub(lambda spaces: "·" * len(spaces[0]), text)
    return "".join(_draw_character(c) for c in text)


def _draw_character(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character == "\t":
        return "→\t"
    if character == " " or unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cn", "Cs", "Zs", "Zl", "Zp"):
        return character
    return f"<U+{ord(character):04X}>"


LEGEND = "↵ is a line break, → a tab, · a space at an edge, <U+00A0> a character that shows nothing"


# --- three ways to print them ----------------------------------------------------------------------------------------


def marks_for(pieces: Iterable[Piece]) -> Marks:
    """Brackets that stand nowhere in the text itself."""
    text = "".join(piece.text for piece in pieces)
    for pair in _BRACKETS:
        if not any(mark in text for mark in pair):
            return pair
    doubled = _BRACKETS[0]
    while any(mark in text for mark in doubled):
        doubled = (doubled[0] * 2, doubled[1] * 2)
    return doubled


def as_plain(pieces: Sequence[Piece], marks: Marks, between: str = "") -> str:
    """:param between: what stands between pieces."""
    parts = _by_trained(pieces, between)
    return between.join(f"{marks[0]}{inner}{marks[1]}" if trained else inner for trained, inner in parts)


def _by_trained(pieces: Sequence[Piece], between: str) -> Iterator[tuple[bool, str]]:
    """Neighbours that are trained stand between one pair of marks."""
    held: list[str] = []
    for place, piece in enumerate(pieces):
        held.append(visible(piece.text))
        if place + 1 == len(pieces) or pieces[place + 1].trained != piece.trained:
            yield piece.trained, between.join(held)
            held = []


def as_coloured(pieces: Sequence[Piece], between: str = "") -> Coloured:
    found = Coloured()
    for place, piece in enumerate(pieces):
        style = _STYLES[piece.kind]
        if piece.trained:
            style = _TRAINED_SPECIAL if piece.kind == "special" else _TRAINED
        for line in re.split(r"(\n)", visible(piece.text)):
            found.append(line, None if line == "\n" else style)  # no colour to the edge of the terminal
        if between and place + 1 < len(pieces):
            found.append(between, _TRAINED if piece.trained and pieces[place + 1].trained else None)
    return found


def as_html(pieces: Sequence[Piece], between: str = "") -> str:
    found = []
    for place, piece in enumerate(pieces):
        classes = " ".join(name for name in (piece.kind, "trained" * piece.trained) if name != "text" and name)
        text = html.escape(visible(piece.text))
        for mark in _DRAWN:
            text = text.replace(mark, f"<i>{mark}</i>") if mark in text else text
        found.append(f'<span class="{classes}">{text}</span>' if classes else text)
        found.append(between if place + 1 < len(pieces) else "")
    return "".join(found)
